package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ganglion-es/ganglion/bench/gateway/load"
)

// processors returns the processors that this process may use.
func processors() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("processors: %w", err)
	}
	var list []int
	for i := 0; len(list) < set.Count(); i++ {
		if set.IsSet(i) {
			list = append(list, i)
		}
	}
	return list, nil
}

// pinTo replaces this process with a program that runs on the given processors
// only. A thread keeps its processors across exec(2), and the new program
// starts with this thread alone.
func pinTo(cpus string, args []string) error {
	runtime.LockOSThread()
	var set unix.CPUSet
	for s := range strings.SplitSeq(cpus, ",") {
		cpu, err := strconv.Atoi(s)
		if err != nil {
			return fmt.Errorf("processor %q: %w", s, err)
		}
		set.Set(cpu)
	}
	if err := unix.SchedSetaffinity(0, &set); err != nil {
		return fmt.Errorf("processors %s: %w", cpus, err)
	}
	return syscall.Exec(args[0], args, os.Environ())
}

// lowerPriority replaces this process with another role of the same program at
// a lower priority, so that it does not slow down the measured one.
func lowerPriority(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // a thread keeps its priority across exec(2)
	const low = 10
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, low); err != nil {
		return fmt.Errorf("priority: %w", err)
	}
	return syscall.Exec(self, append([]string{self}, args...), os.Environ())
}

func joined(cpus []int) string {
	list := make([]string, len(cpus))
	for i, c := range cpus {
		list[i] = strconv.Itoa(c)
	}
	return strings.Join(list, ",")
}

// process is a running program.
type process struct {
	name   string
	cmd    *exec.Cmd
	in     io.WriteCloser
	lines  *bufio.Scanner
	stderr bytes.Buffer
	done   chan *os.ProcessState // gets the state when the process has ended
}

// startWithin bounds the time until a program is ready.
const startWithin = 30 * time.Second

// start starts a program on the given processors.
func start(name string, cpus []int, program string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{name: name, done: make(chan *os.ProcessState, 1)}
	p.cmd = exec.Command(self, append([]string{"on", joined(cpus), program}, args...)...)
	p.cmd.Stderr = &p.stderr
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.lines = bufio.NewScanner(out)
	p.lines.Buffer(nil, 1<<20)
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig is sent when this thread ends
		defer runtime.UnlockOSThread()
		if err := p.cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		state, _ := p.cmd.Process.Wait() // not cmd.Wait: it would close the output before it is read
		p.done <- state
	}()
	return p, <-started
}

// ready waits for the line with the program's address, which follows prefix.
func (p *process) ready(prefix string) (string, error) {
	timer := time.AfterFunc(startWithin, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	for p.lines.Scan() {
		if rest, ok := strings.CutPrefix(p.lines.Text(), prefix); ok {
			return rest, nil
		}
	}
	return "", fmt.Errorf("%s is not ready after %v: %s", p.name, startWithin, tail(p.stderr.String()))
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

// status describes the state of the program and the end of its output.
func (p *process) status() string {
	status := "is running"
	select {
	case state := <-p.done:
		p.done <- state // stop waits for it too
		status = "has ended: " + state.String()
	default:
	}
	return fmt.Sprintf("; %s %s; standard error: %q", p.name, status, tail(p.stderr.String()))
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop asks the program to end, and kills it after 3 s.
func (p *process) stop() {
	_ = p.in.Close()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(3*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	for p.lines.Scan() { // an unread pipe would block it
	}
	<-p.done
}

// do sends an order to a load process and returns its report.
func (p *process) do(o load.Order) (load.Report, error) {
	var r load.Report
	if err := json.NewEncoder(p.in).Encode(o); err != nil {
		return r, fmt.Errorf("%s: %w: %s", p.name, err, tail(p.stderr.String()))
	}
	if !p.lines.Scan() {
		return r, fmt.Errorf("%s has ended: %s", p.name, tail(p.stderr.String()))
	}
	if err := json.Unmarshal(p.lines.Bytes(), &r); err != nil {
		return r, fmt.Errorf("%s: %w", p.name, err)
	}
	if r.Error != "" {
		return r, fmt.Errorf("%s: %s", p.name, r.Error)
	}
	return r, nil
}

// resident returns the resident memory of a process in bytes.
func resident(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0, errors.New("/proc has no statm")
	}
	pages, err := strconv.Atoi(string(f[1]))
	return pages * os.Getpagesize(), err
}
