package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"

	ganglion "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
)

// Clients makes clients of the node for Go code of the program itself. They need no
// URL and no token, and no port leads to them. It is safe for concurrent use.
type Clients struct{ node *node }

// Connect returns a client with an id and claims, which the program vouches for. The
// access rules apply to it as to any client with this id, and so do the limits of
// sessions, but it may be a member of every consumer group. The error says that the
// id is invalid.
//
// The client ends when it is closed, when ctx ends, and when the node begins to
// drain. Run returns after that.
func (c Clients) Connect(ctx context.Context, id string, claims map[string]any) (*ganglion.Client, error) {
	if err := eventstore.ValidateClient(id); err != nil {
		return nil, err
	}
	own := &c.node.own
	ctx, cancel := context.WithCancel(ctx)
	log := c.node.log.With("client", id)
	client, err := own.connect(ctx, gateway.Identity{Client: id, Claims: claims}, ganglion.Options{
		OnError: func(e *ganglion.Error) { log.Warn("a client in the node reported an error", "err", e) },
	})
	if err != nil {
		cancel()
		return nil, err
	}
	isOpen := own.track(func() {
		select {
		case <-client.Done():
		case <-own.draining:
		}
		cancel()
		client.Close()
	})
	if !isOpen {
		cancel()
		client.Close()
		return nil, errDraining
	}
	return client, nil
}

var errDraining = errors.New("the node drains: it makes no more clients")

// inProcess is a network that only the process reaches, with the node's gateway at
// its end. It is the listener of its one server.
type inProcess struct {
	conns    chan net.Conn
	closed   chan struct{}
	once     sync.Once
	draining chan struct{} // closed when the node begins to drain

	mu      sync.Mutex
	ended   bool
	clients sync.WaitGroup // those of Clients
}

func (l *inProcess) init() {
	l.conns, l.closed, l.draining = make(chan net.Conn), make(chan struct{}), make(chan struct{})
}

// ownConn is a connection with the identity of its client.
type ownConn struct {
	net.Conn
	id gateway.Identity
}

// hasOwnClients reports whether code of the program is a client of the node.
func (n *node) hasOwnClients() bool { return n.cfg.Clients != nil || len(n.cfg.Consumers) > 0 }

// runInProcess serves the clients in the process until ctx ends. Those of [Clients]
// end when the node begins to drain, those of consumers by themselves.
func (n *node) runInProcess(ctx, draining context.Context) error {
	l := &n.own
	server := &http.Server{
		Handler:           n.gateway.Handler(),
		ConnContext:       func(ctx context.Context, c net.Conn) context.Context { return gateway.InProcess(ctx, c.(ownConn).id) },
		ReadHeaderTimeout: n.cfg.Limits.HelloTimeout,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(l) }) // ends with Close
	select {
	case <-draining.Done():
	case <-ctx.Done():
	}
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	close(l.draining)
	l.clients.Wait()
	<-n.handled
	server.Close()
	running.Wait()
	return nil
}

// track runs wait in a goroutine that runInProcess waits for. It returns false if the
// node drains.
func (l *inProcess) track(wait func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.clients.Go(wait)
	}
	return !l.ended
}

// connect returns a client with an identity.
func (l *inProcess) connect(ctx context.Context, id gateway.Identity, o ganglion.Options) (*ganglion.Client, error) {
	o.URLs = []string{"ws://in-process"}
	o.HTTPClient = &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return l.dial(ctx, id) },
		DisableKeepAlives: true,
	}}
	return ganglion.Connect(ctx, o)
}

func (l *inProcess) dial(ctx context.Context, id gateway.Identity) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- ownConn{server, id}:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements [net.Listener].
func (l *inProcess) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *inProcess) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements [net.Listener].
func (l *inProcess) Addr() net.Addr { return inProcessAddr{} }

type inProcessAddr struct{}

func (inProcessAddr) Network() string { return "in-process" }
func (inProcessAddr) String() string  { return "in-process" }
