package router

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ganglion-es/ganglion/router/link"
)

// Stats counts what a router has done since it was made.
type Stats struct {
	// Local and Forwarded count commands of this node's own sessions that it
	// handed to its own executor, and that it sent to a peer.
	Local     uint64 `json:"local"`
	Forwarded uint64 `json:"forwarded"`
	// ExecutedForOthers and HandedOn count commands of peers that this node
	// handed to its executor, and that it sent on to the owner in its view.
	ExecutedForOthers uint64 `json:"executed_for_others"`
	HandedOn          uint64 `json:"handed_on"`
	// Retried counts commands that were sent to another candidate, Unknown
	// those whose fate was unknown at the one before.
	Retried uint64 `json:"retried"`
	Unknown uint64 `json:"unknown"`
	// Busy, Unavailable and Timeout count answers that this router gave or
	// passed on to its own sessions.
	Busy        uint64 `json:"busy"`
	Unavailable uint64 `json:"unavailable"`
	Timeout     uint64 `json:"timeout"`
	// Elsewhere counts commands of peers that this node refused unexecuted.
	Elsewhere uint64 `json:"elsewhere"`
	// Gets counts gets of this node's sessions.
	Gets uint64 `json:"gets"`
	// Silences counts streams to peers that were given up because one side did
	// not hear the other.
	Silences uint64 `json:"silences"`
	// RingChanges counts the times that owners came or went.
	RingChanges uint64 `json:"ring_changes"`
	// Unanswered is the number of commands without an answer at this moment.
	Unanswered int64 `json:"unanswered"`
}

type counters struct {
	local, forwarded, executedForOthers, handedOn atomic.Uint64
	retried, unknown                              atomic.Uint64
	busy, unavailable, timeout, elsewhere, gets   atomic.Uint64
	ringChanges, silences                         atomic.Uint64
	unanswered                                    atomic.Int64
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
	slices.SortFunc(all, func(a, b LinkStatus) int { return strings.Compare(a.Node, b.Node) })
	return all
}

// gauge counts what is under way, and tells when it is nothing.
type gauge struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed at 0, if somebody waits
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

// wait returns a channel that is closed once the gauge is at 0.
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

// broadcast wakes all who wait for the next change.
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
