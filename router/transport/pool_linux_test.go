package transport

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ganglion-es/ganglion/proto/peer"
)

func TestUnacknowledgedDataIsBoundedByTheSilence(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ silence, client, server time.Duration }{
		{0, 250 * time.Millisecond, 2 * time.Second},
		{3 * time.Second, 1500 * time.Millisecond, 12 * time.Second},
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		accepted := make(chan net.Conn, 1)
		g := NewServer(ServerConfig{Silence: c.silence})
		Register(g, UnimplementedPeer{})
		var running sync.WaitGroup
		running.Go(func() { _ = g.Serve(tapped{l, accepted}) })

		dialled := make(chan net.Conn, 1)
		pool := NewPool(PoolConfig{Silence: c.silence, Dial: func(ctx context.Context, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			if err == nil {
				dialled <- conn
			}
			return conn, err
		}})
		// The answer, "unimplemented", shows that both ends are set up.
		if _, err := pool.Peer(l.Addr().String()).Sessions(t.Context(), &peer.SessionsRequest{}); CodeOf(err) != Unimplemented {
			t.Errorf("a server without calls answers %v", err)
		}
		if got := userTimeout(t, <-dialled); got != c.client {
			t.Errorf("silence %v: the client's connection has %v, want %v", c.silence, got, c.client)
		}
		if got := userTimeout(t, <-accepted); got != c.server {
			t.Errorf("silence %v: the server's connection has %v, want %v", c.silence, got, c.server)
		}
		g.Stop()
		running.Wait()
		pool.Close()
	}
}

// tapped shows each accepted connection.
type tapped struct {
	net.Listener
	conns chan<- net.Conn
}

func (l tapped) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.conns <- c
	}
	return c, err
}

// userTimeout returns a connection's TCP_USER_TIMEOUT.
func userTimeout(t *testing.T, c net.Conn) time.Duration {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var ms int
	if cerr := raw.Control(func(fd uintptr) { ms, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return time.Duration(ms) * time.Millisecond
}
