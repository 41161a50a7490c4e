package gateway

import (
	"slices"
	"sync"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// topic is what a subscription wants: one stream, or all streams of a type.
type topic struct {
	stream   eventstore.StreamID
	category string
}

func (t topic) typ() string {
	if t.category != "" {
		return t.category
	}
	return t.stream.Type
}

// hub brings each event to the live subscriptions that want it.
//
// A subscription is in the hub only while it is live: everything at or below
// the head that matches it is in its session's queue. Joining and delivering
// exclude each other, so that there is neither a gap nor a repeat between
// what a subscription read of the log and what it then gets live.
//
// Locks: hub.mu, then session.mu; never the other way round.
type hub struct {
	encode func(c *eventstore.Commit, i int) *entry

	mu      sync.RWMutex
	head    eventstore.Position
	window  *window
	topics  map[topic][]*subscription
	waiting []waiter
}

// waiter waits for the head to reach a position.
type waiter struct {
	position eventstore.Position
	reached  chan struct{}
}

// deliver takes commits in, dense and in order. It returns false when they do
// not follow on the head; they are then taken in all the same, and who counts
// on their order must start again.
func (h *hub) deliver(commits []eventstore.Commit) (events int, dense bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	dense = true
	for i := range commits {
		c := &commits[i]
		if c.First() > h.head+1 {
			dense = false
			h.window.clear()
		}
		for j := range c.Events {
			position := c.First() + eventstore.Position(j)
			if position <= h.head {
				continue // known already
			}
			e := h.encode(c, j)
			h.window.add(e)
			h.head = position
			h.spread(topic{stream: e.stream}, e)
			h.spread(topic{category: e.stream.Type}, e)
			events++
		}
	}
	h.wake()
	return events, dense
}

// spread hands one event to the live subscriptions of a topic, and drops
// those that are live no more.
func (h *hub) spread(t topic, e *entry) {
	subs, ok := h.topics[t]
	if !ok {
		return
	}
	for i := 0; i < len(subs); {
		if subs[i].session.push(subs[i], e) {
			i++
			continue
		}
		subs[i].joined = false
		last := len(subs) - 1
		subs[i], subs[last] = subs[last], nil
		subs = subs[:last]
	}
	if len(subs) == 0 {
		delete(h.topics, t)
	} else {
		h.topics[t] = subs
	}
}

// joinState says how an attempt to join ended.
type joinState uint8

const (
	joined    joinState = iota // it is live
	moved                      // it changed meanwhile: look again
	early                      // it is past the head: wait for the head
	left                       // the window has more for it
	uncovered                  // only the log has what is next
)

// join makes a subscription live if nothing at or below the head is left for
// it; at and rewinds are what the caller knows of it. Otherwise it returns
// some of what is left, if the window has it.
func (h *hub) join(sub *subscription, at eventstore.Position, rewinds, limit int) ([]*entry, eventstore.Position, joinState) {
	h.mu.RLock()
	entries, state := h.left(sub.topic, at, limit)
	head := h.head
	h.mu.RUnlock()
	if state != joined {
		return entries, head, state
	}

	h.mu.Lock() // looking again, now that nothing can come between
	defer h.mu.Unlock()
	entries, state = h.left(sub.topic, at, limit)
	if state != joined {
		return entries, h.head, state
	}
	if !sub.session.goLive(sub, at, rewinds, h.head) {
		return nil, h.head, moved
	}
	if !sub.joined {
		sub.joined = true
		h.topics[sub.topic] = append(h.topics[sub.topic], sub)
	}
	return nil, h.head, joined
}

// left returns what lies between a position and the head, joined if nothing.
func (h *hub) left(t topic, at eventstore.Position, limit int) ([]*entry, joinState) {
	if at > h.head {
		return nil, early
	}
	if !h.window.covers(at, h.head) {
		return nil, uncovered
	}
	if entries := h.window.after(t, at, limit); len(entries) > 0 {
		return slices.Clone(entries), left
	}
	return nil, joined
}

// leave drops a subscription that has ended.
func (h *hub) leave(subs ...*subscription) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, sub := range subs {
		if !sub.joined {
			continue
		}
		sub.joined = false
		list := h.topics[sub.topic]
		if i := slices.Index(list, sub); i >= 0 {
			last := len(list) - 1
			list[i], list[last] = list[last], nil
			list = list[:last]
		}
		if len(list) == 0 {
			delete(h.topics, sub.topic)
		} else {
			h.topics[sub.topic] = list
		}
	}
}

// beat puts a heartbeat into a session's queue. Delivering waits meanwhile,
// so that everything at or below the cursor is in the queue before it.
func (h *hub) beat(s *session) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	s.pushHeartbeat(cursor(h.head))
}

func (h *hub) position() eventstore.Position {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.head
}

// newest returns the newest event of a topic in the window, or nil, and the
// head.
func (h *hub) newest(t topic) (*entry, eventstore.Position) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if list := h.window.of(t); len(list) > 0 {
		return list[len(list)-1], h.head
	}
	return nil, h.head
}

// versionAt returns a stream's version at a position, if the window knows.
func (h *hub) versionAt(t topic, at eventstore.Position) (eventstore.Version, bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if at > h.head || !h.window.covers(at, h.head) {
		return 0, false
	}
	if next := h.window.after(t, at, 1); len(next) > 0 {
		return next[0].version - 1, true
	}
	if list := h.window.of(t); len(list) > 0 {
		return list[len(list)-1].version, true
	}
	return 0, false
}

// reached returns a channel that is closed once the head is at or past a
// position, or was set anew.
func (h *hub) reached(position eventstore.Position) <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := waiter{position, make(chan struct{})}
	if h.head >= position {
		close(w.reached)
	} else {
		h.waiting = append(h.waiting, w)
	}
	return w.reached
}

func (h *hub) wake() {
	h.waiting = slices.DeleteFunc(h.waiting, func(w waiter) bool {
		if h.head < w.position {
			return false
		}
		close(w.reached)
		return true
	})
}

// reset sets the head anew: the log may have gone back.
func (h *hub) reset(head eventstore.Position) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.head != head {
		h.window.clear()
	}
	h.head = head
	for _, w := range h.waiting {
		close(w.reached)
	}
	h.waiting = nil
}

// encode makes the one form of an event that all sessions share.
func (g *Gateway) encode(c *eventstore.Commit, i int) *entry {
	ev := &c.Events[i]
	e := &entry{
		stream:   c.Stream,
		version:  c.FirstVersion() + eventstore.Version(i),
		position: c.First() + eventstore.Position(i),
	}
	data, err := g.cfg.Catalog.Show(c.Stream.Type, ev.Type, max(ev.Form, 1), ev.Data)
	if err != nil {
		e.err = err
		return e
	}
	f := frame.Event{
		Stream: c.Stream, Version: e.version, Position: e.position,
		Event: ev.Type, Data: data, Time: c.At, Cause: c.Key,
	}
	if g.cfg.Catalog.ShowsCaller(c.Stream.Type) {
		f.By = c.Meta.Client
	}
	e.tail = f.AppendTail(make([]byte, 0, 192+len(data)+len(c.Key)+len(c.Stream.ID)))
	return e
}
