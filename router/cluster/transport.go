package cluster

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// streamBytes bounds the bytes that are read from one connection. Nodes send
	// their members, each in less than 1 KiB. Without the bound, memberlist would
	// buffer 20 MiB from a stranger before it finds that it cannot decrypt them.
	streamBytes = 1 << 20

	// maxStreams bounds the incoming connections that are read concurrently. More
	// wait in the kernel. Each ends after TCPTimeout.
	maxStreams = 64
)

// transport is memberlist's transport with two changes. Shutdown also ends dials
// and connections that are in progress, which would otherwise last until their
// timeouts. And the bytes and connections that strangers can cause are bounded.
type transport struct {
	*memberlist.NetTransport

	ctx    context.Context // ends the dials
	cancel context.CancelFunc

	streams   chan net.Conn
	slots     chan struct{} // semaphore of incoming connections
	accepting sync.WaitGroup
	down      chan struct{} // closed when NetTransport accepts no more

	mu    sync.Mutex
	conns map[*conn]struct{} // dialled and open; nil after Shutdown
}

// listen opens the sockets. The only likely error is a port in use.
func listen(bind netip.Addr, port int, logger *log.Logger) (*transport, error) {
	host := "" // memberlist then listens on all addresses, IPv6 and IPv4
	if bind.IsValid() {
		host = bind.String()
	}
	// The kernel picks a port that is free for TCP but may be in use for UDP.
	attempts := 1
	if port == 0 {
		attempts = 10
	}
	var nt *memberlist.NetTransport
	var err error
	for range attempts {
		nt, err = memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{host},
			BindPort:  port,
			Logger:    logger,
		})
		if err == nil {
			break
		}
	}
	if err != nil {
		if strings.Contains(err.Error(), "address already in use") {
			return nil, fmt.Errorf("cluster: the gossip address %s is in use by another process: stop it, or choose another port (%w)",
				net.JoinHostPort(host, strconv.Itoa(port)), err)
		}
		return nil, fmt.Errorf("cluster: listen for gossip: %w", err)
	}
	t := &transport{
		NetTransport: nt,
		streams:      make(chan net.Conn),
		slots:        make(chan struct{}, maxStreams),
		down:         make(chan struct{}),
		conns:        make(map[*conn]struct{}),
	}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.accepting.Go(t.accept)
	return t, nil
}

// accept passes on the connections that NetTransport accepts. During a shutdown it
// continues and closes them, since NetTransport's listener would block on a
// connection that is not received.
func (t *transport) accept() {
	for {
		select {
		case nc := <-t.NetTransport.StreamCh():
			select {
			case t.slots <- struct{}{}:
			case <-t.ctx.Done():
				nc.Close()
				continue
			}
			in := &incoming{limited: limited{nc, streamBytes}, of: t}
			select {
			case t.streams <- in:
			case <-t.ctx.Done():
				in.Close()
			}
		case <-t.down:
			return
		}
	}
}

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout implements memberlist.Transport.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	d := net.Dialer{Timeout: timeout}
	nc, err := d.DialContext(t.ctx, "tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.conns == nil {
		nc.Close()
		return nil, net.ErrClosed
	}
	c := &conn{limited: limited{nc, streamBytes}, of: t}
	t.conns[c] = struct{}{}
	return c, nil
}

// Shutdown implements memberlist.Transport.
func (t *transport) Shutdown() error {
	t.cancel()
	t.mu.Lock()
	conns := t.conns
	t.conns = nil
	t.mu.Unlock()
	for c := range conns {
		c.Conn.Close()
	}
	err := t.NetTransport.Shutdown()
	close(t.down)
	t.accepting.Wait()
	return err
}

// limited is a connection from which a limited number of bytes is read.
type limited struct {
	net.Conn
	left int // bytes; only memberlist's one reader uses it
}

var errTooMuch = fmt.Errorf("more than %d bytes were received", streamBytes)

func (c *limited) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, errTooMuch
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// incoming is an accepted connection.
type incoming struct {
	limited
	of     *transport
	closed sync.Once
}

func (c *incoming) Close() error {
	c.closed.Do(func() { <-c.of.slots })
	return c.Conn.Close()
}

// conn is a dialled connection, which its transport lists while it is open.
type conn struct {
	limited
	of *transport
}

func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
