//go:build linux

package patronitest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// network is a switch, in a network namespace of its own, to which machines and this
// process are connected.
type network struct {
	hub    *process
	device string // of this process
	prefix string // of addresses, such as "198.18.7."
}

// newNetwork makes a network that ends with this process.
func newNetwork() (n *network, err error) {
	n = &network{device: fmt.Sprintf("gpt%x", rand.Uint32())}
	if n.prefix, err = freePrefix(); err != nil {
		return nil, err
	}
	if n.hub, err = spawn(exec.Command("unshare", "--net", "--fork", "--kill-child", "sleep", "infinity")); err != nil { //nolint:noctx // close ends it
		return nil, err
	}
	err = errors.Join(
		n.hub.unshared(),
		n.hub.inside("ip", "link", "add", "hub", "type", "bridge"),
		n.hub.inside("ip", "link", "set", "hub", "up"),
		run("ip", "link", "add", n.device, "type", "veth", "peer", "name", "tests", "netns", n.hub.id()),
		run("ip", "address", "add", n.prefix+"254/24", "dev", n.device),
		run("ip", "link", "set", n.device, "up"),
		n.hub.inside("ip", "link", "set", "tests", "master", "hub", "up"),
	)
	if err != nil {
		return nil, errors.Join(err, n.close())
	}
	return n, nil
}

// close removes the network: the kernel removes the devices of a namespace that no process
// is in.
func (n *network) close() error { return n.hub.kill() }

// freePrefix returns a network of 198.18.0.0/15, the range for tests of networks, that no
// device of this machine is in.
func freePrefix() (string, error) {
	used, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for range 1000 {
		prefix := fmt.Sprintf("198.%d.%d.", 18+rand.N(2), rand.N(256))
		taken := false
		for _, a := range used {
			taken = taken || strings.HasPrefix(a.String(), prefix)
		}
		if !taken {
			return prefix, nil
		}
	}
	return "", errors.New("every network of 198.18.0.0/15 is in use")
}

// Machine is a namespace for processes and for the network. Its programs run as the user
// postgres, and end with this process.
type Machine struct {
	Name    string
	Address string // without a port

	network *network
	number  int
	log     string // file with the output of all runs
	command []string
	env     []string
	run     *process // nil while it is off
}

// boot runs the command of a machine as soon as the machine has its network. Its sockets
// are its own. The shell remains, so that the machine outlives the command. It stays root,
// since a process that changes its user would not end with its parent.
const boot = `read _ && mount -t tmpfs -o mode=1777 tmpfs /run/postgresql &&
	{ setpriv --reuid=postgres --regid=postgres --init-groups "$@" </dev/null & wait; }; exec sleep infinity`

