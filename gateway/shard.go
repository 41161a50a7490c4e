package gateway

import (
	"runtime"
	"sync"

	"github.com/ganglion-es/ganglion/eventstore"
)

// What a shard does in one turn, before it looks for something new to do. A
// turn is well under a millisecond, so that a topic with one subscription is
// not held up by one with a hundred thousand.
const (
	turnLive = 64 // sessions that get what is live, or what they are owed
	turnBulk = 8  // sessions that get another message of what they missed
)

// shard is the part of the sessions that one goroutine writes to.
//
// That goroutine works in turns. It takes the sessions that are owed
// something, the next part of the subscriptions that topics with new events
// have, and a few sessions that are reading back, and writes to each of them
// once, without blocking. Under load a session's frames gather by themselves
// until its next turn. Only a full socket gets a goroutine of its own.
type shard struct {
	g *Gateway

	mu        sync.Mutex
	work      sync.Cond
	head      eventstore.Position // of what was announced; no session is sent more
	audiences map[topic]*audience
	urgent    queue[*session]  // owed something
	visits    queue[*audience] // have new events
	bulk      queue[*session]  // reading back, with more to be had
	early     []*subscription  // past the head: the client saw more at another gateway
	stopped   bool
}

// audience is the live subscriptions of one topic in one shard. New events
// make it due for a visit, which goes through subs from the end to the start,
// a part in each turn: whoever joins or leaves meanwhile is met, or needs not
// to be.
type audience struct {
	topic  topic
	subs   []*subscription
	left   int  // subs[:left] are still to be visited
	queued bool // in visits, or taken out of it by the turn under way
	begun  bool
	again  bool // there was another event since the visit began
}

func newShard(g *Gateway) *shard {
	sh := &shard{g: g, audiences: make(map[topic]*audience)}
	sh.work.L = &sh.mu
	return sh
}

// announce makes the audiences of new events due for a visit. The events are
// in the window.
func (sh *shard) announce(entries []*entry, head eventstore.Position) {
	sh.mu.Lock()
	for i, e := range entries {
		if i > 0 && entries[i-1].stream == e.stream {
			continue
		}
		sh.visit(topic{stream: e.stream})
		if i == 0 || entries[i-1].stream.Type != e.stream.Type {
			sh.visit(topic{category: e.stream.Type})
		}
	}
	sh.head = head
	var reached []*subscription
	rest := sh.early[:0]
	for _, sub := range sh.early {
		if sub.wants <= head {
			reached = append(reached, sub)
		} else {
			rest = append(rest, sub)
		}
	}
	clear(sh.early[len(rest):])
	sh.early = rest
	sh.mu.Unlock()
	for _, sub := range reached {
		sub.resume(nil)
	}
}

func (sh *shard) visit(t topic) {
	a := sh.audiences[t]
	switch {
	case a == nil:
	case !a.queued:
		a.queued, a.left = true, len(a.subs)
		sh.visits.push(a)
		sh.work.Signal()
	case a.begun:
		a.again = true
	}
}

// join makes a subscription hear of new events, if none at or below the head
// is left for it: isLeft reports that, given the head. It returns that head in
// either case.
func (sh *shard) join(sub *subscription, isLeft func(head eventstore.Position) bool) (head eventstore.Position, ok bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if isLeft(sh.head) {
		return sh.head, false
	}
	a := sh.audiences[sub.topic]
	if a == nil {
		a = &audience{topic: sub.topic}
		sh.audiences[sub.topic] = a
	}
	sub.audience, sub.seat = a, len(a.subs)
	a.subs = append(a.subs, sub)
	return sh.head, true
}

// leave undoes join.
func (sh *shard) leave(subs ...*subscription) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, sub := range subs {
		a := sub.audience
		if a == nil {
			continue
		}
		sub.audience = nil
		last := len(a.subs) - 1
		a.subs[sub.seat] = a.subs[last] // that one was visited, or this one was not
		a.subs[sub.seat].seat = sub.seat
		a.subs[last] = nil
		a.subs = a.subs[:last]
		a.left = min(a.left, last)
		if last == 0 {
			delete(sh.audiences, a.topic)
		} else if cap(a.subs) > 64 && last < cap(a.subs)/4 {
			a.subs = append(make([]*subscription, 0, 2*last), a.subs...)
		}
	}
}

// await has a subscription resumed once the head has reached its place. It
// returns false if it has already.
func (sh *shard) await(sub *subscription, position eventstore.Position) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.head >= position {
		return false
	}
	sub.wants = position
	sh.early = append(sh.early, sub)
	return true
}

// flush has a session written to in the next turn.
func (sh *shard) flush(s *session) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if !s.urgent {
		s.urgent = true
		sh.urgent.push(s)
		sh.work.Signal()
	}
}

// flushBulk has a session written to when others have had their turn.
func (sh *shard) flushBulk(s *session) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if !s.bulk {
		s.bulk = true
		sh.bulk.push(s)
		sh.work.Signal()
	}
}

// due tells which live subscriptions have new events that no visit has
// brought to them yet.
func (sh *shard) due(subs map[string]*subscription, each func(*subscription)) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for _, sub := range subs {
		if sub.audience != nil && sub.audience.queued {
			each(sub)
		}
	}
}

