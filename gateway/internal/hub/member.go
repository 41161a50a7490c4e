package hub

import (
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
)

// Session is written to by the goroutine of its shard.
type Session interface {
	// Write writes what is pending for the session. It must not block.
	Write(*Turn)
}

// Follower is a subscription of a session.
type Follower interface {
	// Touch tells a live subscription that it has new events.
	Touch()
	// Reach tells a subscription that the head has reached the position that
	// it passed to [Seat.Await].
	Reach()
}

// Member is a session's place in a shard.
type Member struct {
	shard   *Shard
	session Session

	isUrgent, isBulk bool   // in the shard's queues; guarded by shard.mu
	turn             uint64 // number of the last turn that wrote to it; only the shard's goroutine uses it
}

// Enroll gives a session a place in a shard.
func (h *Hub) Enroll(m *Member, s Session) {
	m.shard, m.session = h.shards[h.next.Add(1)%uint64(len(h.shards))], s
}

// ScheduleWrite asks for a write in the next turn.
func (m *Member) ScheduleWrite() {
	sh := m.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if !m.isUrgent {
		m.isUrgent = true
		sh.urgent.Push(m)
		sh.work.Signal()
	}
}

// ScheduleBulk asks for a write after other sessions have had their turn.
func (m *Member) ScheduleBulk() {
	sh := m.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if !m.isBulk {
		m.isBulk = true
		sh.bulk.Push(m)
		sh.work.Signal()
	}
}

// Seat is a subscription's place in the audience of its topic.
type Seat struct {
	topic    history.Topic
	member   *Member
	follower Follower

	// Guarded by shard.mu.
	audience *audience // not nil while the subscription is live
	index    int       // in audience.seats
	wants    eventstore.Position
}

// Init sets the subscription, its topic and its session.
func (s *Seat) Init(m *Member, t history.Topic, f Follower) {
	s.member, s.topic, s.follower = m, t, f
}

// Topic returns the topic of the subscription.
func (s *Seat) Topic() history.Topic { return s.topic }

// Join adds the subscription to its topic's audience, so that new events wake
// it. It returns false if hasUnsent reports that events up to the head are still
// unsent. It returns the head in either case. hasUnsent is called with the
// shard's lock held.
func (s *Seat) Join(hasUnsent func(head eventstore.Position) bool) (head eventstore.Position, ok bool) {
	sh := s.member.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if hasUnsent(sh.head) {
		return sh.head, false
	}
	a := sh.audiences[s.topic]
	if a == nil {
		a = &audience{topic: s.topic}
		sh.audiences[s.topic] = a
	}
	s.audience, s.index = a, len(a.seats)
	a.seats = append(a.seats, s)
	return sh.head, true
}

// Leave undoes Join.
func (s *Seat) Leave() {
	sh := s.member.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	a := s.audience
	if a == nil {
		return
	}
	s.audience = nil
	last := len(a.seats) - 1
	a.seats[s.index] = a.seats[last] // visits go down: if s was visited, so was last
	a.seats[s.index].index = s.index
	a.seats[last] = nil
	a.seats = a.seats[:last]
	a.left = min(a.left, last)
	if last == 0 {
		delete(sh.audiences, a.topic)
	} else if cap(a.seats) > 64 && last < cap(a.seats)/4 {
		a.seats = append(make([]*Seat, 0, 2*last), a.seats...)
	}
}

// Await asks for a call of Reach once the head has reached a position. It
// returns false if the head is there already.
func (s *Seat) Await(position eventstore.Position) bool {
	sh := s.member.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.head >= position {
		return false
	}
	s.wants = position
	sh.awaiting = append(sh.awaiting, s)
	return true
}

// IsUnvisited reports whether the subscription is live and has new events with
// which no turn has touched it yet.
func (s *Seat) IsUnvisited() bool {
	sh := s.member.shard
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return s.audience != nil && s.audience.queued
}
