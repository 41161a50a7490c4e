package session

import (
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/outbox"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// following is the part of a subscription that sends the newest state of its
// stream. A live subscription sends a state once it has sent the state's event,
// and never an older one than before. All subscriptions of a stream share the
// states of [history.SharedStates], and none queues any: a slow client gets the
// newest when its socket has room.
type following struct {
	head string // of its state frames
	only bool   // it sends no events

	// Guarded by Session.mu.
	hasBegun   bool
	next       eventstore.Version // the first version that may be sent; valid once hasBegun
	isAwaiting bool               // until Refresh
}

// newFollowing returns nil for a subscription that sends no state after an
// event.
func newFollowing(mode frame.StateMode, head string) *following {
	if mode != frame.StateEach && mode != frame.StateOnly {
		return nil
	}
	return &following{head: head, only: mode == frame.StateOnly}
}

// sendsEvents reports whether the subscription sends events.
func (sub *subscription) sendsEvents() bool { return sub.follow == nil || !sub.follow.only }

// after returns the window's events past the subscription's cursor, as
// [history.Excerpt.After]. A subscription that sends no events skips to the
// newest.
func (sub *subscription) after(x *history.Excerpt, head eventstore.Position) ([]*history.Entry, bool) {
	if !sub.sendsEvents() {
		if e := x.Newest(head); e != nil && e.Version > sub.Version {
			return []*history.Entry{e}, true
		}
	}
	return x.After(sub.Place, head)
}

// appendState appends the newest state of a live subscription to a message, if
// one is known that the client has not had. If a newer one is needed, the
// subscription is refreshed later. It returns true if the message is full.
func (s writer) appendState(sub *subscription, d *outbox.Draft) (isFull bool) {
	f := sub.follow
	if f == nil {
		return false
	}
	if !f.hasBegun {
		f.hasBegun, f.next = true, sub.Version
	}
	if f.next > sub.Version {
		return false
	}
	var reader history.StateReader
	if !f.isAwaiting {
		reader = sub
	}
	state, isNewest := s.server.Shared.Get(reader, s.client.identity.Client, sub.Topic().Stream, sub.Place)
	f.isAwaiting = !isNewest
	isAhead := state != nil && state.Version > sub.Version && !f.only // until its event has been sent
	if state == nil || state.Version < f.next || isAhead {
		return false
	}
	if !d.FitsState(f.head, state) {
		return true
	}
	d.AppendState(f.head, state)
	f.next = state.Version + 1
	return false
}

// Refresh implements [history.StateReader].
func (sub *subscription) Refresh() {
	s := sub.session
	s.mu.Lock()
	defer s.mu.Unlock()
	sub.follow.isAwaiting = false
	s.subs.markReady(sub)
	s.out.ScheduleWrite()
}
