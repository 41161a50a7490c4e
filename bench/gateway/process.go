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

// processors returns those that this process may use.
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

// become turns this process into another program that runs on some processors
// only. A thread's processors are kept over exec(2), and the new program has
// no other threads yet.
func become(cpus string, args []string) error {
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

// giveWay turns this process into itself in another role, with a lower
// priority, so that it takes no processor from what is measured.
func giveWay(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // a priority is a thread's, and kept over exec(2) as processors are
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

// process is a program that runs on processors of its own choice.
type process struct {
	name  string
	cmd   *exec.Cmd
	in    io.WriteCloser
	lines *bufio.Scanner
	said  bytes.Buffer          // on standard error
	done  chan *os.ProcessState // how it ended
}

// startWithin bounds how long a program takes until it is ready.
const startWithin = 30 * time.Second

// start starts a program; cpus says where.
func start(name string, cpus []int, program string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{name: name, done: make(chan *os.ProcessState, 1)}
	p.cmd = exec.Command(self, append([]string{"on", joined(cpus), program}, args...)...)
	p.cmd.Stderr = &p.said
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
		runtime.LockOSThread() // which the signal of death is tied to
		if err := p.cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		how, _ := p.cmd.Process.Wait() // not cmd.Wait: it would close what is still being read
		p.done <- how
	}()
	return p, <-started
}

// ready waits for the line that says where the program serves.
func (p *process) ready(prefix string) (string, error) {
	timer := time.AfterFunc(startWithin, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	for p.lines.Scan() {
		if rest, ok := strings.CutPrefix(p.lines.Text(), prefix); ok {
			return rest, nil
		}
	}
	return "", fmt.Errorf("%s is not ready after %v: %s", p.name, startWithin, tail(p.said.String()))
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

// lastWords says how the program ended, if it did, and what it said.
func (p *process) lastWords() string {
	state := "is running"
	select {
	case how := <-p.done:
		p.done <- how // stop waits for it too
		state = "has ended: " + how.String()
	default:
	}
	said := tail(p.said.String())
	if said == "" {
		said = "nothing"
	}
	return fmt.Sprintf("; %s %s, and said: %s", p.name, state, said)
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop ends the program, which gets a moment to do so by itself.
func (p *process) stop() {
	_ = p.in.Close()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	timer := time.AfterFunc(3*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	for p.lines.Scan() { // so that it never waits for us
	}
	<-p.done
}

// do has a load process carry out an order.
func (p *process) do(o load.Order) (load.Report, error) {
	var r load.Report
	if err := json.NewEncoder(p.in).Encode(o); err != nil {
		return r, fmt.Errorf("%s: %w: %s", p.name, err, tail(p.said.String()))
	}
	if !p.lines.Scan() {
		return r, fmt.Errorf("%s has ended: %s", p.name, tail(p.said.String()))
	}
	if err := json.Unmarshal(p.lines.Bytes(), &r); err != nil {
		return r, fmt.Errorf("%s: %w", p.name, err)
	}
	if r.Error != "" {
		return r, fmt.Errorf("%s: %s", p.name, r.Error)
	}
	return r, nil
}

// resident returns the memory of a process that is in RAM, in bytes.
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
