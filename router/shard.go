package router

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router/internal/lane"
)

// call is a command in its lane, from Send or a peer's stream until it is
// answered and back from its place.
type call struct {
	lane.Entry
	lane   *openLane
	claims []byte // Command.Claims as JSON: received, or encoded when first needed

	// The answer goes to reply, or to the lane's peer as the reply to request
	// id, which came with hop.
	reply func(command.Outcome)
	id    uint64
	hop   uint32

	timer *time.Timer // calls expire; nil if the command was refused on admission
}

// openLane is a lane that cannot be forgotten yet. Its shard's lock guards it.
type openLane struct {
	lane.Machine
	key        laneKey
	shard      *shard
	submitting bool // a goroutine is in submit
}

// laneKey names a lane. A command without a session has a lane of its own,
// which is in no map.
type laneKey struct {
	peer    *inbound // nil: the session is this node's
	session string
	stream  eventstore.StreamID
}

func (k *laneKey) kind() lane.Kind {
	switch {
	case k.peer == nil && k.session == "":
		return lane.Single
	case k.peer == nil:
		return lane.Own
	case k.session == "":
		return lane.PeerSingle
	}
	return lane.Peer
}

// maxPaused bounds the paused lanes of a shard. Past it, all lanes of the
// shard are paused together.
const maxPaused = 1024

// shard is a part of the router's lanes, under one lock. With the lock held,
// the router calls links and streams, which accept requests and replies without
// blocking. It releases the lock before it calls an executor or a reply
// function.
//
// Lock order: shard.mu; then inbound.mu or reachable.mu; then the locks inside
// package link.
type shard struct {
	router *Router

	mu          sync.Mutex
	lanes       map[laneKey]*openLane
	waiting     map[*openLane]struct{} // for a candidate
	paused      int                    // lanes with a pause of their own
	pausedUntil time.Time              // of all lanes
}

var seed = maphash.MakeSeed()

// lockLane locks the shard of a key and returns the key's lane, which it opens if
// needed.
func (r *Router) lockLane(key laneKey) *openLane {
	var h maphash.Hash
	h.SetSeed(seed)
	h.WriteString(key.session)
	h.WriteString(key.stream.Type)
	h.WriteString(key.stream.ID)
	s := &r.shards[h.Sum64()%uint64(len(r.shards))]
	s.mu.Lock()
	l := s.lanes[key]
	if l == nil {
		l = &openLane{Machine: lane.New(&r.laneConfig, key.kind()), key: key, shard: s}
		if key.session != "" {
			s.lanes[key] = l
		}
	}
	return l
}

// forget drops a lane that has nothing to remember. A goroutine may still hold a
// lane that was dropped earlier, although its key has a new lane by now. The new
// lane must stay: if it were dropped with calls in it, the next call would open
// a third lane and overtake them.
func (s *shard) forget(l *openLane) {
	if l.Forgettable() && !l.submitting && s.lanes[l.key] == l {
		delete(s.lanes, l.key)
	}
}

// retry looks again at the lanes that wait for a candidate.
func (s *shard) retry() {
	s.mu.Lock()
	waiting := s.waiting
	if len(waiting) == 0 {
		s.mu.Unlock()
		return
	}
	s.waiting = make(map[*openLane]struct{})
	s.mu.Unlock()
	for l := range waiting {
		s.mu.Lock()
		s.advance(l, time.Now())
	}
}

// notified reports to a lane that its client has received a refusal, and pauses
// the lane for d, the time that the refusal names.
func (s *shard) notified(l *openLane, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.Notified()
	until := time.Now().Add(d)
	switch paused := l.Paused(); {
	case paused:
		l.PauseUntil(until) // the pending resume finds time left, and waits again
	case s.paused < maxPaused:
		s.paused++
		l.PauseUntil(until)
		time.AfterFunc(d, func() { s.resume(l) })
	case until.After(s.pausedUntil):
		s.pausedUntil = until
	}
	s.forget(l)
}

// resume ends a lane's pause.
func (s *shard) resume(l *openLane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if left := l.Resume(time.Now()); left > 0 {
		time.AfterFunc(left, func() { s.resume(l) })
		return
	}
	s.paused--
	s.forget(l)
}
