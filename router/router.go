// Package router carries a command to the node that owns its aggregate,
// whichever node that is, and brings the answer back.
//
// Gossip chooses owners, the health of links chooses whom to try, and nobody
// waits for a failure detector: an owner that does not answer is passed over
// for the next candidate, which is the owner in the ring without it, the very
// table that all nodes will agree on once they have seen that it is gone.
//
// # What Send promises
//
// Each command is answered exactly once, and by its deadline.
//
//   - A command that was certainly not executed (no link, still in our own
//     queue, refused by a node that drains or is too old) goes to the next
//     candidate at once. Where the next one is dead as well, that is the owner
//     in the ring of all that can be reached.
//   - So does one whose fate is unknown (its stream broke after it was sent,
//     or its link was silent for 500 ms), with the same key and a higher
//     Attempt. The event store gives a key one effect and one answer, so that
//     sending it again is safe.
//   - So does one whose node can't reach the database: others may. Once all have
//     said that, it is the answer, and nobody waits for more candidates.
//   - Everything else is the answer: busy, a business "no", a conflict.
//
// Two candidates at most leave a command's fate unknown, then its client is
// asked to send it again with its key; those that declined it don't count, but
// at most four nodes are asked at all. A command that finds none to ask within 2
// seconds, as when the cluster has no domain node at all, is answered
// unavailable: "later" if it was certainly never executed, "same_key" if that
// is unknown. Once a command's fate at some node is unknown, no answer of
// another node says "later".
//
// A link that was silent is on trial (see package link): it gets one command,
// and the others go to the next candidate until that is answered. Where there
// is no other candidate, it gets them all.
//
// A node that gets a command from a peer and is not the owner in its own view
// hands it on once, if it can reach that owner, and else executes it; a
// command that was handed on is executed where it arrives. So views that
// differ cost a hop and never a loop or a refusal.
//
// # Lanes
//
// The commands of one session to one aggregate are a lane, and keep their
// order, pipelined, also when an owner dies. While anything of a lane is
// unanswered, what follows goes to the same node by the same stream, or waits
// if its candidate is another one. When a stream breaks, the lane waits until
// the fate of all that it had there is known, and is sent again in order. A
// node that hands commands on keeps lanes of its own for them.
//
// A command that will be sent again, by us to another node or by its client
// because the answer says "later" or "same_key", refuses what was sent behind
// it in ignorance of that, wherever it is by then; else a pipelined second
// command would be executed without the first, or before it:
//
//   - What is behind it in the lane and still here is answered at once, "later":
//     unavailable if that was it, else busy.
//   - What an executor has is kept from beginning by Command.Lane.
//   - What is on its way over a link carries the number of replies that its
//     sender had acted on (Request.seen). A receiver remembers which of its
//     replies refused a command of a lane, and refuses what comes on that lane
//     with a lower number. It forgets that when the sender has told that it
//     knows.
//   - Whoever has it says that it has refused it. If its stream breaks before
//     that, it is not sent again: it is answered the same, with "same_key".
//   - What the client has sent and we have not read yet can't be known. The lane
//     stays busy for the time that the answer tells the client to wait (After,
//     250 ms unless the executor says otherwise), for all but the command that
//     has to come first.
//
// Commands without a session have no lane, and no order.
//
// # Bounds
//
// A lane holds 1,024 unanswered commands and a router 65,536, those of peers
// included; past that, and when a link's queue is full, the answer is busy.
package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/link"
	"github.com/ganglion-es/ganglion/router/ring"
)

// Executor runs the aggregates of a domain node. package engine has one.
//
// An executor that does not begin a command because it is full answers Busy;
// one that leaves, or can't read the aggregate's events, or has lost its
// database, answers with a failure that says Elsewhere; with After if it knows
// how long that will be so. Right before it begins a command it asks
// Command.Lane for a Refusal, and answers with that if there is one.
type Executor interface {
	// Submit hands in a command. Commands on one stream are executed in the
	// order of the calls. Submit never blocks; reply is called exactly once,
	// on any goroutine, perhaps before Submit returns, and must not block.
	Submit(c command.Command, reply func(command.Outcome))

	// Get answers with the aggregate's public state. The error is a
	// *command.Failure.
	Get(ctx context.Context, g command.Get) (command.State, error)
}

