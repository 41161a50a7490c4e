package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/transfer"
	"github.com/ganglion-es/ganglion/node"
)

// unfinishedError is a command that a signal ended before its work was done.
// Unlike a node, which has then done its work, it has failed.
type unfinishedError struct{ error }

// unfinished makes an unfinishedError of what a command ended with, if that was
// a signal; advice says what to do.
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

func exportCommand(l *logging) *cobra.Command {
	c := exportCmd{File: "-"}
	cmd := &cobra.Command{
		Use:   "export [FILE]",
		Short: "Write a log to a file, as JSON lines.",
		Long:  "Write a log to FILE, as JSON lines; without FILE, or with -, to standard output. May run beside nodes.",
		Example: `  ganglion export --store ./ganglion-data log.jsonl
  ganglion export --store postgres://ganglion@db/ganglion | zstd >log.zst`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				c.File = args[0]
			}
			return c.run(cmd.Context(), l.logger())
		},
	}
	f := cmd.Flags()
	c.storeFlags.addTo(f)
	fromEnvironment(f)
	f.Uint64Var(&c.After, "after", 0, "Begin after this `POSITION` instead of at the beginning.")
	f.BoolVar(&c.Resume, "resume", false, "Continue FILE: an export that was interrupted, or an older one.")
	cmd.MarkFlagsMutuallyExclusive("after", "resume")
	return cmd
}

func (c exportCmd) run(ctx context.Context, log *slog.Logger) error {
	if c.Resume && c.File == "-" {
		return usagef("--resume continues a file: name it")
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
	p.end()
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

// write writes the file. What it holds is on the disk when there is no error.
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
		return res, usagef("%s is there already: continue it with --resume, or name another file", c.File)
	case err != nil:
		return res, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if c.Resume {
		place, err := transfer.Resume(file)
		if err != nil {
			return res, fmt.Errorf("%s: %w", c.File, err)
		}
		if err := file.Truncate(place.Offset); err != nil {
			return res, err
		}
		if _, err := file.Seek(place.Offset, io.SeekStart); err != nil {
			return res, err
		}
		e.Resume = &place
	}
	if res, err = e.Run(ctx, store, file); err != nil {
		return res, err
	}
	return res, file.Sync()
}

type importCmd struct {
	storeFlags
	File   string
	KeepID bool
}

func importCommand(l *logging) *cobra.Command {
	var c importCmd
	cmd := &cobra.Command{
		Use:     "import FILE",
		Short:   "Read an exported log into another one.",
		Long:    "Read an exported log into another one; - is standard input. Interrupted, the same command goes on where it was.",
		Example: `  ganglion import --store postgres://ganglion@db/ganglion --keep-id log.jsonl`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.File = args[0]
			return c.run(cmd.Context(), l.logger())
		},
	}
	f := cmd.Flags()
	c.storeFlags.addTo(f)
	fromEnvironment(f)
	f.BoolVar(&c.KeepID, "keep-id", false, "Give the log the id of the exported one, so that clients' cursors stay good. For a log that is empty, when the exported one is never written to again.")
	return cmd
}

func (c importCmd) run(ctx context.Context, log *slog.Logger) error {
	in, size, err := c.read()
	if err != nil {
		return err
	}
	defer in.Close()
	store, err := c.openNew(ctx, log)
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
	p.end()
	if err != nil {
		return unfinished(ctx, err, fmt.Sprintf("the log ends at position %d; the same command goes on from there", res.Head))
	}
	fmt.Printf("log %s: imported %d events in %d commits, up to position %d\n", res.Log, res.Events, res.Commits, res.Head)
	return nil
}

// read opens the file, and tells its size in bytes if that is known.
func (c importCmd) read() (file *os.File, size int64, err error) {
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

// counted counts what is read.
type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// openNew opens a log, and makes it if it is not there.
func (f storeFlags) openNew(ctx context.Context, log *slog.Logger) (node.Store, error) {
	return f.openWith(ctx, node.StoreConfig{Logger: log})
}

// open opens a log that is there.
func (f storeFlags) open(ctx context.Context, log *slog.Logger) (node.Store, error) {
	if err := f.exists(); err != nil {
		return nil, err
	}
	return f.openNew(ctx, log)
}

// openToRead opens a log that is there, also an embedded one that another
// process has open.
func (f storeFlags) openToRead(ctx context.Context, log *slog.Logger) (node.Store, error) {
	if err := f.exists(); err != nil {
		return nil, err
	}
	return f.openWith(ctx, node.StoreConfig{ReadOnly: true, Logger: log})
}

func (f storeFlags) openWith(ctx context.Context, cfg node.StoreConfig) (_ node.Store, err error) {
	cfg.URL = f.Store
	if cfg.Password, err = f.password(); err != nil {
		return nil, err
	}
	return node.OpenStore(ctx, cfg)
}

// exists refuses a folder that is not there: opening it would make an empty log.
func (f storeFlags) exists() error {
	if strings.Contains(f.Store, "://") {
		return nil
	}
	if _, err := os.Stat(f.Store); err != nil {
		return usagef("there is no log at %s", f.Store)
	}
	return nil
}
