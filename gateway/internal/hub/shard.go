package hub

import (
	"runtime"
	"sync"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/queue"
)

// The most sessions that one turn serves.
const (
	LiveShare = 64 // sessions with live events or pending replies
	bulkShare = 8  // sessions that read back
)

// Shard has the sessions that one goroutine writes to.
type Shard struct {
	hub          *Hub
	messageLimit func() int

	mu        sync.Mutex
	work      sync.Cond
	head      eventstore.Position // of the newest announced event; later ones are not sent
	audiences map[history.Topic]*audience
	urgent    queue.FIFO[*Member]   // have pending replies
	visits    queue.FIFO[*audience] // have new events
	bulk      queue.FIFO[*Member]   // read back
	awaiting  []*Seat               // past the head: the client saw more at another gateway
	stopped   bool
}

// audience is the live subscriptions of one topic in one shard. A new event
// makes it due for a visit, which goes through seats from the end to the start,
// a part in each turn. A subscription that joins or leaves during a visit is
// either visited or has nothing to receive.
type audience struct {
	topic  history.Topic
	seats  []*Seat
	left   int  // seats[:left] are still to be visited
	queued bool // in visits, or taken from it by the current turn
	begun  bool
	again  bool // a further event arrived during the visit
}

func newShard(h *Hub, messageLimit func() int) *Shard {
	sh := &Shard{hub: h, messageLimit: messageLimit, audiences: make(map[history.Topic]*audience)}
	sh.work.L = &sh.mu
	return sh
}

// announce makes the audiences of new events due for a visit. The window has
// the events already.
func (sh *Shard) announce(entries []*history.Entry, head eventstore.Position) {
	sh.mu.Lock()
	if len(entries) > 0 {
		sh.visit(history.Topic{})
	}
	for i, e := range entries {
		if i > 0 && entries[i-1].Stream == e.Stream {
			continue
		}
		sh.visit(history.Topic{Stream: e.Stream})
		if i == 0 || entries[i-1].Stream.Type != e.Stream.Type {
			sh.visit(history.Topic{Category: e.Stream.Type})
		}
	}
	sh.head = head
	var reached []*Seat
	rest := sh.awaiting[:0]
	for _, s := range sh.awaiting {
		if s.wants <= head {
			reached = append(reached, s)
		} else {
			rest = append(rest, s)
		}
	}
	clear(sh.awaiting[len(rest):])
	sh.awaiting = rest
	sh.mu.Unlock()
	for _, s := range reached {
		s.follower.Reach()
	}
}

// visit makes an audience due for a visit. The caller holds sh.mu.
func (sh *Shard) visit(t history.Topic) {
	a := sh.audiences[t]
	switch {
	case a == nil:
	case !a.queued:
		a.queued, a.left = true, len(a.seats)
		sh.visits.Push(a)
		sh.work.Signal()
	case a.begun:
		a.again = true
	}
}

func (sh *Shard) stop() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.stopped = true
	sh.work.Signal()
}

// run takes turns until stop.
func (sh *Shard) run() {
	t := sh.newTurn()
	for sh.next(t) {
		sh.serve(t)
		// Other goroutines, such as the one that delivers the next events, may
		// be waiting for a processor.
		runtime.Gosched()
	}
}

// serve writes to the sessions of a turn.
func (sh *Shard) serve(t *Turn) {
	// Touch all subscriptions before the first write. A session with
	// subscriptions to several topics then gets one message, and a pending
	// heartbeat accounts for all events of the turn.
	for _, s := range t.seats {
		s.follower.Touch()
	}
	for _, m := range t.members {
		m.write(t)
	}
	for _, s := range t.seats {
		s.member.write(t)
	}
}

// write writes to a session, unless this turn has already written to it.
func (m *Member) write(t *Turn) {
	if m.turn != t.number {
		m.turn = t.number
		m.session.Write(t)
	}
}

// next waits for work and takes one turn's share of it. It returns false once
// the shard has stopped and no work is left.
func (sh *Shard) next(t *Turn) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for sh.urgent.Len() == 0 && sh.visits.Len() == 0 && sh.bulk.Len() == 0 {
		if sh.stopped {
			return false
		}
		t.shrink()
		sh.work.Wait()
	}
	t.begin(sh.head, sh.messageLimit())
	for range min(sh.urgent.Len(), LiveShare) {
		m := sh.urgent.Pop()
		m.isUrgent = false
		t.members = append(t.members, m)
	}
	for n := LiveShare; n > 0 && sh.visits.Len() > 0; {
		a := sh.visits.Pop()
		count := min(n, a.left)
		t.seats = append(t.seats, a.seats[a.left-count:a.left]...)
		a.left -= count
		a.begun = true
		n -= count
		if a.left == 0 && a.again {
			a.again, a.begun, a.left = false, false, len(a.seats)
		}
		if a.left > 0 {
			sh.visits.Push(a)
		} else {
			a.queued, a.begun = false, false
		}
	}
	for range min(sh.bulk.Len(), bulkShare) {
		m := sh.bulk.Pop()
		m.isBulk = false
		t.members = append(t.members, m)
	}
	return true
}
