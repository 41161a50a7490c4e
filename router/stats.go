package router

import (
	"sort"
	"sync"
	"sync/atomic"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router/link"
)

// Stats has a router's counters since its creation.
type Stats struct {
	// Local and Forwarded count commands of this node's sessions: Local those
	// passed to its executor, Forwarded those sent to a peer.
	Local     uint64 `json:"local"`
	Forwarded uint64 `json:"forwarded"`
	// ExecutedForOthers and HandedOn count commands of peers: ExecutedForOthers
	// those passed to this node's executor, HandedOn those sent on to the owner
	// in this node's view.
	ExecutedForOthers uint64 `json:"executed_for_others"`
	HandedOn          uint64 `json:"handed_on"`
	// Retried counts further attempts to execute a command, and Unknown the
	// attempts whose fate is unknown.
	Retried uint64 `json:"retried"`
	Unknown uint64 `json:"unknown"`
	// Busy, Unavailable and Timeout count answers with that code to this node's
	// sessions, including answers of other nodes.
	Busy        uint64 `json:"busy"`
	Unavailable uint64 `json:"unavailable"`
	Timeout     uint64 `json:"timeout"`
	// Elsewhere counts commands of peers that this node declined with Elsewhere
	// set, so that the peer tries another node.
	Elsewhere uint64 `json:"elsewhere"`
	// Gets counts gets of this node's sessions.
	Gets uint64 `json:"gets"`
	// Silences counts streams to peers that ended because one side did not hear
	// the other.
	Silences uint64 `json:"silences"`
	// RingChanges counts changes of the set of owners.
	RingChanges uint64 `json:"ring_changes"`
	// Unanswered is the current number of commands without an answer.
	Unanswered int64 `json:"unanswered"`
}

type counters struct {
	local, forwarded, executedForOthers, handedOn atomic.Uint64
	retried, unknown                              atomic.Uint64
	busy, unavailable, timeout, elsewhere, gets   atomic.Uint64
	ringChanges, silences                         atomic.Uint64
	unanswered                                    atomic.Int64
}

// handover counts the nth handover of a command.
func (c *counters) handover(n int, toExecutor, fromPeer bool) {
	if n > 1 {
		c.retried.Add(1)
	}
	switch {
	case toExecutor && fromPeer:
		c.executedForOthers.Add(1)
	case toExecutor:
		c.local.Add(1)
	case fromPeer:
		c.handedOn.Add(1)
	default:
		c.forwarded.Add(1)
	}
}

// failure counts the failure of an answer to a command; f may be nil.
func (c *counters) failure(f *command.Failure, fromPeer bool) {
	switch {
	case f == nil:
	case fromPeer && f.Elsewhere:
		c.elsewhere.Add(1)
	case fromPeer:
	case f.Code == command.CodeBusy:
		c.busy.Add(1)
	case f.Code == command.CodeUnavailable:
		c.unavailable.Add(1)
	case f.Code == command.CodeTimeout:
		c.timeout.Add(1)
	}
}

// Stats returns the counters.
func (r *Router) Stats() Stats {
	c := &r.count
	return Stats{
		Local: c.local.Load(), Forwarded: c.forwarded.Load(),
		ExecutedForOthers: c.executedForOthers.Load(), HandedOn: c.handedOn.Load(),
		Retried: c.retried.Load(), Unknown: c.unknown.Load(),
		Busy: c.busy.Load(), Unavailable: c.unavailable.Load(), Timeout: c.timeout.Load(),
		Elsewhere: c.elsewhere.Load(), Gets: c.gets.Load(), RingChanges: c.ringChanges.Load(), Silences: c.silences.Load(), Unanswered: c.unanswered.Load(),
	}
}

// LinkStatus describes a link to a peer.
type LinkStatus = link.Status

// Links describes the links to all other domain nodes, sorted by node.
func (r *Router) Links() []LinkStatus {
	var all []LinkStatus
	for _, l := range *r.links.Load() {
		all = append(all, l.Status())
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Node < all[j].Node })
	return all
}

// gauge counts work in flight. Drain waits until it is 0.
type gauge struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed at 0; nil if no goroutine waits
}

func (g *gauge) add(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.n += n; g.n == 0 && g.idle != nil {
		close(g.idle)
		g.idle = nil
	}
}

func (g *gauge) value() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.n
}

// wait returns a channel that is closed when the gauge is at 0.
func (g *gauge) wait() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.idle == nil {
		g.idle = make(chan struct{})
	}
	idle := g.idle
	if g.n == 0 {
		close(g.idle)
		g.idle = nil
	}
	return idle
}

// broadcast wakes every goroutine that waits for the next change.
type broadcast struct {
	mu   sync.Mutex
	next chan struct{}
}

// wait returns a channel that is closed at the next change.
func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next == nil {
		b.next = make(chan struct{})
	}
	return b.next
}

func (b *broadcast) send() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.next != nil {
		close(b.next)
		b.next = nil
	}
}
