package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

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

// process is another role of this program, which the benchmark started.
type process struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	stderr bytes.Buffer
	url    string // for clients
}

// roleReady precedes the address in the first line of a role.
const roleReady = "ready "

// startRole starts a role of this program and waits until it is ready. Stop it.
func startRole(role string, args ...string) (*process, error) {
	const within = time.Minute
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: ownGroup(exec.Command(self, append([]string{role}, args...)...))}
	p.cmd.Stderr = &p.stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	timer := time.AfterFunc(within, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if url, ok := strings.CutPrefix(lines.Text(), roleReady); ok {
			p.url = url
			return p, nil
		}
	}
	p.stop()
	return nil, fmt.Errorf("the %s has ended, or is not ready after %v: %s", role, within, p.stderr.String())
}

// stop asks the process to end and waits for its end.
func (p *process) stop() {
	_ = p.in.Close()
	stopCommand(p.cmd)
}

// ownGroup makes a command the leader of a process group, for stopCommand. A signal
// from the terminal does not reach the group.
func ownGroup(cmd *exec.Cmd) *exec.Cmd {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// stopCommand asks a command of ownGroup to end, kills its group after 20 s, and waits
// for its end.
func stopCommand(cmd *exec.Cmd) {
	_ = cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(20*time.Second, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	_ = cmd.Wait()
}
