package link

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
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
	// TLS is the client's side of mutual TLS. Without it, connections are in
	// the clear.
	TLS *tls.Config
	// Options are added to the pool's own.
	Options []grpc.DialOption
	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

// Pool holds one connection per peer address, for all who talk to that peer.
// It is safe for concurrent use.
//
// Connections reconnect by themselves, after 50 to 500 ms. One that is
// released ends the streams on it with Canceled; whoever still needs the
// address asks Conn again.
type Pool struct {
	opts   []grpc.DialOption
	logger *slog.Logger

	mu     sync.Mutex
	conns  map[string]*grpc.ClientConn
	closed bool
}

// NewPool returns an empty pool.
func NewPool(cfg PoolConfig) *Pool {
	creds := insecure.NewCredentials()
	if cfg.TLS != nil {
		creds = credentials.NewTLS(cfg.TLS)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0), // kept up, not dialled on demand
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(receiveLimit)),
		// The default backoff finds a node that returned after 1.6 s.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: 500 * time.Millisecond,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingEvery, Timeout: clientUnacknowledged}),
	}
	opts = append(append(opts, spoken.client()...), nextClient...)
	return &Pool{
		opts:   append(opts, cfg.Options...),
		logger: cfg.Logger,
		conns:  make(map[string]*grpc.ClientConn),
	}
}

// Conn returns the connection to an address (host:port), which may not be
// established yet. It does not block.
func (p *Pool) Conn(addr string) (*grpc.ClientConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrPoolClosed
	}
	if c := p.conns[addr]; c != nil {
		return c, nil
	}
	// Names are resolved anew at each attempt to connect, not watched.
	c, err := grpc.NewClient("passthrough:///"+addr, p.opts...)
	if err != nil {
		return nil, fmt.Errorf("link: peer address %q: %w", addr, err)
	}
	c.Connect()
	p.conns[addr] = c
	return c, nil
}

// Release closes the connection to an address, if there is one.
func (p *Pool) Release(addr string) {
	p.mu.Lock()
	c := p.conns[addr]
	delete(p.conns, addr)
	p.mu.Unlock()
	p.close(addr, c)
}

// Close closes all connections. Conn fails from then on.
func (p *Pool) Close() {
	p.mu.Lock()
	conns := p.conns
	p.conns, p.closed = nil, true
	p.mu.Unlock()
	for addr, c := range conns {
		p.close(addr, c)
	}
}

func (p *Pool) close(addr string, c *grpc.ClientConn) {
	if c == nil {
		return
	}
	if err := c.Close(); err != nil {
		p.logger.Warn("closing a connection to a peer", "addr", addr, "error", err)
	}
}
