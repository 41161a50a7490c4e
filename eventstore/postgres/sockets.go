package postgres

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// sockets knows the open sockets of a store, also those over which the driver
// asks a server to cancel something. When a server falls silent, the driver
// waits for it 15 seconds before it gives a connection up; cut ends that.
type sockets struct {
	mu   sync.Mutex
	open map[*tracked]struct{}
	cuts bool
}

// dialer wraps the function that opens sockets.
func (s *sockets) dialer(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		t := &tracked{Conn: c, of: s}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.cuts {
			c.Close()
			return nil, net.ErrClosed
		}
		if s.open == nil {
			s.open = make(map[*tracked]struct{})
		}
		s.open[t] = struct{}{}
		return t, nil
	}
}

// cut closes all sockets, and refuses new ones.
func (s *sockets) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cuts = true
	for t := range s.open {
		t.Conn.Close()
	}
}

type tracked struct {
	net.Conn
	of *sockets
}

func (t *tracked) Close() error {
	t.of.mu.Lock()
	delete(t.of.open, t)
	t.of.mu.Unlock()
	return t.Conn.Close()
}

// SyscallConn lets alive look into the socket.
func (t *tracked) SyscallConn() (syscall.RawConn, error) {
	if c, ok := t.Conn.(syscall.Conn); ok {
		return c.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