// Start switches the machine on.
func (m *Machine) Start() (err error) {
	log, err := os.OpenFile(m.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	ready, network, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	defer network.Close()
	args := append([]string{"--net", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", boot, "sh"}, m.command...)
	cmd := exec.Command("unshare", args...) //nolint:noctx // Kill ends it
	cmd.Env = append(os.Environ(), m.env...)
	cmd.Dir = filepath.Dir(m.log)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = ready, log, log
	if m.run, err = spawn(cmd); err != nil {
		return err
	}
	err = errors.Join(
		m.run.unshared(),
		m.network.hub.inside("ip", "link", "add", m.port(), "type", "veth", "peer", "name", "eth0", "netns", m.run.id()),
		// The hardware address stays the same, so that others need not ask for it again.
		m.run.inside("ip", "link", "set", "eth0", "address", fmt.Sprintf("02:00:00:00:00:%02x", m.number)),
		m.run.inside("ip", "address", "add", m.Address+"/24", "dev", "eth0"),
		m.run.inside("ip", "link", "set", "lo", "up"),
		m.run.inside("ip", "link", "set", "eth0", "up"),
		m.network.hub.inside("ip", "link", "set", m.port(), "master", "hub", "up"),
	)
	if err == nil {
		_, err = network.WriteString("\n")
	}
	if err != nil {
		return errors.Join(err, m.Kill())
	}
	return nil
}

func (m *Machine) port() string { return "port" + strconv.Itoa(m.number) }

// Kill switches the machine off, as a power cut does: no connection is reset. Its files
// remain.
func (m *Machine) Kill() error {
	if m.run == nil {
		return nil
	}
	namespace, err := m.namespace()
	if err != nil {
		return err
	}
	err = errors.Join(m.network.hub.inside("ip", "link", "delete", m.port()), m.run.kill())
	m.run = nil
	for { // the kernel ends the processes after their parent
		pids, err1 := inNamespace(namespace)
		if err = errors.Join(err, err1); err != nil || len(pids) == 0 {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// Crash ends the programs of the machine with SIGKILL. The machine itself remains: it
// resets their connections, and refuses new ones. Kill it before it is started again.
func (m *Machine) Crash() error {
	init, err := os.ReadFile("/proc/" + m.run.id() + "/task/" + m.run.id() + "/children")
	if err != nil {
		return err
	}
	for {
		pids, err := m.processes()
		if err != nil {
			return err
		}
		ended := true
		for _, pid := range pids {
			if id := strconv.Itoa(pid); id == m.run.id() || id == strings.TrimSpace(string(init)) {
				continue
			}
			ended = false
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		if ended {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
}

// Cut lets no packet in or out until Join.
func (m *Machine) Cut() error { return m.state("0") }

// Join ends Cut.
func (m *Machine) Join() error { return m.state("3") }

// state sets whether the switch forwards packets of the machine: 0 is disabled, 3 is
// forwarding.
func (m *Machine) state(state string) error {
	return m.network.hub.inside("bridge", "link", "set", "dev", m.port(), "state", state)
}

// Freeze stops all processes of the machine until Wake.
func (m *Machine) Freeze() error { return m.signal(syscall.SIGSTOP) }

// Wake ends Freeze.
func (m *Machine) Wake() error { return m.signal(syscall.SIGCONT) }

// signal sends a signal to each process of the machine, and again to processes that were
// started in the meantime.
func (m *Machine) signal(s syscall.Signal) error {
	for sent := map[int]bool{}; ; {
		pids, err := m.processes()
		if err != nil {
			return err
		}
		before := len(sent)
		for _, pid := range pids {
			if err := syscall.Kill(pid, s); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
			sent[pid] = true
		}
		if len(sent) == before {
			return nil
		}
	}
}

func (m *Machine) namespace() (string, error) { return os.Readlink("/proc/" + m.run.id() + "/ns/net") }

// processes returns the processes of the machine, all of which this process has started.
func (m *Machine) processes() ([]int, error) {
	namespace, err := m.namespace()
	if err != nil {
		return nil, err
	}
	return inNamespace(namespace)
}

// inNamespace returns the processes in a network namespace.
func inNamespace(namespace string) (pids []int, err error) {
	paths, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		if found, err := os.Readlink(path); err != nil || found != namespace {
			continue // another one's, or it has ended
		}
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// run runs a program of this machine.
func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput() //nolint:noctx // returns immediately
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// process is a running program.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
}

// spawn starts a process that ends with this one, also if this one is killed.
func spawn(cmd *exec.Cmd) (*process, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		defer close(p.ended)
		// The kernel ends the process with the thread that started it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended does not matter
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) id() string { return strconv.Itoa(p.cmd.Process.Pid) }

// unshared waits until the process is in its own network namespace.
func (p *process) unshared() error {
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	for {
		its, err := os.Readlink("/proc/" + p.id() + "/ns/net")
		if err == nil && its != ours {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s has ended: network namespaces need root: %v", p.cmd, p.cmd.ProcessState)
		case <-time.After(time.Millisecond):
		}
	}
}

// inside runs a program in the process's network namespace.
func (p *process) inside(name string, args ...string) error {
	return run("nsenter", append([]string{"--net=/proc/" + p.id() + "/ns/net", name}, args...)...)
}

// kill ends the process and, with it, its namespaces. p may be nil.
func (p *process) kill() error {
	if p == nil {
		return nil
	}
	err := p.cmd.Process.Kill()
	<-p.ended
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}
