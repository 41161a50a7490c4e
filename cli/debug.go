package cli

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/node/operator"
)

// debugParallel is how many nodes are asked at a time. Each node's files are in
// memory until they are written.
const debugParallel = 4

type debugCmd struct {
	operatorFlags
	Output  string
	Timeout time.Duration
}

func debugCommand(p *program) *cobra.Command {
	var c debugCmd
	cmd := &cobra.Command{
		Use:   "debug",
		Short: "Collect diagnostics of all nodes into one archive",
		Long: `Collect diagnostics of all nodes into one .tar.gz archive.
It contains the members as the node at --url sees them, and for each node its readiness, /v1/cluster, metrics, newest log lines, goroutines and heap profile.
Passwords, keys and tokens are removed. For a node that does not answer it contains error.txt instead.`,
		Example: `  ganglion debug --url http://n1:8080
  ganglion debug --output incident.tar.gz --peer-tls-cert operator.pem --peer-tls-key operator.key --peer-tls-ca ca.pem`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), p.logger()) },
	}
	f := cmd.Flags()
	c.operatorFlags.addTo(f)
	fromEnvironment(f)
	f.StringVar(&c.Output, "output", "", "`FILE` to write, which must not exist; - is standard output (default ganglion-debug-TIME.tar.gz)")
	f.DurationVar(&c.Timeout, "timeout", 30*time.Second, "time limit for each node")
	return cmd
}

func (c debugCmd) run(ctx context.Context, log *slog.Logger) error {
	if c.Timeout <= 0 {
		return usagef("--timeout is %v: it must be positive", c.Timeout)
	}
	op, err := operator.New(c.PeerTLS, log)
	if err != nil {
		return usageError{err}
	}
	status, err := c.cluster(ctx, "")
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	folder := "ganglion-debug-" + now.Format("20060102T150405Z")
	name := cmp.Or(c.Output, folder+".tar.gz")
	if name == "-" {
		return c.gather(ctx, op, status, newArchive(os.Stdout, folder, now))
	}
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return usagef("%s exists: choose another --output", name)
	}
	if err != nil {
		return err
	}
	err = errors.Join(c.gather(ctx, op, status, newArchive(out, folder, now)), out.Close())
	if err != nil {
		return errors.Join(err, os.Remove(name))
	}
	fmt.Println(filepath.Clean(name))
	return nil
}

// archive writes a .tar.gz file with one folder. It is safe for concurrent use.
type archive struct {
	folder string
	now    time.Time
	zip    *gzip.Writer

	mu  sync.Mutex
	tar *tar.Writer
	err error // the first one
}

func newArchive(out io.Writer, folder string, now time.Time) *archive {
	zip := gzip.NewWriter(out)
	return &archive{folder: folder, now: now, zip: zip, tar: tar.NewWriter(zip)}
}

func (a *archive) add(name string, data []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.err = a.tar.WriteHeader(&tar.Header{Name: path.Join(a.folder, name), Mode: 0o600, Size: int64(len(data)), ModTime: a.now})
	}
	if a.err == nil {
		_, a.err = a.tar.Write(data)
	}
}

// close completes the archive. It returns the first error of any method.
func (a *archive) close() error { return errors.Join(a.err, a.tar.Close(), a.zip.Close()) }

// asked is a node and its answer.
type asked struct {
	id, addr string
	lost     string // which node lost it and when, for error messages; "" for a member
	files    []operator.DebugFile
	err      error
}

// gather asks all nodes, including lost ones: perhaps only the node at --url has
// lost them.
func (c debugCmd) gather(ctx context.Context, op *operator.Client, status node.ClusterStatus, to *archive) error {
	var nodes []*asked
	for _, m := range status.Members {
		nodes = append(nodes, &asked{id: m.ID, addr: m.Peer})
	}
	for _, l := range status.Lost {
		nodes = append(nodes, &asked{id: l.ID, addr: l.Peer, lost: fmt.Sprintf("%s lost it %s ago; ", status.Node, age(l.LostSeconds))})
	}
	var table bytes.Buffer
	if err := printMembers(&table, status); err != nil {
		return err
	}
	to.add("members.txt", table.Bytes())

	var asking errgroup.Group
	asking.SetLimit(debugParallel)
	for _, n := range nodes {
		asking.Go(func() error {
			n.ask(ctx, op, c.Timeout)
			for _, f := range n.files {
				to.add(path.Join(n.id, f.Name), f.Data)
			}
			if n.err != nil {
				to.add(path.Join(n.id, "error.txt"), []byte(n.lost+sentence(n.err)+"\n"))
			}
			n.files = nil
			return nil
		})
	}
	_ = asking.Wait() // errors are in nodes
	if ctx.Err() != nil {
		return unfinishedError{errors.New("interrupted: no archive was written")}
	}
	for _, n := range nodes {
		if n.err != nil {
			fmt.Fprintf(os.Stderr, "%s: %s%s\n", n.id, n.lost, sentence(n.err))
		}
	}
	return to.close()
}

func (n *asked) ask(ctx context.Context, op *operator.Client, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if strings.Trim(n.id, ".") == "" || strings.ContainsAny(n.id, `/\`) { // the name becomes a folder
		n.id, n.err = "unnamed", fmt.Errorf("%q is not a valid node name", n.id)
		return
	}
	if n.addr == "" {
		n.err = errors.New("it announces no address for peers")
		return
	}
	n.files, n.err = op.Debug(ctx, n.addr)
}
