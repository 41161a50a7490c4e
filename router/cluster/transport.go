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

// transport is memberlist's own, made to end at once: Shutdown also ends
// dials and connections that memberlist has under way, which would otherwise
// outlive it by their timeouts.
type transport struct {
	*memberlist.NetTransport

	ctx    context.Context // ends the dials
	cancel context.CancelFunc

	mu    sync.Mutex
	conns map[*conn]struct{} // dialled and still open; nil after Shutdown
}

// listen opens the sockets. The only likely error is that the port is taken.
func listen(bind netip.Addr, port int, logger *log.Logger) (*transport, error) {
	host := "" // memberlist then listens on all addresses, IPv6 and IPv4
	if bind.IsValid() {
		host = bind.String()
	}
	// A free port is free for TCP; somebody else may hold it for UDP.
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
			return nil, fmt.Errorf("cluster: the gossip address %s is taken by another process: stop it, or choose another port (%w)",
				net.JoinHostPort(host, strconv.Itoa(port)), err)
		}
		return nil, fmt.Errorf("cluster: listen for gossip: %w", err)
	}
	t := &transport{NetTransport: nt, conns: make(map[*conn]struct{})}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t, nil
}

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
	c := &conn{Conn: nc, of: t}
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
	return t.NetTransport.Shutdown()
}

// conn is a dialled connection that its transport knows of while it is open.
type conn struct {
	net.Conn
	of *transport
}

func (c *conn) Close() error {
	c.of.mu.Lock()
	delete(c.of.conns, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
