package postgres

import (
	"context"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// unacknowledged is how long the kernel sends to a server that does not
	// acknowledge it. By itself it waits longer and longer between two attempts,
	// so that a connection lies dead for as long again as its network was cut.
	// A server that is only slow acknowledges what it is sent.
	unacknowledged = time.Second

	// dialEvery is after how long without an answer a connection is asked for
	// anew, for the same reason.
	dialEvery = time.Second
)

// dialAgain dials until the context ends, or an answer comes.
func dialAgain(ctx context.Context, dial pgconn.DialFunc, network, addr string) (net.Conn, error) {
	for {
		one, cancel := context.WithTimeout(ctx, dialEvery)
		c, err := dial(one, network, addr)
		silent := one.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil {
			giveUpAfter(c, unacknowledged)
			return c, nil
		}
		if !silent {
			return nil, err
		}
	}
}

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
		c, err := dialAgain(ctx, dial, network, addr)
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
