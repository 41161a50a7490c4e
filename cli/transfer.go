package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/transfer"
	"github.com/ganglion-es/ganglion/node"
)

// unfinishedError is a failure even after a signal: the command ended before its
// work was done. A node that a signal stops has succeeded.
type unfinishedError struct{ error }

// unfinished returns err, or, if a signal ended the command, an unfinishedError
// that says what to do next.
func unfinished(ctx context.Context, err error, advice string) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	return unfinishedError{errors.New("interrupted: " + advice)}
}

type exportCmd struct {
	storeFlags
	File   string
	After  uint64
	Resume bool
}

func exportCommand(p *program) *cobra.Command {
	c := exportCmd{File: "-"}
	cmd := &cobra.Command{
		Use:   "export [FILE]",
		Short: "Export a log as JSON lines",
		Long:  "Export a log to FILE as JSON lines. If FILE is missing or -, write to standard output. Nodes can keep running.",
		Example: `  ganglion export --store ./ganglion-data log.jsonl
  ganglion export --store postgres://ganglion@db/ganglion | zstd >log.zst`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				c.File = args[0]
			}
			return c.run(cmd.Context(), p.logger())
		},
	}
	f := cmd.Flags()
	c.storeFlags.addTo(f)
	fromEnvironment(f)
	f.Uint64Var(&c.After, "after", 0, "start after this `POSITION` (default the beginning)")
	f.BoolVar(&c.Resume, "resume", false, "continue FILE, an interrupted or older export")
	cmd.MarkFlagsMutuallyExclusive("after", "resume")
	return cmd
}

func (c exportCmd) run(ctx context.Context, log *slog.Logger) error {
	if c.Resume && c.File == "-" {
		return usagef("--resume needs the name of the file to continue")
	}
	store, err := c.openToRead(ctx, log)
	if err != nil {
		return err
	}
	defer store.Close()
	e := transfer.Export{After: eventstore.Position(c.After)}
	p := newProgress("export", "positions")
	e.Progress = func(at, head eventstore.Position) { p.set(int64(at), int64(head)) }
	res, err := c.write(ctx, store, e)
	p.finish()
	if err != nil {
		return unfinished(ctx, err, "continue with --resume")
	}
	out := os.Stdout
	if c.File == "-" {
		out = os.Stderr
	}
	fmt.Fprintf(out, "log %s: exported %d events in %d commits, up to position %d\n", res.Log, res.Events, res.Commits, res.Head)
	return nil
}

// write writes the file. If it returns no error, the content is on disk.
func (c exportCmd) write(ctx context.Context, store node.Store, e transfer.Export) (res transfer.Result, err error) {
	if c.File == "-" {
		return e.Run(ctx, store, os.Stdout)
	}
	flags := os.O_CREATE | os.O_EXCL | os.O_WRONLY
	if c.Resume {
		flags = os.O_RDWR
	}
	file, err := os.OpenFile(c.File, flags, 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return res, usagef("%s exists: continue it with --resume, or name another file", c.File)
	case err != nil:
		return res, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if c.Resume {
		res, err = e.Resume(ctx, store, file)
	} else {
		res, err = e.Run(ctx, store, file)
	}
	if invalid := new(transfer.FileError); errors.As(err, &invalid) {
		err = fmt.Errorf("%s: %w", c.File, err)
	}
	if err != nil {
		return res, err
	}
	return res, file.Sync()
}

type importCmd struct {
	storeFlags
	File   string
	KeepID bool
}

func importCommand(p *program) *cobra.Command {
	var c importCmd
	cmd := &cobra.Command{
		Use:     "import FILE",
		Short:   "Import an exported log",
		Long:    "Import an exported log from FILE; - is standard input. After an interruption, run the same command again: it continues where it stopped.",
		Example: `  ganglion import --store postgres://ganglion@db/ganglion --keep-id log.jsonl`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.File = args[0]
			return c.run(cmd.Context(), p.logger())
		},
	}
	f := cmd.Flags()
	c.storeFlags.addTo(f)
	fromEnvironment(f)
	f.BoolVar(&c.KeepID, "keep-id", false, "keep the log's id, so clients' cursors stay valid; only into an empty log, and only if the exported log is never written again")
	return cmd
}

func (c importCmd) run(ctx context.Context, log *slog.Logger) error {
	in, size, err := c.open()
	if err != nil {
		return err
	}
	defer in.Close()
	store, err := c.openOrCreate(ctx, log)
	if err != nil {
		return err
	}
	defer store.Close()

	p := newProgress("import", "positions")
	if size > 0 {
		p = newProgress("import", "bytes")
	}
	bytes := &counted{r: in}
	res, err := transfer.Import{
		KeepID: c.KeepID,
		Progress: func(at eventstore.Position) {
			if size > 0 {
				p.set(bytes.n, size)
				return
			}
			p.set(int64(at), 0)
		},
	}.Run(ctx, store, bytes)
	p.finish()
	if err != nil {
		return unfinished(ctx, err, fmt.Sprintf("the log ends at position %d; the same command continues from there", res.Head))
	}
	fmt.Printf("log %s: imported %d events in %d commits, up to position %d\n", res.Log, res.Events, res.Commits, res.Head)
	return nil
}

// open opens the file and returns its size in bytes, 0 if unknown.
func (c importCmd) open() (file *os.File, size int64, err error) {
	if c.File == "-" {
		return os.Stdin, 0, nil
	}
	if file, err = os.Open(c.File); err != nil {
		var path *fs.PathError
		if errors.As(err, &path) {
			err = usagef("can't read %s: %w", c.File, path.Err)
		}
		return nil, 0, err
	}
	if info, err := file.Stat(); err == nil && info.Mode().IsRegular() {
		size = info.Size()
	}
	return file, size, nil
}

// counted counts bytes as they are read.
type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
