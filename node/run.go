package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/ring"
)

// run starts all parts, serves until ctx ends or an operator drains the node,
// drains, and returns when all parts have ended. After an operator's drain it waits
// for the end of ctx first, so a supervisor does not restart the process.
func (n *node) run(ctx context.Context) error {
	defer n.store.Close()
	defer n.pool.Close()
	n.front.handleWith(n.handler())
	draining, drain := context.WithCancel(ctx)
	defer drain()
	n.leaving.begin = drain

	p := newParts(ctx)
	defer p.stopAll()
	gossip, leave := context.WithCancel(p.inner)
	defer leave()
	left := make(chan struct{})
	p.start("cluster", func(context.Context) error { defer close(left); return n.cluster.Run(gossip) })
	n.startParts(p)
	started := make(chan struct{})
	p.start("start", func(ctx context.Context) error { defer close(started); return n.becomeReady(ctx, draining) })

	p.start("intakes", func(ctx context.Context) error { return n.runIntakes(ctx, draining) })
	p.start("consumers", func(ctx context.Context) error { return n.runConsumers(ctx, draining) })
	if n.hasOwnClients() {
		p.start("clients in the process", func(ctx context.Context) error { return n.runInProcess(ctx, draining) })
	}

	select {
	case <-draining.Done():
		<-started // otherwise the node could announce itself as ready while it drains
		n.drain(p.inner)
		leave()
		<-left
		close(n.leaving.left)
		p.stopInner()
		n.waitForStop(ctx, p.outer)
	case <-p.inner.Done(): // a part failed; the group has its error
	}
	p.stopAll()
	err := p.group.Wait()
	if err == nil {
		n.log.Info("stopped")
	}
	return err
}

// startParts starts all parts but the cluster.
func (n *node) startParts(p *parts) {
	if n.gossip != nil {
		p.start("gossip keys", func(ctx context.Context) error { return n.gossip.Watch(ctx, n.cluster.SetKeys) })
	}
	if n.tls != nil {
		p.start("certificates", n.tls.Watch)
	}
	p.start("router", n.router.Run)
	p.start("feed", n.feed.Run)
	p.start("log", n.watchLog)
	p.start("isolation", n.watchIsolation)
	p.start("stored forms", n.reportStoredForms)
	p.start("clock", n.watchClock)
	p.start("size", n.watchSize)
	p.start("peers", n.servePeers)
	if n.host != nil {
		p.start("host", n.host.Run)
	}
	p.start("projections", n.readSide.projections.Run)
	if n.readSide.wakes != nil {
		p.start("wake-ups", n.readSide.wakes.Run)
	}
	if n.readSide.progress != nil {
		p.start("progress", n.readSide.progress.Run)
	}
	if n.consumers.coordinators != nil {
		p.start("consumer groups", n.consumers.coordinators.Run)
	}
	if n.consumers.members != nil {
		p.start("members of consumer groups", n.consumers.members.Run)
	}
	if n.gateway != nil {
		p.start("gateway", n.gateway.Run)
	}
	p.startOuter("clients", n.front.serve)
	if n.admin != nil {
		p.startOuter("admin", n.serveAdmin)
	}
	if n.console != nil {
		p.startOuter("console's figures", n.console.Run)
	}
	if n.consolePort != nil {
		p.startOuter("console", n.serveConsole)
	}
}

// parts are the goroutines of a node. Inner ones end when the node has left the
// cluster. Outer ones, which answer HTTP, end with the process. If one fails, all
// end. They outlive the context of Run, since its end begins the drain.
type parts struct {
	group        *errgroup.Group
	inner, outer context.Context
	stop         context.CancelFunc // of the inner ones
	stopAll      context.CancelFunc
	running      sync.WaitGroup // inner ones
}

func newParts(ctx context.Context) *parts {
	p := new(parts)
	all, stopAll := context.WithCancel(context.WithoutCancel(ctx))
	p.stopAll = stopAll
	p.group, p.outer = errgroup.WithContext(all)
	p.inner, p.stop = context.WithCancel(p.outer)
	return p
}

func (p *parts) start(name string, run func(context.Context) error) {
	p.running.Add(1)
	p.group.Go(func() error {
		defer p.running.Done()
		return partError(name, run(p.inner))
	})
}

func (p *parts) startOuter(name string, run func(context.Context) error) {
	p.group.Go(func() error { return partError(name, run(p.outer)) })
}

// stopInner stops the inner parts and waits for them.
func (p *parts) stopInner() {
	p.stop()
	p.running.Wait()
}

func partError(name string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("ganglion: %s: %w", name, err)
}

// becomeReady announces the node once the log has answered, its projections in
// memory are current, and one join round over all seeds has ended, successful or not.
// The node does not wait until it finds another member. A lone node is safe, since the
// log fences writers; and if each node waited for a seed, a cluster whose nodes start
// together would never start.
func (n *node) becomeReady(ctx, draining context.Context) error {
	for _, signal := range []<-chan struct{}{n.cluster.Joined(), n.feed.Started(), n.readSide.projections.CaughtUp()} {
		select {
		case <-signal:
		case <-draining.Done():
			return nil
		case <-ctx.Done():
			return nil
		}
	}
	if n.cfg.Memories != nil {
		n.cfg.Memories(n.readSide.projections)
	}
	if n.cfg.Clients != nil {
		n.cfg.Clients(Clients{n})
	}
	n.cluster.SetState(cluster.Ready)
	n.setState(cluster.Ready)
	url := "http://" + urlHost(n.client.Addr())
	n.log.Info("ready", "url", url, "domain", n.cfg.Domain, "gateway", n.cfg.Gateway)
	n.cfg.Ready(url)
	return nil
}

// beginDelivery starts live delivery after a position: at the start, and again after
// the log went back.
func (n *node) beginDelivery(watermark eventstore.Position) {
	n.readSide.projections.Begin(watermark)
	if n.gateway != nil {
		n.gateway.Begin(watermark)
	}
}

// deliver passes committed events, in order, from the feed to the other parts.
func (n *node) deliver(commits []eventstore.Commit) {
	if n.host != nil {
		n.host.Observe(commits)
	}
	n.readSide.projections.Observe(commits)
	if n.readSide.head != nil && len(commits) > 0 {
		n.readSide.head(commits[len(commits)-1].Position)
	}
	if n.gateway != nil {
		n.observer.Deliver(commits, n.cfg.Now(), n.gateway.Deliver)
	}
	if n.console != nil {
		n.console.Deliver(commits)
	}
}

// ringChanged drops cached aggregates that another node owns now.
func (n *node) ringChanged(r *ring.Ring) {
	n.cluster.SetRing(r.Signature())
	n.moves.changed(r, time.Now())
	if n.host != nil {
		n.host.Keep(func(s eventstore.StreamID) bool {
			owner, ok := r.Owner(s)
			return !ok || owner == n.cfg.Name
		})
	}
}

// serveUntil runs serve until ctx ends, then calls stop and waits for serve.
func serveUntil(ctx context.Context, serve func() error, stop func()) error {
	done := make(chan error, 1)
	go func() { done <- serve() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		stop()
		<-done
		return nil
	}
}