func (sh *shard) stop() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.stopped = true
	sh.work.Signal()
}

// run takes turns until stop.
func (sh *shard) run() {
	t := &turn{g: sh.g}
	for sh.next(t) {
		sh.serve(t)
		// What others have to do, such as taking in the next events, may
		// wait for a processor.
		runtime.Gosched()
	}
}

// serve writes to the sessions of a turn.
func (sh *shard) serve(t *turn) {
	// All are marked before the first is written to: a session that several
	// topics touch gets one message, and a heartbeat that is due knows what
	// was to come before it.
	for _, sub := range t.subs {
		sub.touch()
	}
	for _, s := range t.sessions {
		if s.turn != t.number {
			s.turn = t.number
			s.flush(t)
		}
	}
	for _, sub := range t.subs {
		if s := sub.session; s.turn != t.number {
			s.turn = t.number
			s.flush(t)
		}
	}
}

// next waits for something to do and takes a turn's share of it.
func (sh *shard) next(t *turn) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for sh.urgent.len() == 0 && sh.visits.len() == 0 && sh.bulk.len() == 0 {
		if sh.stopped {
			return false
		}
		t.rest()
		sh.work.Wait()
	}
	t.begin(sh.head)
	for range min(sh.urgent.len(), turnLive) {
		s := sh.urgent.pop()
		s.urgent = false
		t.sessions = append(t.sessions, s)
	}
	for n := turnLive; n > 0 && sh.visits.len() > 0; {
		a := sh.visits.pop()
		part := min(n, a.left)
		t.subs = append(t.subs, a.subs[a.left-part:a.left]...)
		a.left -= part
		a.begun = true
		n -= part
		if a.left == 0 && a.again {
			a.again, a.begun, a.left = false, false, len(a.subs)
		}
		if a.left > 0 {
			sh.visits.push(a)
		} else {
			a.queued, a.begun = false, false
		}
	}
	for range min(sh.bulk.len(), turnBulk) {
		s := sh.bulk.pop()
		s.bulk = false
		t.sessions = append(t.sessions, s)
	}
	return true
}

// turn is what a shard's goroutine works with in one turn.
type turn struct {
	g        *Gateway
	number   uint64
	head     eventstore.Position // no session is sent more in this turn
	limit    int                 // of a message, in bytes
	sessions []*session
	subs     []*subscription
	scratch  []byte

	// Sessions of one topic are met one after another, and mostly have the
	// same cursor: what was looked up and encoded for one serves the next.
	topic   topic
	excerpt excerpt
	memos   [4]memo
	oldest  int
}

// memo is a message of events, as one session got it.
type memo struct {
	topic   topic
	head    string // what the frames begin with
	first   *entry
	last    *entry
	count   int
	all     bool // nothing was left after it
	message []byte
}

func (t *turn) begin(head eventstore.Position) {
	t.number++
	t.head = head
	t.limit = t.g.messageLimit()
	t.forget()
}

// forget lets go of what the last turn held.
func (t *turn) forget() {
	clear(t.sessions)
	clear(t.subs)
	t.sessions, t.subs = t.sessions[:0], t.subs[:0]
	t.topic, t.excerpt = topic{}, excerpt{}
	for i := range t.memos {
		m := &t.memos[i]
		m.topic, m.head, m.first, m.last = topic{}, "", nil, nil
	}
}

// rest is called when there is nothing more to do: an idle shard keeps little.
func (t *turn) rest() {
	t.forget()
	if cap(t.scratch) > 2*messageBytes {
		t.scratch = nil
	}
	for i := range t.memos {
		if cap(t.memos[i].message) > 2*messageBytes {
			t.memos[i].message = nil
		}
	}
}

// of returns what the window knows of a topic, no older than the turn's head.
func (t *turn) of(topic topic) *excerpt {
	if t.topic != topic {
		t.topic = topic
		t.excerpt, _ = t.g.hub.excerpt(topic)
	}
	return &t.excerpt
}

func (t *turn) recall(sub *subscription, first *entry) *memo {
	for i := range t.memos {
		if m := &t.memos[i]; m.first == first && m.head == sub.head && m.topic == sub.topic {
			return m
		}
	}
	return nil
}

func (t *turn) remember(m memo) {
	slot := &t.memos[t.oldest]
	t.oldest = (t.oldest + 1) % len(t.memos)
	m.message = append(slot.message[:0], m.message...)
	*slot = m
}

// queue is a first-in, first-out queue in a ring.
type queue[T any] struct {
	ring        []T
	first, size int
}

func (q *queue[T]) len() int { return q.size }

func (q *queue[T]) push(v T) {
	if q.size == len(q.ring) {
		ring := make([]T, max(16, 2*len(q.ring)))
		n := copy(ring, q.ring[q.first:])
		copy(ring[n:], q.ring[:q.first])
		q.ring, q.first = ring, 0
	}
	q.ring[(q.first+q.size)%len(q.ring)] = v
	q.size++
}

func (q *queue[T]) pop() T {
	var zero T
	v := q.ring[q.first]
	q.ring[q.first] = zero
	q.first = (q.first + 1) % len(q.ring)
	if q.size--; q.size == 0 && len(q.ring) > 1024 {
		q.ring, q.first = nil, 0
	}
	return v
}
