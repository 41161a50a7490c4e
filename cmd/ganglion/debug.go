package main

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

	"github.com/ganglion-es/ganglion/node"
)

// debugAtOnce bounds the nodes that are asked at the same time: what each sends
// is held in memory until it is written.
const debugAtOnce = 4

type debugCmd struct {
	operatorFlags
	Output  string
	Timeout time.Duration
}

func debugCommand(l *logging) *cobra.Command {
	var c debugCmd
	cmd := &cobra.Command{
		Use:   "debug",
		Short: "Gather what tells how the nodes are doing into one archive.",
		Long: `Gather what tells how the nodes are doing into one archive, a .tar.gz.
It has the members as the asked node sees them, and of each node its readiness, /v1/cluster, metrics, newest log lines, goroutines and heap profile.
Passwords, keys and tokens are left out. A node that does not answer has a file error.txt instead.`,
		Example: `  ganglion debug --url http://n1:8080
  ganglion debug --output incident.tar.gz --peer-tls-cert operator.pem --peer-tls-key operator.key --peer-tls-ca ca.pem`,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context(), l.logger()) },
	}
	f := cmd.Flags()
	c.operatorFlags.addTo(f)
	fromEnvironment(f)
	f.StringVar(&c.Output, "output", "", "The `FILE` to write, which must not be there; - is standard output. ganglion-debug-TIME.tar.gz if not given.")
	f.DurationVar(&c.Timeout, "timeout", 30*time.Second, "How long a node may take.")
	return cmd
}

func (c debugCmd) run(ctx context.Context, log *slog.Logger) error {
	if c.Timeout <= 0 {
		return usagef("--timeout is %v: it must be more than 0", c.Timeout)
	}
	op, err := node.NewOperator(c.PeerTLS, log)
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
		return c.gather(ctx, op, status, os.Stdout, folder, now)
	}
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return usagef("%s is there already: choose another --output", name)
	}
	if err != nil {
		return err
	}
	err = errors.Join(c.gather(ctx, op, status, out, folder, now), out.Close())
	if err != nil {
		return errors.Join(err, os.Remove(name))
	}
	fmt.Println(filepath.Clean(name))
	return nil
}

// asked is a node, and what came of asking it.
type asked struct {
	id, addr string
	lost     string // what the asked node said of it, empty for members
	files    []node.DebugFile
	err      error
}

// gather asks all nodes, also lost ones: only the node at --url may have lost
// them.
func (c debugCmd) gather(ctx context.Context, op *node.Operator, status node.ClusterStatus, out io.Writer, folder string, now time.Time) error {
	var nodes []*asked
	for _, m := range status.Members {
		nodes = append(nodes, &asked{id: m.ID, addr: m.Peer})
	}
	for _, l := range status.Lost {
		nodes = append(nodes, &asked{id: l.ID, addr: l.Peer, lost: fmt.Sprintf("%s lost it %s ago; ", status.Node, age(l.LostSeconds))})
	}
	zip := gzip.NewWriter(out)
	archive := tar.NewWriter(zip)
	var writing sync.Mutex
	var failed error
	add := func(name string, data []byte) {
		header := tar.Header{Name: path.Join(folder, name), Mode: 0o600, Size: int64(len(data)), ModTime: now}
		if failed == nil {
			failed = archive.WriteHeader(&header)
		}
		if failed == nil {
			_, failed = archive.Write(data)
		}
	}
	var table bytes.Buffer
	if err := printMembers(&table, status); err != nil {
		return err
	}
	add("members.txt", table.Bytes())

	var asking sync.WaitGroup
	turns := make(chan struct{}, debugAtOnce)
	for _, n := range nodes {
		asking.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			n.ask(ctx, op, c.Timeout)
			writing.Lock()
			defer writing.Unlock()
			for _, f := range n.files {
				add(path.Join(n.id, f.Name), f.Data)
			}
			if n.err != nil {
				add(path.Join(n.id, "error.txt"), []byte(n.lost+sentence(n.err)+"\n"))
			}
			n.files = nil
		})
	}
	asking.Wait()
	if ctx.Err() != nil {
		return unfinishedError{errors.New("interrupted: no archive was written")}
	}
	for _, n := range nodes {
		if n.err != nil {
			fmt.Fprintf(os.Stderr, "%s: %s%s\n", n.id, n.lost, sentence(n.err))
		}
	}
	return errors.Join(failed, archive.Close(), zip.Close())
}

func (n *asked) ask(ctx context.Context, op *node.Operator, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if strings.Trim(n.id, ".") == "" || strings.ContainsAny(n.id, `/\`) { // a name becomes a folder
		n.id, n.err = "unnamed", fmt.Errorf("%q is no name of a node", n.id)
		return
	}
	if n.addr == "" {
		n.err = errors.New("it has no address for peers")
		return
	}
	n.files, n.err = op.Debug(ctx, n.addr)
}
