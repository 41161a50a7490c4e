// Package harness runs Ganglion processes for tests and benchmarks, and has a
// client that follows the protocol.
package harness

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
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

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest/ports"
	"github.com/ganglion-es/ganglion/node"
)

// readyWithin bounds the time until a process prints its ready line. A process
// needs less than a second, unless the machine is busy.
const readyWithin = 60 * time.Second

// RaceOptions is the value of GORACE for processes with the race detector: they
// end at the first data race, and do not sleep for 1 s before they exit with 0.
const RaceOptions = "halt_on_error=1 atexit_sleep_ms=0"

// Build builds the ganglion binary in dir with the given build tags, and with
// the race detector if race is set. If GANGLION_RACE_BINARY is set, Build returns its
// path instead of a binary with the race detector and without tags: scripts/test.sh
// builds it once for all packages.
func Build(dir string, race bool, tags ...string) (string, error) {
	if built := os.Getenv("GANGLION_RACE_BINARY"); built != "" && race && len(tags) == 0 {
		return built, nil
	}
	binary := filepath.Join(dir, strings.Join(append([]string{"ganglion"}, tags...), "-"))
	return binary, BuildProgram(binary, "./cmd/ganglion", race, "-tags", strings.Join(tags, ","))
}

// BuildProgram builds a program of the root module, or of a module below it, as a binary,
// with further flags of "go build".
func BuildProgram(binary, program string, race bool, flags ...string) error {
	const module = "github.com/ganglion-es/ganglion"
	// Build in the program's own module. A caller outside the workspace, such as bench,
	// requires other versions.
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return fmt.Errorf("go list -m %s: %w", module, err)
	}
	// Linking takes half the time without debug information.
	args := append([]string{"build", "-o", binary, "-ldflags", "-s -w"}, flags...)
	if race {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, ".")...)
	cmd.Dir = filepath.Join(strings.TrimSpace(string(root)), program)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
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

// output keeps the output of a process.
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

// Start runs the binary and waits for the ready lines of its nodes. The process is
// killed at the end of the test, which logs its output if it failed.
func Start(t testing.TB, binary string, nodes int, args ...string) *Node {
	t.Helper()
	n := Spawn(t, binary, args...)
	n.AwaitReady(nodes)
	return n
}

// AwaitReady waits for the ready lines of the nodes of a process, and sets its URLs.
func (n *Node) AwaitReady(nodes int) {
	n.t.Helper()
	deadline := time.After(readyWithin)
	for len(n.URLs) < nodes {
		select {
		case line := <-n.out.lines:
			if _, url, ok := strings.Cut(line, ": ready "); ok { // after the program's name
				n.URLs = append(n.URLs, url)
			}
		case <-n.done:
			n.t.Fatalf("%s ended before it was ready: %v\n%s", n.cmd, n.err, n.out)
		case <-deadline:
			n.t.Fatalf("%s is not ready after %v:\n%s", n.cmd, readyWithin, n.out)
		}
	}
}

// Spawn runs the binary without waiting for a ready line.
func Spawn(t testing.TB, binary string, args ...string) *Node {
	t.Helper()
	n := &Node{t: t, out: &output{lines: make(chan string, 1024)}, done: make(chan struct{})}
	n.cmd = exec.Command(binary, args...)
	n.cmd.Env = append(os.Environ(), "GORACE="+RaceOptions)
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	n.cmd.Stderr = n.out
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() {
		defer close(n.done)
		// The kernel sends Pdeathsig when the thread that started the process ends,
		// so this goroutine keeps its thread during the life of the process. It
		// unlocks the thread at the end, because a goroutine that ends locked ends
		// its thread, which may have started other programs.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
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
			default: // Start has returned
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
		if strings.Contains(out, "DATA RACE") || strings.Contains("\n"+out, "\npanic:") {
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

// Kill ends the process with SIGKILL and waits until it has ended.
func (n *Node) Kill() {
	_ = n.cmd.Process.Kill() // it may have ended already
	<-n.done
}

// Signal sends a signal.
func (n *Node) Signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.t.Fatalf("signal %v: %v", s, err)
	}
}

// Wait waits until the process has ended and returns its exit status.
func (n *Node) Wait() int {
	n.t.Helper()
	select {
	case <-n.done:
	case <-time.After(readyWithin):
		n.t.Fatalf("the process does not end:\n%s", n.out)
	}
	return n.cmd.ProcessState.ExitCode()
}

// Output returns the output of the process so far.
func (n *Node) Output() string { return n.out.String() }

// Running reports whether the process is running.
func (n *Node) Running() bool {
	select {
	case <-n.done:
		return false
	default:
		return true
	}
}

// HTTP is a client that keeps no idle connections.
var HTTP = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// Status returns a node's view of the cluster.
func Status(url string) (node.ClusterStatus, error) {
	var s node.ClusterStatus
	resp, err := HTTP.Get(url + "/v1/cluster")
	if err != nil {
		return s, err
	}
	defer resp.Body.Close()
	return s, json.NewDecoder(resp.Body).Decode(&s)
}

// Eventually calls condition until it returns nil: first every 20 ms, later every
// 100 ms, since calls take processor time from the nodes that they wait for. The test
// fails with the last error after a minute and at least 100 calls, which take longer
// than a minute on a busy machine.
func Eventually(t testing.TB, what string, condition func() error) {
	t.Helper()
	const atLeast = 100 // times
	var err error
	deadline := time.Now().Add(time.Minute)
	pause := 20 * time.Millisecond
	for times := 0; times < atLeast || time.Now().Before(deadline); times++ {
		if times > 0 {
			time.Sleep(pause)
			pause = min(pause*5/4, 100*time.Millisecond)
		}
		if err = condition(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// FreePorts returns the first of n consecutive ports of 127.0.0.1, for servers that
// must know their port before they start, or keep it when they start again. No
// other test gets them.
func FreePorts(t testing.TB, n int) int {
	t.Helper()
	first, err := ports.Reserve(n)
	if err != nil {
		t.Fatal(err)
	}
	return first
}

// FreeAddress returns 127.0.0.1 with a port of FreePorts.
func FreeAddress(t testing.TB) string {
	t.Helper()
	return fmt.Sprint("127.0.0.1:", FreePorts(t, 1))
}
