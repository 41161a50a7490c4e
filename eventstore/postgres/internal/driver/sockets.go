package driver

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// unacknowledged bounds how long the kernel resends data that the server does
	// not acknowledge. A slow server still acknowledges data.
	unacknowledged = time.Second

	// dialEvery is the time without an answer after which a dial is repeated.
	dialEvery = time.Second
)

// dialRetrying dials until the context ends or an answer arrives.
func dialRetrying(ctx context.Context, dial pgconn.DialFunc, network, addr string) (net.Conn, error) {
	for {
		one, cancel := context.WithTimeout(ctx, dialEvery)
		c, err := dial(one, network, addr)
		silent := one.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil {
			limitUnacknowledged(c, unacknowledged)
			return c, nil
		}
		if !silent {
			return nil, err
		}
	}
}

// Dialer opens the connections of one store, and keeps track of their sockets.
// Use New. It is safe for concurrent use.
type Dialer struct {
	config  *pgxpool.Config
	login   loginLimit
	hosts   []host  // of the URL
	primary primary // among several hosts

	mu     sync.Mutex
	open   map[*socket]struct{}
	closed bool
}

// New returns a Dialer for config. It sets the functions of config that dial
// connections, set their timeout and check them. timeout bounds the time to reach
// a host and is the least limit of a login.
func New(config *pgxpool.Config, timeout time.Duration) *Dialer {
	d := &Dialer{config: config, login: loginLimit{least: timeout}, hosts: hostsOf(config.ConnConfig), open: make(map[*socket]struct{})}
	d.primary.searching = make(chan struct{}, 1)
	config.ConnConfig.DialFunc = d.dialer(config.ConnConfig.DialFunc)
	config.BeforeConnect = d.BeforeConnect
	config.PingTimeout = timeout
	config.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool {
		return p.IdleDuration > time.Second && !alive(under(p.Conn.PgConn().Conn()))
	}
	return d
}

// BeforeConnect selects the primary if the URL names several hosts, and sets the limit
// for the attempt to connect.
func (d *Dialer) BeforeConnect(ctx context.Context, c *pgx.ConnConfig) error {
	return d.prepare(ctx, c, d.login.get())
}

func (d *Dialer) prepare(ctx context.Context, c *pgx.ConnConfig, limit time.Duration) error {
	c.ConnectTimeout = limit
	if len(d.hosts) == 1 {
		return nil
	}
	h, err := d.find(ctx)
	if err == nil {
		h.only(c)
	}
	return err
}

// Connect opens a connection outside the pool.
func (d *Dialer) Connect(ctx context.Context) (*pgx.Conn, error) {
	c := d.config.ConnConfig.Copy()
	if err := d.BeforeConnect(ctx, c); err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, c)
}

// Bound returns a limit for Connect followed by the settings of the session: the time to
// find the primary, to connect to it, and as much again for the settings.
func (d *Dialer) Bound() time.Duration { return d.boundWith(d.login.get()) }

func (d *Dialer) boundWith(limit time.Duration) time.Duration {
	if len(d.hosts) == 1 {
		return 2 * limit
	}
	return 3 * limit
}

// LoggedIn reports that the server has accepted the login of a connection.
func LoggedIn(c *pgconn.PgConn) {
	if s, ok := under(c.Conn()).(*socket); ok {
		s.loggedIn()
	}
}

func (d *Dialer) dialer(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		s := &socket{dialer: d}
		if end, ok := ctx.Deadline(); ok {
			s.loginEnd, s.loginLimit = end, time.Until(end)
		}
		dialing, cancel := context.WithTimeout(ctx, d.login.least)
		defer cancel()
		c, err := dialRetrying(dialing, dial, network, addr)
		if err != nil {
			d.primary.forget()
			return nil, err
		}
		s.Conn = c
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.closed {
			c.Close()
			return nil, net.ErrClosed
		}
		d.open[s] = struct{}{}
		return s, nil
	}
}

// Cut closes all sockets, and refuses new ones.
func (d *Dialer) Cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for s := range d.open {
		s.Conn.Close()
	}
}

// socket is a connection to a server, below TLS.
type socket struct {
	net.Conn
	dialer *Dialer

	// loginEnd is the deadline of the login, and loginLimit its duration.
	// loginEnd is zero after the login. dialer.mu guards it.
	loginEnd   time.Time
	loginLimit time.Duration
}

// under returns the connection below TLS.
func under(c net.Conn) net.Conn {
	if secure, ok := c.(*tls.Conn); ok {
		return secure.NetConn()
	}
	return c
}

func (s *socket) loggedIn() {
	s.dialer.mu.Lock()
	s.loginEnd = time.Time{}
	s.dialer.mu.Unlock()
	s.dialer.login.succeeded()
}

// Close implements net.Conn.
func (s *socket) Close() error {
	s.dialer.mu.Lock()
	delete(s.dialer.open, s)
	ranOut := !s.loginEnd.IsZero() && time.Now().After(s.loginEnd)
	s.loginEnd = time.Time{}
	s.dialer.mu.Unlock()
	if ranOut {
		s.dialer.login.ranOut(s.loginLimit)
	}
	s.dialer.primary.forget() // the server may have ended the connection
	return s.Conn.Close()
}

// SyscallConn lets alive inspect the socket.
func (s *socket) SyscallConn() (syscall.RawConn, error) {
	if c, ok := s.Conn.(syscall.Conn); ok {
		return c.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}
