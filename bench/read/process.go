package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/ganglion-es/ganglion/bench/gateway/load"
)

// runRole runs what a process does that an experiment started. It returns false if
// args name no role.
func runRole(ctx context.Context, args []string) (isRole bool, err error) {
	switch {
	case len(args) == 6 && args[0] == "node":
		ctx, cancel := untilEOF(ctx, os.Stdin)
		defer cancel()
		return true, runNode(ctx, args[1], args[2], args[3], args[4], args[5])
	case len(args) == 3 && args[0] == "lease":
		ctx, cancel := untilEOF(ctx, os.Stdin)
		defer cancel()
		return true, runLease(ctx, args[1], args[2])
	case len(args) == 4 && args[0] == "clients":
		return true, load.Run(args[1], args[2], args[3], os.Stdin, os.Stdout)
	}
	return false, nil
}

// untilEOF returns a context that ends with in: with the process that holds its other
// end, even if that was killed.
func untilEOF(ctx context.Context, in io.Reader) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	return ctx, cancel
}

// process is a program that an experiment started.
type process struct {
	name   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	stderr bytes.Buffer
}

// start starts this program with a role.
func start(name string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: exec.Command(self, args...)}
	p.cmd.Stderr = &p.stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.in, p.out = in, bufio.NewScanner(out)
	p.out.Buffer(nil, 1<<20)
	return p, p.cmd.Start()
}

// ready waits for a line that begins with prefix and returns the rest of it.
func (p *process) ready(prefix string) (string, error) {
	const within = time.Minute
	timer := time.AfterFunc(within, p.kill)
	defer timer.Stop()
	for p.out.Scan() {
		if rest, ok := strings.CutPrefix(p.out.Text(), prefix); ok {
			return rest, nil
		}
	}
	p.kill()
	_ = p.cmd.Wait()
	return "", fmt.Errorf("%s has ended, or is not ready after %v: %s", p.name, within, p.stderr.String())
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) kill() { _ = p.cmd.Process.Kill() }

// stop asks the program to end, kills it after 5 s, and waits for its end.
func (p *process) stop() {
	_ = p.in.Close()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(5*time.Second, p.kill)
	defer timer.Stop()
	_ = p.cmd.Wait()
}

// do sends an order to clients and returns their report.
func (p *process) do(o load.Order) (r load.Report, err error) {
	if err := json.NewEncoder(p.in).Encode(o); err != nil {
		return r, fmt.Errorf("%s: %w", p.name, err)
	}
	if !p.out.Scan() {
		return r, fmt.Errorf("%s have ended: %w", p.name, errors.Join(p.out.Err(), io.ErrUnexpectedEOF))
	}
	if err := json.Unmarshal(p.out.Bytes(), &r); err != nil {
		return r, fmt.Errorf("%s: %w", p.name, err)
	}
	if r.Error != "" {
		return r, fmt.Errorf("%s: %s", p.name, r.Error)
	}
	return r, nil
}

// fleet are the programs of an experiment.
type fleet []*process

// start starts another role of this program. If prefix is not empty, it waits for the
// line that begins with it, and returns the rest of the line.
func (f *fleet) start(prefix string, args ...string) (p *process, rest string, err error) {
	if p, err = start(args[0]+" "+args[1], args...); err != nil {
		return nil, "", err
	}
	*f = append(*f, p)
	if prefix != "" {
		rest, err = p.ready(prefix)
	}
	return p, rest, err
}

// stop stops all programs, the last one first.
func (f *fleet) stop() {
	for _, p := range slices.Backward(*f) {
		p.stop()
	}
}

// nodeReady precedes the address in a node's first line.
const nodeReady = "ganglion: ready http://"

func freeAddress() (string, error) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}
