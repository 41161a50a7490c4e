package link_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/link"
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
		g := link.NewServer(link.ServerConfig{Silence: c.silence})
		peer.RegisterPeerServer(g, peer.UnimplementedPeerServer{})
		var running sync.WaitGroup
		running.Go(func() { _ = g.Serve(tapped{l, accepted}) })

		dialled := make(chan net.Conn, 1)
		pool := link.NewPool(link.PoolConfig{Silence: c.silence, Options: []grpc.DialOption{
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
				if err == nil {
					dialled <- conn
				}
				return conn, err
			}),
		}})
		conn, release, err := pool.Conn(l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		// The answer, "unimplemented", shows that both ends are set up.
		_, _ = peer.NewPeerClient(conn).Sessions(t.Context(), &peer.SessionsRequest{}, grpc.WaitForReady(true))
		if got := userTimeout(t, <-dialled); got != c.client {
			t.Errorf("silence %v: the client's connection has %v, want %v", c.silence, got, c.client)
		}
		if got := userTimeout(t, <-accepted); got != c.server {
			t.Errorf("silence %v: the server's connection has %v, want %v", c.silence, got, c.server)
		}
		release()
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
