package router

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/internal/lane"
	"github.com/ganglion-es/ganglion/router/link"
	"github.com/ganglion-es/ganglion/router/ring"
)

// Router sends commands to their owners, and executes the commands that other
// nodes send to this one. It is safe for concurrent use.
type Router struct {
	cfg    Config
	ring   atomic.Pointer[ring.Ring]
	links  atomic.Pointer[map[string]*link.Link] // by node; a change replaces the map
	shards [64]shard
	count  counters

	draining atomic.Bool
	closed   atomic.Bool
	changed  broadcast     // sent when the ring, a link, draining or closed changes
	changes  atomic.Uint64 // how often it was sent

	laneConfig lane.Config
	reachable  reachable
	outage     outage

	own     gauge         // commands and gets at the executor, and unanswered ones of peers
	streams gauge         // of peers
	gets    chan struct{} // semaphore of the gets of peers

	mu      sync.Mutex
	peers   map[*inbound]struct{}
	stopped bool           // Commands accepts no stream
	work    sync.WaitGroup // goroutines that serve peers
}

// reachable caches a ring: the members of full that could be reached after
// change, a value of Router.changes.
type reachable struct {
	mu     sync.Mutex // inside shard.mu
	full   *ring.Ring
	change uint64
	ring   *ring.Ring
}

// New returns a Router that knows no peers until Run is called. The error names
// every problem of the configuration.
func New(cfg Config) (*Router, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Router{
		cfg:   cfg,
		gets:  make(chan struct{}, cfg.MaxGets),
		peers: make(map[*inbound]struct{}),

		laneConfig: lane.Config{MaxEntries: cfg.MaxLane, Search: cfg.Search, Pause: cfg.BusyPause},
	}
	r.links.Store(new(map[string]*link.Link))
	var owners []string
	if cfg.View != nil {
		if v := cfg.View(); v != nil {
			owners = v.Owners()
		}
	}
	r.ring.Store(ring.New(owners))
	for i := range r.shards {
		r.shards[i].router = r
		r.shards[i].lanes = make(map[laneKey]*openLane)
		r.shards[i].waiting = make(map[*openLane]struct{})
	}
	return r, nil
}

// Ring returns the ring that commands follow at this moment.
func (r *Router) Ring() *ring.Ring { return r.ring.Load() }

// Run follows the cluster's views until ctx ends: it updates the ring, and
// keeps a link to every other domain node. When ctx ends, it breaks the links
// and the streams of peers, and answers unanswered commands with unavailable.
// Commands at the executor still get the executor's answer.
func (r *Router) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var links sync.WaitGroup
	first := true
	for view := range r.cfg.Watch(ctx) {
		r.followLinks(ctx, view, &links)
		r.followRing(view, first)
		first = false
	}
	cancel()
	links.Wait()
	r.closed.Store(true)
	r.retry()
	r.closePeers()
	r.work.Wait()
	return nil
}

// followRing installs the ring of a view.
func (r *Router) followRing(view *cluster.View, first bool) {
	owners := view.Owners()
	if !slices.Equal(owners, r.ring.Load().Members()) {
		now := ring.New(owners)
		r.ring.Store(now)
		r.count.ringChanges.Add(1)
		r.cfg.Logger.Info("the ring changed", "members", now.Members(), "signature", fmt.Sprintf("%016x", now.Signature()))
		r.retry()
	} else if !first {
		return
	}
	r.cfg.OnRing(r.ring.Load())
}

// followLinks opens links to domain nodes that are new or have a new address.
// A link to a node that is gone accepts no more requests and ends when it has
// no unanswered ones.
func (r *Router) followLinks(ctx context.Context, view *cluster.View, running *sync.WaitGroup) {
	old := *r.links.Load()
	links := make(map[string]*link.Link)
	var opened []*link.Link
	for _, m := range view.Members {
		if !m.Domain || m.ID == r.cfg.Self || m.PeerAddr == "" {
			continue
		}
		l := old[m.ID]
		if l == nil || l.Addr() != m.PeerAddr {
			l = link.New(link.Config{
				Node: m.ID, Addr: m.PeerAddr, Open: r.cfg.Pool.Commands,
				Silence: r.cfg.Suspect, Changed: r.retry, Silent: func() { r.count.silences.Add(1) }, Logger: r.cfg.Logger,
			})
			opened = append(opened, l)
		}
		links[m.ID] = l
	}
	r.links.Store(&links)
	for id, l := range old {
		if links[id] != l {
			l.Finish()
		}
	}
	for _, l := range opened {
		running.Go(func() { l.Run(ctx) })
	}
}

// retry looks again at the commands and gets that wait for a candidate.
func (r *Router) retry() {
	r.changes.Add(1)
	r.changed.send()
	for i := range r.shards {
		r.shards[i].retry()
	}
}
