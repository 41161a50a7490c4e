package session

import (
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/hub"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// subscription is a cursor in a topic.
//
//	locating ──begin──> reading back ──join──> live
//	                         ^                  │
//	                         └──────demote──────┘
//
// A subscription can end in each state. A subscription that reads back takes
// events from the hub's window or, if the window has dropped them, from pages of
// the log. When it has every event up to the head, it joins the topic's audience
// and is live: new events wake it. If the window drops its next event before the
// socket has room for it, the subscription is demoted and reads back.
//
// Only the cursor says which event comes next, so no change between window and
// pages causes a gap or a repeat.
type subscription struct {
	hub.Seat
	session *Session
	id      string
	head    string     // of its event frames
	request *request   // the subscribe; nil for an event stream
	follow  *following // nil if no states follow its events
	window  *window    // nil if the client acknowledges no events

	// Guarded by Session.mu.
	isStarted bool // subscribed was sent
	isLive    bool
	hasEnded  bool
	isReady   bool          // in subs.ready
	page      *history.Page // from Resume; pinned
	// Place is the cursor: every matching event up to it has been put into a
	// message.
	history.Place
}

// subs are the subscriptions of a session. Session.mu guards it.
type subs struct {
	byID  map[string]*subscription
	ready []*subscription // have, or may have, an event for the next message
}

// newSubscription adds a subscription. The caller holds s.mu.
func (s *Session) newSubscription(id string, t history.Topic, states frame.StateMode) *subscription {
	terms := s.wire.Terms(id)
	sub := &subscription{session: s, id: id, head: terms.Event, follow: newFollowing(states, terms.State), window: newWindow(terms)}
	sub.Init(&s.member, t, sub)
	s.subs.byID[id] = sub
	return sub
}

// list returns all subscriptions.
func (ss *subs) list() []*subscription {
	all := make([]*subscription, 0, len(ss.byID))
	for _, sub := range ss.byID {
		all = append(all, sub)
	}
	return all
}

// markReady makes the next message look for events of a subscription.
func (ss *subs) markReady(sub *subscription) {
	if !sub.isReady && !sub.hasEnded {
		sub.isReady = true
		ss.ready = append(ss.ready, sub)
	}
}

// unmarkReady undoes markReady for the first ready subscription.
func (ss *subs) unmarkReady() {
	ss.ready[0].isReady = false
	last := len(ss.ready) - 1
	copy(ss.ready, ss.ready[1:])
	ss.ready[last] = nil
	ss.ready = ss.ready[:last]
}

// remove ends a subscription. Later messages have no events of it.
func (ss *subs) remove(sub *subscription) {
	sub.hasEnded, sub.isLive = true, false
	sub.unpin()
	sub.window.stop()
	delete(ss.byID, sub.id)
	sub.Leave()
}

// withdraw ends a subscription, and sends the failure and the cursor from which
// the client can continue elsewhere. A session of Server-Sent Events ends with
// its subscription. The caller holds s.mu.
func (s *Session) withdraw(sub *subscription, failure *command.Failure) {
	s.subs.remove(sub)
	s.push(frame.Unsubscribed{Sub: sub.id, Code: failure.Code, Message: failure.Message, Cursor: sub.cursor()})
	s.endWithSubscription()
}

func (sub *subscription) cursor() string { return history.Cursor(sub.At) }

// Touch implements [hub.Follower].
func (sub *subscription) Touch() {
	s := sub.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.isLive {
		s.subs.markReady(sub)
	}
}

// Reach implements [hub.Follower].
func (sub *subscription) Reach() { sub.Resume(nil) }

// Resume implements [history.Reader]. A session whose socket is full does not
// use the page.
func (sub *subscription) Resume(p *history.Page) (used bool) {
	s := sub.session
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs.markReady(sub)
	if sub.hasEnded || s.out.IsBlocked() || s.out.IsClosing() {
		return false
	}
	sub.page = p
	s.member.ScheduleBulk()
	return true
}

// IsWaiting implements [history.Reader].
func (sub *subscription) IsWaiting() bool {
	s := sub.session
	s.mu.Lock()
	defer s.mu.Unlock()
	return !sub.hasEnded && !s.out.IsClosing()
}

// unpin unpins the page of the last Resume, if there is one. The caller holds
// Session.mu.
func (sub *subscription) unpin() {
	if sub.page != nil {
		sub.session.server.Log.Pages().Unpin(sub.page)
		sub.page = nil
	}
}

// unsubscribe ends a subscription of the client.
func (s reader) unsubscribe(f frame.Unsubscribe, r *request) {
	s.mu.Lock()
	sub, q, c := s.subs.byID[f.Sub], s.queries.byID[f.Sub], s.consumers.byID[f.Sub]
	switch { // the reply to unsubscribe also ends subscribe and consume
	case sub != nil:
		s.subs.remove(sub)
		s.requests.remove(sub.request)
	case q != nil:
		s.endQuery(q)
		s.requests.remove(q.request)
	case c != nil:
		s.leaveGroup(c)
		s.requests.remove(c.request)
	}
	s.mu.Unlock()
	if sub == nil && q == nil && c == nil {
		s.fail(r, command.BadRequest("sub", "there is no subscription %s", command.Quote(f.Sub)))
		return
	}
	s.reply(r, frame.Unsubscribed{ID: r.id, Sub: f.Sub})
}
