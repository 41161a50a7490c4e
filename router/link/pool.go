package link

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// ErrPoolClosed reports a Pool that was closed.
var ErrPoolClosed = errors.New("link: the pool of connections is closed")

// PoolConfig configures a Pool.
type PoolConfig struct {
	// TLS is the client's side of mutual TLS. Without it, connections are not
	// encrypted. Its VerifyConnection gets the peer's address (host:port) as the
	// ServerName, which crypto/tls leaves empty if the host is an IP address.
	TLS *tls.Config
	// Silence is how long a peer may send nothing, as in Config. The kernel
	// drops a connection whose data is unacknowledged for half of it.
	//
	// Defaults to 500 ms.
	Silence time.Duration
	// Options are added to the pool's own.
	Options []grpc.DialOption
	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

// Pool holds one connection per peer address, which all users of that address
// share. It is safe for concurrent use.
//
// A broken connection is dialled again after 50 to 500 ms. The pool counts the
// users of each connection and closes it when the last one has released it, so
// it dials no address without users.
type Pool struct {
	opts   []grpc.DialOption
	tls    *tls.Config
	logger *slog.Logger

	mu     sync.Mutex
	conns  map[string]*shared
	closed bool
}

// shared is a connection and how many users it has.
type shared struct {
	conn  *grpc.ClientConn
	users int
}

// NewPool returns an empty pool.
func NewPool(cfg PoolConfig) *Pool {
	cfg.Silence = cmp.Or(cfg.Silence, DefaultSilence)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	opts := []grpc.DialOption{
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0), // keep the connection up without calls
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(receiveLimit)),
		// With the default backoff, a node that returns is found only 1.6 s later.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: 500 * time.Millisecond,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: clientUnacknowledged(cfg.Silence)}),
	}
	opts = append(append(opts, spoken.client()...), nextClient...)
	return &Pool{
		opts:   append(opts, cfg.Options...),
		tls:    cfg.TLS,
		logger: cfg.Logger,
		conns:  make(map[string]*shared),
	}
}

// Conn returns the connection to an address (host:port), which may not be
// established yet, and a function that releases it. The caller calls release
// when its calls on the connection have ended; further calls of release do
// nothing. Conn does not block.
func (p *Pool) Conn(addr string) (conn *grpc.ClientConn, release func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, ErrPoolClosed
	}
	s := p.conns[addr]
	if s == nil {
		// Passthrough resolves the name at each attempt to connect, and not between.
		c, err := grpc.NewClient("passthrough:///"+addr, append(slices.Clip(p.opts), grpc.WithTransportCredentials(p.credentials(addr)))...)
		if err != nil {
			return nil, nil, fmt.Errorf("link: peer address %q: %w", addr, err)
		}
		c.Connect()
		s = &shared{conn: c}
		p.conns[addr] = s
	}
	s.users++
	return s.conn, sync.OnceFunc(func() { p.release(addr, s) }), nil
}

func (p *Pool) credentials(addr string) credentials.TransportCredentials {
	if p.tls == nil {
		return insecure.NewCredentials()
	}
	c := p.tls.Clone()
	if verify := c.VerifyConnection; verify != nil {
		c.VerifyConnection = func(state tls.ConnectionState) error {
			state.ServerName = addr
			return verify(state)
		}
	}
	return credentials.NewTLS(c)
}

// release removes one user, and closes the connection if that was the last.
func (p *Pool) release(addr string, s *shared) {
	p.mu.Lock()
	s.users--
	unused := s.users == 0 && !p.closed
	if unused {
		delete(p.conns, addr)
	}
	p.mu.Unlock()
	if unused {
		p.close(addr, s.conn)
	}
}

// Close closes all connections, including those in use. Conn then fails with
// ErrPoolClosed.
func (p *Pool) Close() {
	p.mu.Lock()
	conns := p.conns
	p.conns, p.closed = nil, true
	p.mu.Unlock()
	for addr, s := range conns {
		p.close(addr, s.conn)
	}
}

func (p *Pool) close(addr string, c *grpc.ClientConn) {
	if err := c.Close(); err != nil {
		p.logger.Warn("closing a connection to a peer", "addr", addr, "err", err)
	}
}
