package session

import (
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/hub"
	"github.com/ganglion-es/ganglion/gateway/internal/outbox"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// This file has the way of events, in the order of the calls: the shard's
// goroutine calls Write, which makes one message and sends it. When the message
// has been written, the outbox calls Sent.

// writer has the methods for the goroutine of the session's shard.
type writer struct{ *Session }

var (
	_ hub.Session  = writer{}
	_ outbox.Owner = writer{}
)

// Write implements [hub.Session]: it writes the next message, if the session
// has one.
func (s writer) Write(t *hub.Turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.out.CanWrite() {
		return
	}
	message, hasMore := s.nextMessage(t)
	if len(message) > 0 && !s.out.Send(message) {
		return
	}
	if hasMore {
		s.member.ScheduleBulk()
	}
}

// nextMessage makes a message of control frames, pending frames, and the events
// that follow the cursors of the subscriptions. It reports whether the session
// may have another message.
func (s writer) nextMessage(t *hub.Turn) (message []byte, hasMore bool) {
	if s.hasWoken.Load() && s.hasWoken.Swap(false) {
		s.queries.gather()
		s.consumers.gather()
	}
	if message := s.repeatMessage(t); message != nil {
		return message, len(s.subs.ready) > 0
	}
	d := s.out.Begin(t.Scratch, t.Limit)
	if s.out.IsDrained() {
		s.appendNews(t, &d)
		hasMore = len(s.subs.ready) > 0 || len(s.queries.ready) > 0 || len(s.consumers.ready) > 0
	}
	hasMore = hasMore || s.out.HasFrames()
	t.Scratch = d.Scratch()
	return s.out.Seal(&d), hasMore
}

// repeatMessage returns the message that another session got in this turn, if
// this session's message would be the same, and nil otherwise.
func (s writer) repeatMessage(t *hub.Turn) []byte {
	if !s.out.IsDrained() || s.out.HasControl() || s.deadlines.isHeartbeatPending || len(s.queries.ready) > 0 ||
		len(s.consumers.ready) > 0 || len(s.subs.ready) != 1 || s.subs.ready[0].hasEnded {
		return nil
	}
	sub := s.subs.ready[0]
	if sub.follow != nil || sub.window != nil {
		return nil
	}
	entries, isCovered := t.Excerpt(sub.Topic()).After(sub.Place, t.Head)
	if !isCovered || len(entries) == 0 {
		return nil
	}
	m := t.Recall(sub.Topic(), sub.head, entries[0])
	if m == nil {
		return nil
	}
	sub.Place = m.Last.Place()
	s.out.CountEvents(m.Count)
	if m.IsAll && sub.isLive {
		s.subs.unmarkReady()
	}
	return m.Message
}

// appendNews appends events, parts of live queries and frames of consumer groups to a
// message, and then the pending heartbeat. All events up to the heartbeat's cursor are in this message or
// an earlier one. Each may fill the message, so they take turns in being first.
func (s writer) appendNews(t *hub.Turn, d *outbox.Draft) {
	s.queries.isFirst = !s.queries.isFirst
	if s.queries.isFirst {
		s.appendParts(d)
		s.appendConsumed(d)
	}
	s.appendEvents(t, d)
	s.appendConsumed(d)
	s.appendParts(d)
	if s.departure.isGoodbyePending && s.hasUnsentEvents() {
		return // the last heartbeat waits for them
	}
	if s.deadlines.isHeartbeatPending { // at the end of a message, even if more follows
		s.deadlines.isHeartbeatPending = false
		d.Append(s.wire.Frame(s.heartbeatFrame(t.Head)))
	}
	if s.departure.isGoodbyePending {
		s.sayGoodbye()
	}
}

// appendEvents appends events to a message.
func (s writer) appendEvents(t *hub.Turn, d *outbox.Draft) {
	if s.deadlines.isHeartbeatPending {
		for _, sub := range s.subs.byID {
			if sub.IsUnvisited() {
				s.subs.markReady(sub)
			}
		}
	}
	mayShare := d.IsEmpty() && len(s.subs.ready) == 1 && !s.deadlines.isHeartbeatPending && !s.out.HasControl()
	for len(s.subs.ready) > 0 && !d.IsFull() {
		sub := s.subs.ready[0]
		isFull := s.pull(t, sub, d)
		if mayShare && d.IsPlain && d.Count > 0 {
			t.Remember(hub.Memo{
				Topic: sub.Topic(), Head: sub.head, First: d.First, Last: d.Last, Count: d.Count,
				IsAll: !isFull, Message: s.out.Seal(d),
			})
		}
		s.subs.unmarkReady()
		if isFull {
			s.subs.markReady(sub) // behind the others
			break
		}
	}
}

// pull appends the events past a subscription's cursor to a message. It returns
// true if the message is full. It returns false if the subscription has no more
// events, waits for a page, for the head or for acknowledgements, or has ended. The
// caller holds s.mu.
func (s writer) pull(t *hub.Turn, sub *subscription, d *outbox.Draft) (isFull bool) {
	if sub.hasEnded || sub.window != nil && !sub.window.hasRoom() {
		return false
	}
	head, x := t.Head, t.Excerpt(sub.Topic())
	d.IsPlain = sub.window == nil
	for {
		if sub.At > head {
			return !sub.Await(sub.At) // if the shard's head has just reached it, try again in the next turn
		}
		entries, isCovered := sub.after(x, head)
		end := head
		if !isCovered {
			d.IsPlain = false
			p := s.nextPage(sub)
			if p == nil {
				return false // until the page has been read
			}
			entries, end = p.After(sub.Place, head)
		}
		sub.unpin()
		if s.appendEntries(sub, d, entries) {
			return true
		}
		switch {
		case sub.hasEnded, sub.isResting():
			return false
		case !isCovered:
			sub.At = max(sub.At, end)
		case sub.isLive:
			return s.appendState(sub, d)
		default:
			newer, ok := s.join(sub)
			if ok {
				d.Append(s.wire.Frame(sub.liveFrame()))
				return s.appendState(sub, d)
			}
			d.IsPlain = false
			fresh := s.server.Log.Excerpt(sub.Topic())
			head, x = newer, &fresh
		}
	}
}

// nextPage returns the page of the log for a subscription whose next event has
// left the window. If it returns nil, the subscription is resumed later. It
// first demotes a live subscription, whose client read too slowly.
func (s writer) nextPage(sub *subscription) *history.Page {
	if sub.isLive {
		s.server.Demotions.Add(1)
		sub.isLive = false
		sub.Leave()
	}
	if sub.page != nil && sub.page.Continues(sub.Place) {
		return sub.page
	}
	sub.unpin()
	return s.server.Log.Pages().Get(sub, s.client.identity.Client, sub.Topic(), sub.Place)
}

// appendEntries appends events to a message. It returns true if the message is full. It
// stops where the window of the subscription is full. An event that this node can't show
// ends the subscription: none is skipped.
func (s writer) appendEntries(sub *subscription, d *outbox.Draft, entries []*history.Entry) (isFull bool) {
	if n := len(entries); n > 0 && !sub.sendsEvents() {
		sub.Place = entries[n-1].Place()
		return false
	}
	for i, e := range entries {
		if e.Err != nil {
			sub.At = e.Position - 1
			s.withdraw(sub, s.server.Gate.Unshown(e))
			d.IsPlain = false
			return false
		}
		if sub.window != nil && !sub.window.hasRoom() {
			return false
		}
		if !d.Fits(sub.head, e) {
			return true
		}
		if sub.window != nil {
			sub.window.append(d, sub.head, e)
		} else {
			d.AppendEvent(sub.head, e)
		}
		sub.Place = e.Place()
		s.out.CountEvents(1)
		if i == 0 {
			d.First = e
		}
		d.Last, d.Count = e, i+1
	}
	return false
}

// join makes a subscription live. It returns false, and the shard's head, if
// events up to that head are unsent.
func (s writer) join(sub *subscription) (eventstore.Position, bool) {
	head, ok := sub.Join(func(head eventstore.Position) bool {
		x := s.server.Log.Excerpt(sub.Topic())
		entries, isCovered := x.After(sub.Place, head)
		return !isCovered || len(entries) > 0
	})
	if ok {
		sub.isLive, sub.At = true, max(sub.At, head)
	}
	return head, ok
}

func (sub *subscription) liveFrame() frame.Live {
	f := frame.Live{Sub: sub.id, Cursor: sub.cursor()}
	if !sub.Topic().IsCategory() {
		v := sub.Version
		f.Version = &v
	}
	return f
}

// heartbeatFrame returns a heartbeat with a position. Every subscription has the
// events up to it, except for those in Behind, which have their own cursors.
func (s writer) heartbeatFrame(head eventstore.Position) frame.Heartbeat {
	f := frame.Heartbeat{Cursor: history.Cursor(head)}
	for _, sub := range s.subs.byID {
		if sub.isStarted && (!sub.isLive || sub.isReady || sub.At > head) {
			f.Behind = append(f.Behind, frame.Behind{Sub: sub.id, Cursor: sub.cursor()})
		}
	}
	s.appendBehind(&f)
	return f
}

// hasUnsentEvents reports whether a live subscription still lacks events up to
// the head of the departure. A subscription that reads back does not count: the
// heartbeat has its cursor. The caller holds s.mu.
func (s writer) hasUnsentEvents() bool {
	for _, sub := range s.subs.ready {
		if sub.isLive && sub.At < s.departure.upTo {
			return true
		}
	}
	return false
}

// ScheduleWrite implements [outbox.Owner].
func (s writer) ScheduleWrite() { s.member.ScheduleWrite() }

// Blocked implements [outbox.Owner]. It unpins the session's pages, since the
// next turn may be far away.
func (s writer) Blocked() {
	for _, sub := range s.subs.ready {
		sub.unpin()
	}
	for _, c := range s.consumers.byID {
		if c.member != nil {
			c.member.Rest()
		}
	}
	s.tasks.Add(1)
	go s.writeRest()
}

func (s writer) writeRest() {
	defer s.tasks.Done()
	s.out.WriteRest()
}

// Sent implements [outbox.Owner].
func (s writer) Sent(replies int, isLast bool) {
	s.requests.free(replies)
	select {
	case s.room <- struct{}{}:
	default:
	}
	if len(s.states.waiting) > 0 {
		s.startReads()
	}
	if isLast {
		s.cancel()
	}
}

// Failed implements [outbox.Owner].
func (s writer) Failed() { s.cancel() }

// Cut implements [outbox.Owner].
func (s writer) Cut(readNothing bool) {
	if readNothing {
		s.server.Logger.Info("session closed: the client read nothing for too long", "session", s.id, "client", s.Identity().Client)
	}
	s.End()
}