// Config configures a Router.
type Config struct {
	// Self is this node's id. Required.
	Self string

	// Executor executes what this node owns. A node without one (a gateway)
	// never executes.
	Executor Executor

	// Watch returns a channel with the newest view at once and at each
	// change, closed when the context ends. Required.
	Watch func(ctx context.Context) <-chan *cluster.View

	// View returns the newest view. With it, a router knows the ring before
	// Run.
	View func() *cluster.View

	// Pool holds the connections to peers. Required.
	Pool *link.Pool

	// OnRing, if not nil, is called with the first ring and with each one
	// that differs from the one before, on Run's goroutine, after commands
	// have begun to follow it.
	OnRing func(*ring.Ring)

	// Suspect is how long a peer's link may be silent before others are
	// tried.
	//
	// Defaults to 500 ms.
	Suspect time.Duration

	// Search bounds the time without a candidate to ask.
	//
	// Defaults to 2 seconds.
	Search time.Duration

	// Timeout is the deadline of commands and gets that have none.
	//
	// Defaults to 5 seconds.
	Timeout time.Duration

	// BusyPause is how long a lane stays busy once one of its commands was
	// answered "later" or "same_key", if the answer says nothing else.
	//
	// Defaults to 250 ms.
	BusyPause time.Duration

	// MaxLane bounds the unanswered commands of a lane, and MaxUnanswered
	// those of the router.
	//
	// Default to 1,024 and 65,536.
	MaxLane, MaxUnanswered int

	// MaxGets bounds the gets that are answered for peers at once.
	//
	// Defaults to 1,024.
	MaxGets int

	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	if c.Self == "" {
		errs = append(errs, errors.New("router: Self is required: the node's id"))
	}
	if c.Watch == nil {
		errs = append(errs, errors.New("router: Watch is required"))
	}
	if c.Pool == nil {
		errs = append(errs, errors.New("router: Pool is required"))
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		standard time.Duration
	}{
		{"Suspect", &c.Suspect, link.DefaultSilence},
		{"Search", &c.Search, 2 * time.Second},
		{"Timeout", &c.Timeout, 5 * time.Second},
		{"BusyPause", &c.BusyPause, 250 * time.Millisecond},
	} {
		if *d.value < 0 {
			errs = append(errs, fmt.Errorf("router: %s is negative", d.name))
		}
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	if c.Suspect > 0 && c.Suspect < 2*link.Heartbeat {
		errs = append(errs, fmt.Errorf("router: Suspect is %v, less than two heartbeats of %v: every peer would be suspected all the time", c.Suspect, link.Heartbeat))
	}
	for _, n := range []struct {
		name     string
		value    *int
		standard int
	}{
		{"MaxLane", &c.MaxLane, 1024},
		{"MaxUnanswered", &c.MaxUnanswered, 65536},
		{"MaxGets", &c.MaxGets, 1024},
	} {
		if *n.value < 0 {
			errs = append(errs, fmt.Errorf("router: %s is negative", n.name))
		}
		if *n.value == 0 {
			*n.value = n.standard
		}
	}
	if c.OnRing == nil {
		c.OnRing = func(*ring.Ring) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}

// Router sends commands to their owners, and executes those that other nodes
// send to this one. It is safe for concurrent use.
type Router struct {
	cfg    Config
	ring   atomic.Pointer[ring.Ring]
	links  atomic.Pointer[map[string]*link.Link] // by node; replaced, not changed
	shards [64]shard
	count  counters

	draining atomic.Bool
	closed   atomic.Bool
	changed  broadcast     // the ring, a link, draining or closed
	changes  atomic.Uint64 // of those
	part     part

	warned    atomic.Int64 // when tellUnavailable last did, in Unix nanoseconds; 0 since tellAnswered did
	refusedAt atomic.Int64 // when a command was last answered unavailable, in Unix nanoseconds

	own     gauge         // commands and gets that this node executes, or answers for a peer
	streams gauge         // of peers
	gets    chan struct{} // holds a place for each get that is answered for a peer

	mu      sync.Mutex
	peers   map[*inbound]struct{}
	stopped bool // no further stream is taken
	work    sync.WaitGroup
}

// part is the ring of those who could be reached at a change.
type part struct {
	mu   sync.Mutex // inside shard.mu
	full *ring.Ring
	at   uint64
	ring *ring.Ring
}

// New returns a Router that knows no peers until Run is called. The error
// names everything that is wrong with the configuration.
func New(cfg Config) (*Router, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	r := &Router{
		cfg:   cfg,
		gets:  make(chan struct{}, cfg.MaxGets),
		peers: make(map[*inbound]struct{}),
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
		r.shards[i].lanes = make(map[laneKey]*lane)
		r.shards[i].waiting = make(map[*lane]struct{})
	}
	return r, nil
}

// Ring returns the ring that commands follow at this moment.
func (r *Router) Ring() *ring.Ring { return r.ring.Load() }

// Run follows the cluster's views: it keeps a link to every other domain node
// and the ring up to date, until the context ends. Then it breaks the links
// and the peers' streams, and what is not answered by then is answered
// unavailable, except for what the executor has: it still answers that.
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
	r.kick()
	r.hangUp()
	r.work.Wait()
	return nil
}

func (r *Router) followRing(view *cluster.View, first bool) {
	owners := view.Owners()
	if !slices.Equal(owners, r.ring.Load().Members()) {
		now := ring.New(owners)
		r.ring.Store(now)
		r.count.ringChanges.Add(1)
		r.cfg.Logger.Info("the ring changed", "members", now.Members(), "signature", fmt.Sprintf("%016x", now.Signature()))
		r.kick()
	} else if !first {
		return
	}
	r.cfg.OnRing(r.ring.Load())
}

// followLinks opens links to domain nodes that are new or have moved. Links
// to those that are gone take no more requests, and end when they have
// nothing unanswered.
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
				Node: m.ID, Addr: m.PeerAddr, Conn: r.cfg.Pool.Conn,
				Silence: r.cfg.Suspect, Changed: r.kick, Silent: func() { r.count.silences.Add(1) }, Logger: r.cfg.Logger,
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

// kick looks again at what waits for a candidate.
func (r *Router) kick() {
	r.changes.Add(1)
	r.changed.send()
	for i := range r.shards {
		r.shards[i].kick()
	}
}
