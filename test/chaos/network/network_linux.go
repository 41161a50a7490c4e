package network

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// mtu is large, so that few packets pass through this process.
	mtu = 65000
	// maxLate bounds the delayed packets of one direction of a pair. Past it packets
	// are dropped, as by a router with a full queue.
	maxLate = 4096
	// firstHost is the last byte of the first namespace's address. Lower ones are
	// addresses of this process's namespace.
	firstHost = 10
)

// Network is a set of hosts. It is safe for concurrent use.
type Network struct {
	subnet [3]byte
	hosts  map[string]byte // last byte of the address, by name
	places map[string]*place
	ports  [256]*os.File
	wires  [256][256]atomic.Pointer[wire] // by sender and receiver; nil forwards

	stop chan struct{}
	work sync.WaitGroup
}

// place is a thread in a namespace.
type place struct{ calls chan func() }

// wire is a direction of a pair with a rule.
type wire struct {
	rule Rule
	late chan late // nil without a delay
	gone chan struct{}
}

type late struct {
	packet []byte
	due    time.Time
}

// New makes a network. Local names get addresses on the host of this process; each
// remote name gets its own host.
func New(local, remote []string) (_ *Network, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("network namespaces need root")
	}
	subnet, err := freeSubnet()
	if err != nil {
		return nil, err
	}
	n := &Network{subnet: subnet, hosts: map[string]byte{}, places: map[string]*place{}, stop: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	here, err := openTun()
	if err != nil {
		return nil, err
	}
	addrs := make([]string, len(local))
	for i, name := range local {
		n.hosts[name], n.ports[i+1] = byte(i+1), here.file
		addrs[i] = n.Addr(name)
	}
	if err := here.up(addrs); err != nil {
		return nil, errors.Join(err, here.file.Close())
	}
	for i, name := range remote {
		if err := n.addHost(name, byte(firstHost+i)); err != nil {
			return nil, fmt.Errorf("host %s: %w", name, err)
		}
	}
	n.work.Go(func() { n.carry(here.file) })
	for _, name := range remote {
		n.work.Go(func() { n.carry(n.ports[n.hosts[name]]) })
	}
	return n, nil
}

// freeSubnet finds a network of 254 addresses that this machine does not use. If
// another rig selects it at the same moment, the nodes of one rig do not start.
func freeSubnet() ([3]byte, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return [3]byte{}, err
	}
search:
	for range 100 {
		s := [3]byte{10, byte(200 + rand.IntN(50)), byte(rand.IntN(256))}
		for _, a := range addrs {
			if ip, ok := a.(*net.IPNet); ok && ip.Contains(net.IPv4(s[0], s[1], s[2], 1)) {
				continue search
			}
		}
		return s, nil
	}
	return [3]byte{}, errors.New("no free subnet found below 10.200.0.0")
}

func (n *Network) addHost(name string, last byte) error {
	p := &place{calls: make(chan func())}
	ready := make(chan error)
	n.work.Go(func() {
		// Never unlocked, so the thread and its namespace end with this goroutine.
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			ready <- fmt.Errorf("make a network namespace: %w", err)
			return
		}
		tun, err := openTun()
		if err == nil {
			n.hosts[name], n.ports[last] = last, tun.file
			err = tun.up([]string{n.Addr(name)})
		}
		ready <- err
		for f := range p.calls {
			f()
		}
	})
	if err := <-ready; err != nil {
		return err
	}
	n.places[name] = p
	return nil
}

type tun struct {
	file *os.File
	name string
}

// openTun makes a TUN device in the namespace of the calling thread.
func openTun() (*tun, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq("chaos%d")
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a TUN device: %w", err), unix.Close(fd))
	}
	return &tun{file: os.NewFile(uintptr(fd), "tun"), name: req.Name()}, nil
}

// up configures the device with its addresses, in the calling thread's namespace.
func (t *tun) up(addrs []string) error {
	commands := [][]string{{"link", "set", "lo", "up"}, {"link", "set", t.name, "mtu", fmt.Sprint(mtu), "up"}}
	for _, a := range addrs {
		commands = append(commands, []string{"addr", "add", a + "/24", "dev", t.name})
	}
	for _, c := range commands {
		if out, err := exec.Command("ip", c...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", c, err, out)
		}
	}
	return nil
}

// Addr returns the address of a host.
func (n *Network) Addr(name string) string {
	return net.IPv4(n.subnet[0], n.subnet[1], n.subnet[2], n.hosts[name]).String()
}

// On calls f on a thread of the host, and returns its error. A process that f starts
// runs on that host. The thread ends with the network, which sends the process its
// Pdeathsig.
func (n *Network) On(name string, f func() error) error {
	done := make(chan error)
	n.places[name].calls <- func() { done <- f() }
	return <-done
}

// Set sets the rule for packets from one host to another.
func (n *Network) Set(from, to string, rule Rule) {
	var w *wire
	if rule != (Rule{}) {
		w = &wire{rule: rule, gone: make(chan struct{})}
		if rule.Delay+rule.Jitter > 0 {
			w.late = make(chan late, maxLate)
			n.work.Go(func() { n.deliver(w, n.ports[n.hosts[to]]) })
		}
	}
	if old := n.wires[n.hosts[from]][n.hosts[to]].Swap(w); old != nil {
		close(old.gone)
	}
}

// Heal removes all rules.
func (n *Network) Heal() {
	for from := range n.hosts {
		for to := range n.hosts {
			n.Set(from, to, Rule{})
		}
	}
}

// carry forwards the packets that the host of a device sends.
func (n *Network) carry(port *os.File) {
	buf := make([]byte, mtu+64)
	for {
		count, err := port.Read(buf)
		if err != nil {
			return // closed
		}
		packet := buf[:count]
		// An IPv4 header has the sender at byte 12 and the receiver at 16.
		if count < 20 || packet[0]>>4 != 4 || [3]byte(packet[16:19]) != n.subnet {
			continue
		}
		from, to := packet[15], packet[19]
		out := n.ports[to]
		if out == nil {
			continue
		}
		w := n.wires[from][to].Load()
		switch {
		case w == nil:
			_, _ = out.Write(packet) // a full device drops packets
		case w.rule.Drop || w.rule.Loss > rand.Float64():
		case w.late == nil:
			_, _ = out.Write(packet)
		default:
			due := time.Now().Add(w.rule.Delay)
			if w.rule.Jitter > 0 {
				due = due.Add(rand.N(w.rule.Jitter))
			}
			select {
			case w.late <- late{append([]byte(nil), packet...), due}:
			default:
			}
		}
	}
}

// deliver writes each delayed packet at its time. When the rule is removed, it
// writes the remaining packets immediately.
func (n *Network) deliver(w *wire, out *os.File) {
	for {
		select {
		case p := <-w.late:
			select {
			case <-time.After(time.Until(p.due)):
			case <-w.gone:
			case <-n.stop:
				return
			}
			_, _ = out.Write(p.packet)
		case <-w.gone:
			for {
				select {
				case p := <-w.late:
					_, _ = out.Write(p.packet)
				default:
					return
				}
			}
		case <-n.stop:
			return
		}
	}
}

// Close removes the network. Processes on its hosts must have ended.
func (n *Network) Close() error {
	close(n.stop)
	for _, p := range n.places {
		close(p.calls)
	}
	var errs []error
	closed := map[*os.File]bool{}
	for _, port := range n.ports {
		if port != nil && !closed[port] {
			closed[port] = true
			errs = append(errs, port.Close())
		}
	}
	n.work.Wait()
	return errors.Join(errs...)
}
