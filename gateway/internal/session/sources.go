package session

import (
	"slices"
	"sync"
	"sync/atomic"
)

// source is what a live query and a membership of a consumer group have in common: it
// keeps what the client gets next, announces that by wake, and a turn of the shard takes
// it when the socket has room. Before start, no turn sees it.
type source struct {
	session *Session
	id      string
	request *request // the subscribe or consume

	isStarted atomic.Bool // wake schedules writes
	isWoken   atomic.Bool // no turn has seen its last wake

	// Guarded by Session.mu.
	hasEnded bool
	isReady  bool // in sources.ready
}

func (c *source) base() *source { return c }

// wake reports that the source may have frames. It is called on any goroutine, perhaps
// with locks of the source's implementation held, so it acquires no lock of the session.
func (c *source) wake() {
	if c.isWoken.Swap(true) || !c.isStarted.Load() {
		return
	}
	c.session.hasWoken.Store(true)
	c.session.member.ScheduleWrite()
}

// sources are the sources of one kind that a session has. Session.mu guards all fields
// but renewing.
type sources[S interface{ base() *source }] struct {
	byID     map[string]S
	ready    []S        // have, or may have, a frame for the next message
	renewing sync.Mutex // orders the renewals of the session's identity
}

func (cs *sources[S]) list() []S {
	all := make([]S, 0, len(cs.byID))
	for _, c := range cs.byID {
		all = append(all, c)
	}
	return all
}

func (cs *sources[S]) add(c S) {
	if cs.byID == nil {
		cs.byID = make(map[string]S)
	}
	cs.byID[c.base().id] = c
}

// remove removes a source that has ended. Later turns take nothing of it.
func (cs *sources[S]) remove(c S) {
	c.base().hasEnded = true
	delete(cs.byID, c.base().id)
}

// start makes turns of the shard take the source's frames, beginning with what it
// announced earlier.
func (cs *sources[S]) start(c S) {
	b := c.base()
	b.isStarted.Store(true)
	b.isWoken.Store(false) // a wake from here on schedules a write; markReady covers earlier ones
	cs.markReady(c)
	b.session.out.ScheduleWrite()
}

// gather marks the started sources ready that were woken since the last turn.
func (cs *sources[S]) gather() {
	for _, c := range cs.byID {
		if b := c.base(); b.isStarted.Load() && b.isWoken.Swap(false) {
			cs.markReady(c)
		}
	}
}

func (cs *sources[S]) markReady(c S) {
	if b := c.base(); !b.isReady && !b.hasEnded {
		b.isReady = true
		cs.ready = append(cs.ready, c)
	}
}

// next removes and returns the first ready source.
func (cs *sources[S]) next() S {
	c := cs.ready[0]
	c.base().isReady = false
	cs.ready = slices.Delete(cs.ready, 0, 1)
	return c
}
