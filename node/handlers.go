package node

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	ganglion "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/gateway"
)

// Consumer is a handler of the program that is a member of a consumer group in the node
// itself: it sends mails, calls webhooks, fills another database.
type Consumer struct {
	// Group is the name of a consumer group of the catalog. Its Access does not apply.
	// Required.
	Group string

	// Handle handles an event: at least once, in order for each stream. Its context
	// ends when the event's segment belongs to another member, when the node drains,
	// and when it has lost the cluster or the log; it must then return. A failure is
	// retried or parked as [ganglion.Client.Handle] describes, and logged;
	// [ganglion.Park] parks immediately. Several goroutines call it. Required.
	Handle func(context.Context, ganglion.GroupEvent) error

	// Concurrency bounds the concurrent calls of Handle on this node.
	//
	// Defaults to 16.
	Concurrency int

	// Window bounds the events of each segment that were delivered and not handled, up
	// to 1,000.
	//
	// Defaults to 100.
	Window int
}

// consumerPause is the pause before a membership that ended is begun again.
const consumerPause = 10 * time.Second

// consumerProblems reports what is wrong with Config.Consumers.
func (c Config) consumerProblems(problem func(format string, args ...any)) {
	if len(c.Consumers) > 0 && !c.Gateway {
		problem("Consumers need the gateway role, since their handlers are members at the node's own gateway")
	}
	seen := map[string]bool{}
	for _, k := range c.Consumers {
		isGroup := func(m aggregate.Model) bool { return m.Name() == k.Group }
		switch {
		case k.Group == "":
			problem("Consumers: Group is required")
		case c.Catalog != nil && !slices.ContainsFunc(c.Catalog.Models("consumer group"), isGroup):
			problem("Consumers: the catalog has no consumer group %q", k.Group)
		case seen[k.Group]:
			problem("Consumers: the group %q is given twice: raise Concurrency instead", k.Group)
		}
		seen[k.Group] = true
		if k.Handle == nil {
			problem("Consumers: Handle of the group %q is missing", k.Group)
		}
		if k.Concurrency < 0 || k.Window < 0 || k.Window > 1000 {
			problem("Consumers: the group %q has the Concurrency %d and the Window %d: use at least 0, and a Window of at most 1000", k.Group, k.Concurrency, k.Window)
		}
	}
}

// runConsumers runs the handlers of Config.Consumers until the node drains or ctx ends.
// It returns when every call has returned.
func (n *node) runConsumers(ctx, draining context.Context) error {
	defer close(n.handled)
	if len(n.cfg.Consumers) == 0 {
		return nil
	}
	draining, cancel := context.WithCancel(draining)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	own := &inProcess{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{
		Handler:           n.gateway.Handler(),
		ConnContext:       func(ctx context.Context, _ net.Conn) context.Context { return gateway.InProcess(ctx) },
		ReadHeaderTimeout: n.cfg.Limits.HelloTimeout,
		ErrorLog:          slog.NewLogLogger(n.log.Handler(), slog.LevelDebug),
	}
	var running sync.WaitGroup
	running.Go(func() { _ = server.Serve(own) }) // ends with Close
	var handlers sync.WaitGroup
	for _, k := range n.cfg.Consumers {
		handlers.Go(func() { n.consume(draining, k, own.dial) })
	}
	handlers.Wait()
	server.Close()
	running.Wait()
	return nil
}

// consume is a member of a group until ctx ends.
func (n *node) consume(ctx context.Context, k Consumer, dial func(context.Context, string, string) (net.Conn, error)) {
	log := n.log.With("group", k.Group)
	for {
		err := n.handle(ctx, k, dial, log)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, ganglion.ErrReplaced) {
			log.Error("another node with this name handles a consumer group: this one stops to handle it", "err", err)
			return
		}
		log.Error("a consumer group is not handled at the moment", "again_in", consumerPause, "err", err)
		select {
		case <-time.After(consumerPause):
		case <-ctx.Done():
			return
		}
	}
}

func (n *node) handle(ctx context.Context, k Consumer, dial func(context.Context, string, string) (net.Conn, error), log *slog.Logger) error {
	client, err := ganglion.Connect(context.WithoutCancel(ctx), ganglion.Options{ // it outlives ctx, for the last acknowledgements
		URLs:       []string{"ws://in-process"},
		OnError:    func(e *ganglion.Error) { log.Warn("a consumer group reported an error", "err", e) },
		HTTPClient: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}},
	})
	if err != nil {
		return err
	}
	defer client.Close()
	options := []ganglion.ConsumeOption{ganglion.WithMember(n.cfg.Name), ganglion.WithConcurrency(cmp.Or(k.Concurrency, 16))}
	if k.Window > 0 {
		options = append(options, ganglion.WithWindow(k.Window))
	}
	return client.Handle(ctx, k.Group, k.Handle, options...)
}

// inProcess is a network that only the process reaches. It is the listener of its one
// server.
type inProcess struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *inProcess) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *inProcess) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *inProcess) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *inProcess) Addr() net.Addr { return inProcessAddr{} }

type inProcessAddr struct{}

func (inProcessAddr) Network() string { return "in-process" }
func (inProcessAddr) String() string  { return "in-process" }
