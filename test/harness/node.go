// Package harness runs real Ganglion processes for tests and benchmarks, and
// talks to them as a client does that follows the protocol.
package harness

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/node"
)

// readyWithin is how long a process has until its ready line; a fresh one
// takes well under a second, but machines are busy.
const readyWithin = 60 * time.Second

// Build builds the binary into a folder of the test process's own; with the
// race detector when race is set.
// Tags are those of the build.
func Build(dir string, race bool, tags ...string) (string, error) {
	binary := filepath.Join(dir, strings.Join(append([]string{"ganglion"}, tags...), "-"))
	args := []string{"build", "-o", binary, "-tags", strings.Join(tags, ",")}
	if race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "github.com/ganglion-es/ganglion/cmd/ganglion")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
}

// Node is a running process.
type Node struct {
	URLs []string // from its ready lines

	t    testing.TB
	cmd  *exec.Cmd
	out  *output
	done chan struct{}
	err  error
}

// output keeps what a process wrote.
type output struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	lines chan string
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Start runs the binary and waits for as many ready lines as there are nodes
// in it. The process is killed at the end of the test, and its output shown
// when the test failed.
func Start(t testing.TB, binary string, nodes int, args ...string) *Node {
	t.Helper()
	n := Spawn(t, binary, args...)
	deadline := time.After(readyWithin)
	for len(n.URLs) < nodes {
		select {
		case line := <-n.out.lines:
			if url, ok := strings.CutPrefix(line, "ganglion: ready "); ok {
				n.URLs = append(n.URLs, url)
			}
		case <-n.done:
			t.Fatalf("ganglion %s ended before it was ready: %v\n%s", strings.Join(args, " "), n.err, n.out)
		case <-deadline:
			t.Fatalf("ganglion %s is not ready after %v:\n%s", strings.Join(args, " "), readyWithin, n.out)
		}
	}
	return n
}

// Spawn runs the binary and waits for nothing.
func Spawn(t testing.TB, binary string, args ...string) *Node {
	t.Helper()
	n := &Node{t: t, out: &output{lines: make(chan string, 1024)}, done: make(chan struct{})}
	n.cmd = exec.Command(binary, args...)
	n.cmd.Env = append(os.Environ(), "GORACE=halt_on_error=1")
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	n.cmd.Stderr = n.out
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() {
		defer close(n.done)
		// The death signal follows the thread that started the process, so
		// this goroutine keeps its thread for as long as the process lives.
		runtime.LockOSThread()
		err := n.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			fmt.Fprintln(n.out, lines.Text())
			select {
			case n.out.lines <- lines.Text():
			default: // nobody waits for more
			}
		}
		n.err = n.cmd.Wait()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.Kill()
		out := n.out.String()
		if strings.Contains(out, "DATA RACE") || strings.Contains(out, "panic:") {
			t.Errorf("ganglion %s:\n%s", strings.Join(args, " "), out)
		} else if t.Failed() {
			t.Logf("ganglion %s:\n%s", strings.Join(args, " "), tail(out, 60))
		}
	})
	return n
}

func tail(s string, lines int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Kill ends the process at once, as kill -9 does, and waits for its end.
func (n *Node) Kill() {
	_ = n.cmd.Process.Kill() // it may have ended
	<-n.done
}

// Signal sends a signal.
func (n *Node) Signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.t.Fatalf("signal %v: %v", s, err)
	}
}

// Wait waits for the end of the process and returns its exit code.
func (n *Node) Wait() int {
	n.t.Helper()
	select {
	case <-n.done:
	case <-time.After(readyWithin):
		n.t.Fatalf("the process does not end:\n%s", n.out)
	}
	return n.cmd.ProcessState.ExitCode()
}

// Output is everything the process has written so far.
func (n *Node) Output() string { return n.out.String() }

// Running tells whether the process still runs.
func (n *Node) Running() bool {
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// HTTP is a client that leaves no connection behind.
var HTTP = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// Status asks a node for its view of the cluster.
func Status(url string) (node.ClusterStatus, error) {
	var s node.ClusterStatus
	resp, err := HTTP.Get(url + "/v1/cluster")
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// Eventually waits until condition holds, asking again and again; when it
// still does not after a minute, the test ends with what it said last. On a
// machine that is so busy that it was hardly asked by then, it is asked on.
func Eventually(t testing.TB, what string, condition func() error) {
	t.Helper()
	const atLeast = 100 // times
	var err error
	deadline := time.Now().Add(time.Minute)
	for times := 0; times < atLeast || time.Now().Before(deadline); times++ {
		if times > 0 {
			time.Sleep(20 * time.Millisecond)
		}
		if err = condition(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// FreePort returns a TCP port that was free a moment ago.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
