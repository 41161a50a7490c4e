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

// loginMost is how far the limit of a login grows, as a multiple of
// Config.ConnectTimeout.
const loginMost = 8

// loginLimit is how long one host may take over a login. A login that runs out
// has cost the server its work and brought nothing, so the next one may take
// twice as long. Else logins that all end a little early keep a busy server from
// finishing any. It shrinks again with every login that succeeds. Reaching a host
// at all is bounded by least: a host that is away is not a busy one.
type loginLimit struct {
	least time.Duration

	mu  sync.Mutex
	now time.Duration
}

func (l *loginLimit) get() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(l.now, l.least)
}

// ranOut reports that a login took longer than its limit, used. Logins that ran
// out together count once.
func (l *loginLimit) ranOut(used time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = max(l.now, min(2*used, loginMost*l.least))
}

func (l *loginLimit) succeeded() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now /= 2
}

// sockets knows the open sockets of a store, also those over which the driver
// asks a server to cancel something. When a server falls silent, the driver
// waits for it 15 seconds before it gives a connection up; cut ends that.
type sockets struct {
	login loginLimit

	mu   sync.Mutex
	open map[*tracked]struct{}
	cuts bool
}

// dialer wraps the function that opens sockets.
func (s *sockets) dialer(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		t := &tracked{of: s}
		if end, ok := ctx.Deadline(); ok {
			t.loginEnd, t.loginLimit = end, time.Until(end)
		}
		dialing, cancel := context.WithTimeout(ctx, s.login.least)
		defer cancel()
		c, err := dialAgain(dialing, dial, network, addr)
		if err != nil {
			return nil, err
		}
		t.Conn = c
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

	// When the login runs out, and after how long. The former is zero once it
	// has succeeded, and guarded by the lock of sockets.
	loginEnd   time.Time
	loginLimit time.Duration
}

// loggedIn says that the server has let the connection in.
func (t *tracked) loggedIn() {
	t.of.mu.Lock()
	t.loginEnd = time.Time{}
	t.of.mu.Unlock()
	t.of.login.succeeded()
}

func (t *tracked) Close() error {
	t.of.mu.Lock()
	delete(t.of.open, t)
	ranOut := !t.loginEnd.IsZero() && time.Now().After(t.loginEnd)
	t.loginEnd = time.Time{}
	t.of.mu.Unlock()
	if ranOut {
		t.of.login.ranOut(t.loginLimit)
	}
	return t.Conn.Close()
}

// SyscallConn lets alive look into the socket.
func (t *tracked) SyscallConn() (syscall.RawConn, error) {
	if c, ok := t.Conn.(syscall.Conn); ok {
		return c.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
