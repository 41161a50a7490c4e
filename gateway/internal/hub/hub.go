// Package hub brings new events to sessions.
//
// A [Hub] keeps the newest events, each encoded once, in a window. It does not
// push events to sessions. Sessions are spread over shards, each with one
// goroutine that writes to its sessions in turns; a subscription's cursor says
// which events of the window come next for it.
//
// A subscription has a [Seat]. While it is live, the seat is in the audience of
// its topic, and a new event wakes the audience. While it reads back, it is in
// no audience, and its session asks for turns ([Member.ScheduleBulk]).
//
// A turn serves at most 64 sessions with live events or pending replies, and 8
// that read back. It takes well under a millisecond, so a topic with one
// subscription is not delayed by one with a hundred thousand. Under load, a
// session's frames accumulate until its next turn and share a message.
//
// Deliver is called by one goroutine. The methods of a Turn, and a session's
// Write, are called by the shard's goroutine only. Everything else is safe for
// concurrent use.
package hub

import (
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
)

// Config configures a [Hub].
type Config struct {
	Encode history.Encode
	Window *history.Window
	// MessageLimit returns the current limit of a message, in bytes.
	MessageLimit func() int
	// Shards defaults to GOMAXPROCS.
	Shards int
}

// Hub keeps the newest events and wakes the sessions that want them.
type Hub struct {
	encode history.Encode
	shards []*Shard
	next   atomic.Uint64 // shard of the next session, modulo the number of shards

	mu     sync.RWMutex
	head   eventstore.Position
	window *history.Window
}

// New returns a Hub.
func New(cfg Config) *Hub {
	h := &Hub{encode: cfg.Encode, window: cfg.Window}
	if cfg.Shards == 0 {
		cfg.Shards = runtime.GOMAXPROCS(0)
	}
	for range cfg.Shards {
		h.shards = append(h.shards, newShard(h, cfg.MessageLimit))
	}
	return h
}

// Run serves the sessions until Stop.
func (h *Hub) Run() {
	var shards sync.WaitGroup
	for _, sh := range h.shards {
		shards.Go(sh.run)
	}
	shards.Wait()
}

// Stop makes Run return after the pending turns.
func (h *Hub) Stop() {
	for _, sh := range h.shards {
		sh.stop()
	}
}

// Deliver adds committed events, dense and in order. It returns false if events
// before them are missing. It then drops the older events from the window, and
// readers must resume from the log.
func (h *Hub) Deliver(commits []eventstore.Commit) (dense bool) {
	head, hole := h.Head(), eventstore.Position(0)
	var fresh []*history.Entry
	for i := range commits {
		c := &commits[i]
		if c.First() > head+1 {
			hole = c.First() - 1
			fresh = fresh[:0]
		}
		for j := range c.Events {
			if p := c.First() + eventstore.Position(j); p > head { // else the window has it
				fresh = append(fresh, h.encode(c, j))
				head = p
			}
		}
	}
	h.mu.Lock()
	if hole > 0 {
		h.window.Clear(hole)
	}
	for _, e := range fresh {
		h.window.Add(e)
	}
	h.head = head
	h.mu.Unlock()
	for _, sh := range h.shards {
		sh.announce(fresh, head)
	}
	return hole == 0
}

// Head returns the position of the newest event.
func (h *Hub) Head() eventstore.Position {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.head
}

// Excerpt returns the window's events of a topic, and the head.
func (h *Hub) Excerpt(t history.Topic) (history.Excerpt, eventstore.Position) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.window.Excerpt(t), h.head
}

// Reset drops the window and sets the head, since the log may have gone back.
func (h *Hub) Reset(head eventstore.Position) {
	h.mu.Lock()
	h.window.Clear(head)
	h.head = head
	h.mu.Unlock()
	for _, sh := range h.shards {
		sh.announce(nil, head)
	}
}

// Audience counts the live subscriptions that get the events of a stream.
func (h *Hub) Audience(stream eventstore.StreamID) (n int) {
	for _, sh := range h.shards {
		sh.mu.Lock()
		for _, t := range []history.Topic{{}, {Stream: stream}, {Category: stream.Type}} {
			if a := sh.audiences[t]; a != nil {
				n += len(a.seats)
			}
		}
		sh.mu.Unlock()
	}
	return n
}
