package cluster

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// network is a network in memory for synctest bubbles. Packets to unknown
// addresses vanish, connections to them are refused, and hosts can be cut off
// from each other.
type network struct {
	mu    sync.Mutex
	ports map[string]*port // by address
	cut   func(from, to netip.Addr) bool
	deaf  netip.Addr // gets no packets; connections work

	tap atomic.Pointer[tap] // records the traffic; may be nil
}

func (n *network) listenIn() *tap {
	t := &tap{}
	n.tap.Store(t)
	return t
}

// tap is recorded traffic.
type tap struct {
	mu      sync.Mutex
	packets [][]byte
	streams []*bytes.Buffer // the data of the dialling side
}

func (t *tap) packet(b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.packets = append(t.packets, bytes.Clone(b))
}

func (t *tap) stream(c net.Conn) net.Conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	said := &bytes.Buffer{}
	t.streams = append(t.streams, said)
	return &tapped{c, t, said}
}

// all returns the recorded traffic, in order.
func (t *tap) all() (packets, streams [][]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, said := range t.streams {
		streams = append(streams, bytes.Clone(said.Bytes()))
	}
	return slices.Clone(t.packets), streams
}

// tapped is a connection that is recorded.
type tapped struct {
	net.Conn
	by   *tap
	said *bytes.Buffer
}

func (c *tapped) Write(p []byte) (int, error) {
	c.by.mu.Lock()
	c.said.Write(p)
	c.by.mu.Unlock()
	return c.Conn.Write(p)
}

func newNetwork(t *testing.T) *network {
	// Some of memberlist's goroutines outlive its shutdown by a timeout, and the
	// bubble's clock stops when the test ends.
	t.Cleanup(func() { time.Sleep(10 * time.Second) })
	return &network{ports: make(map[string]*port)}
}

// isolate cuts all connections between hosts of different sets; nil sets heal
// the network.
func (n *network) isolate(sets ...[]string) {
	side := make(map[netip.Addr]int)
	for i, set := range sets {
		for _, ip := range set {
			side[netip.MustParseAddr(ip)] = i
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = func(from, to netip.Addr) bool { return side[from] != side[to] }
	if len(sets) == 0 {
		n.cut = nil
	}
}

// deafen drops all packets to a host.
func (n *network) deafen(ip string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.deaf = netip.MustParseAddr(ip)
}

func (n *network) isDeaf(ip netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.deaf == ip
}

// find returns the port at an address. drop reports whether the way is cut.
func (n *network) find(from netip.AddrPort, to string) (p *port, drop bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut != nil && n.cut(from.Addr(), netip.MustParseAddrPort(to).Addr()) {
		return nil, true
	}
	return n.ports[to], false
}

// port is one host's memberlist.Transport.
type port struct {
	on      *network
	addr    netip.AddrPort
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
}

func (n *network) listen(addr string) *port {
	p := &port{
		on:      n,
		addr:    netip.MustParseAddrPort(addr),
		packets: make(chan *memberlist.Packet, 1024),
		streams: make(chan net.Conn),
		done:    make(chan struct{}),
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[addr] = p
	return p
}

func (p *port) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return p.addr.Addr().AsSlice(), int(p.addr.Port()), nil
}

func (p *port) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	if tap := p.on.tap.Load(); tap != nil {
		tap.packet(b)
	}
	to, drop := p.on.find(p.addr, addr)
	if drop || to == nil || p.on.isDeaf(to.addr.Addr()) {
		return now, nil
	}
	packet := &memberlist.Packet{Buf: append([]byte(nil), b...), From: net.UDPAddrFromAddrPort(p.addr), Timestamp: now}
	select {
	case to.packets <- packet:
	default: // drop it, as a full socket buffer does
	}
	return now, nil
}

func (p *port) PacketCh() <-chan *memberlist.Packet { return p.packets }

func (p *port) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	failed := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr)), Err: err}
	}
	expired := time.After(timeout)
	to, drop := p.on.find(p.addr, addr)
	if drop {
		select {
		case <-expired:
			return failed(os.ErrDeadlineExceeded)
		case <-p.done:
			return failed(net.ErrClosed)
		}
	}
	if to == nil {
		return failed(syscall.ECONNREFUSED)
	}
	near, far := net.Pipe()
	if tap := p.on.tap.Load(); tap != nil {
		near = tap.stream(near)
	}
	select {
	case to.streams <- far:
		return near, nil
	case <-to.done:
		return failed(syscall.ECONNREFUSED)
	case <-p.done:
		return failed(net.ErrClosed)
	case <-expired:
		return failed(os.ErrDeadlineExceeded)
	}
}

func (p *port) StreamCh() <-chan net.Conn { return p.streams }

func (p *port) Shutdown() error {
	p.on.mu.Lock()
	defer p.on.mu.Unlock()
	if p.on.ports[p.addr.String()] != p {
		return errors.New("shut down twice")
	}
	delete(p.on.ports, p.addr.String())
	close(p.done)
	return nil
}
