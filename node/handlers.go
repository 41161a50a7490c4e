package node

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
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
	var handlers sync.WaitGroup
	for _, k := range n.cfg.Consumers {
		handlers.Go(func() { n.consume(draining, k) })
	}
	handlers.Wait()
	return nil
}

// consume is a member of a group until ctx ends.
func (n *node) consume(ctx context.Context, k Consumer) {
	log := n.log.With("group", k.Group)
	for {
		err := n.handle(ctx, k, log)
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

func (n *node) handle(ctx context.Context, k Consumer, log *slog.Logger) error {
	// The client outlives ctx, for the last acknowledgements.
	client, err := n.own.connect(context.WithoutCancel(ctx), gateway.Identity{}, ganglion.Options{
		OnError: func(e *ganglion.Error) { log.Warn("a consumer group reported an error", "err", e) },
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
