package gateway

import (
	"fmt"
	"strconv"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// subscription is one client's interest in a topic: a cursor, and from where
// the next events past it are taken.
//
// It begins with locating its start (begin). From then on its session pulls
// events as its socket takes them: out of the hub's window, and pages of the
// log where the window does not reach back. Once nothing is left at or below
// the head it joins the topic's audience and is live: it hears of new events.
// A live one whose next event has left the window before its socket took it
// is demoted: it leaves the audience and reads pages again.
//
// Since only the cursor says what comes next, there is neither a gap nor a
// repeat at any of these seams.
type subscription struct {
	session *session
	id      string
	topic   topic
	head    string   // what its event frames begin with
	request *request // the subscribe, open until it is answered

	// Guarded by shard.mu.
	audience *audience // not nil while it is live
	seat     int       // its index there
	wants    eventstore.Position

	// Guarded by session.mu.
	started bool // "subscribed" is in the queue
	live    bool
	ended   bool
	busy    bool  // in session.busy
	page    *page // what it waited for, pinned
	// at is how far the session has it: every matching event at or below at
	// is in a message. version is that of the stream.
	at      eventstore.Position
	version eventstore.Version
}

func cursor(p eventstore.Position) string { return strconv.FormatUint(uint64(p), 10) }

// parseCursor reads a cursor: the decimal position that it stands for.
func parseCursor(s string) (eventstore.Position, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return eventstore.Position(n), err == nil && (s == "0" || s[0] != '0' && s[0] != '+')
}

func (sub *subscription) cursor() string { return cursor(sub.at) }

func (sub *subscription) advance(e *entry) {
	sub.at, sub.version = e.position, e.version
}

// touch notes that a live subscription has new events.
func (sub *subscription) touch() {
	s := sub.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.live {
		s.work(sub)
	}
}

// resume goes on with one that waited, for the page p if that is not nil. It
// returns whether the page is taken: not by a session whose socket is full.
func (sub *subscription) resume(p *page) (taken bool) {
	s := sub.session
	s.mu.Lock()
	defer s.mu.Unlock()
	s.work(sub)
	if sub.ended || s.writing || s.ended || s.closing {
		return false
	}
	sub.page = p
	s.shard.flushBulk(s)
	return true
}

// over tells whether nothing more comes of it.
func (sub *subscription) over() bool {
	sub.session.mu.Lock()
	defer sub.session.mu.Unlock()
	return sub.ended || sub.session.closing
}

// unpin gives back the page that it waited for. The caller holds session.mu.
func (sub *subscription) unpin() {
	if sub.page != nil {
		sub.session.g.pages.unpin(sub.page)
		sub.page = nil
	}
}

// pulled says why no more events of a subscription were added to a message.
type pulled uint8

const (
	rests   pulled = iota // there are none, or it waits for them, or it has ended
	hasMore               // the message is full
)

// pull adds the events past a subscription's cursor to a message. The caller
// holds s.mu.
func (s *session) pull(t *turn, sub *subscription, d *draft) pulled {
	if sub.ended {
		return rests
	}
	head, x := t.head, t.of(sub.topic)
	d.plain = true
	for {
		if sub.at > head {
			if s.shard.await(sub, sub.at) {
				return rests
			}
			return hasMore // it was reached just now, and the next turn knows
		}
		entries, covered := x.after(sub.at, sub.version, head)
		upTo := head
		if !covered {
			d.plain = false
			if sub.live {
				s.demote(sub)
			}
			p := sub.page
			if p == nil {
				p = s.g.pages.get(sub)
			}
			if p == nil {
				return rests // until the page has been read
			}
			entries, upTo = p.after(sub.at, sub.version, head)
		}
		sub.unpin()
		switch s.take(sub, d, entries) {
		case hasMore:
			return hasMore
		case rests:
			if sub.ended {
				return rests
			}
		}
		switch {
		case !covered:
			sub.at = max(sub.at, upTo)
		case sub.live:
			return rests
		default:
			newer, ok := s.join(sub)
			if ok {
				d.append(sub.liveFrame())
				return rests
			}
			d.plain = false
			fresh, _ := s.g.hub.excerpt(sub.topic)
			head, x = newer, &fresh
		}
	}
}

// take adds events to a message until it is full.
func (s *session) take(sub *subscription, d *draft, entries []*entry) pulled {
	for i, e := range entries {
		if e.err != nil {
			sub.at = e.position - 1
			s.withdraw(sub, e)
			d.plain = false
			return rests
		}
		if !d.fits(sub, e) {
			return hasMore
		}
		d.event(sub, e)
		sub.advance(e)
		s.eventsDue++
		if i == 0 {
			d.first = e
		}
		d.last = e
		d.count = i + 1
	}
	return rests
}

// join makes a subscription live if nothing is left for it at or below the
// shard's head; if something is, that head is returned.
func (s *session) join(sub *subscription) (eventstore.Position, bool) {
	head, ok := s.shard.join(sub, func(head eventstore.Position) bool {
		x, _ := s.g.hub.excerpt(sub.topic)
		entries, covered := x.after(sub.at, sub.version, head)
		return !covered || len(entries) > 0
	})
	if ok {
		sub.live, sub.at = true, max(sub.at, head)
	}
	return head, ok
}

func (sub *subscription) liveFrame() []byte {
	f := frame.Live{Sub: sub.id, Cursor: sub.cursor()}
	if sub.topic.category == "" {
		v := sub.version
		f.Version = &v
	}
	return sub.session.wire.frame(f)
}

// demote sends a subscription back to the log: its socket took so little that
// its next event is no longer in the window. The caller holds s.mu.
func (s *session) demote(sub *subscription) {
	s.g.stats.demotions.Add(1)
	sub.live = false
	s.shard.leave(sub)
}

// withdraw ends a subscription at an event that this gateway can't show: it
// is older than the event's form, or the application forgot the event.
// Nothing is skipped in silence, and other subscriptions go on. The caller
// holds s.mu.
func (s *session) withdraw(sub *subscription, e *entry) {
	s.g.logUnshown(e)
	s.forget(sub)
	s.say(frame.Unsubscribed{
		Sub: sub.id, Code: command.Unavailable, Cursor: sub.cursor(),
		Message: s.g.unshown(e).Message,
	})
	s.bereft()
}

// logUnshown logs that an event can't be shown. Each reader that comes to it
// says so, and clients read it again and again: one line a minute is enough.
func (g *Gateway) logUnshown(e *entry) {
	g.guard.sometimes("unshown "+e.stream.Type, func() {
		g.cfg.Logger.Error("an event can't be shown", "stream", e.stream, "version", e.version, "position", e.position, "err", e.err)
	})
}

// unshown is the failure for an event that can't be shown.
func (g *Gateway) unshown(e *entry) *command.Failure {
	return &command.Failure{
		Code: command.Unavailable, Retry: command.RetryLater,
		Message: fmt.Sprintf("node %s can't show version %d of %s: subscribe again with this cursor at another node, or once this one was upgraded",
			g.cfg.Node, e.version, e.stream),
	}
}

// bereft ends a session that has nothing left to do without its subscription:
// one of Server-Sent Events. The caller holds s.mu.
func (s *session) bereft() {
	if _, ok := s.wire.(eventStream); ok {
		s.part(frame.CloseLost, "unsubscribed")
	}
}

// forget ends a subscription: no event of it is put into a message any more.
// The caller holds s.mu.
func (s *session) forget(sub *subscription) {
	sub.ended, sub.live = true, false
	sub.unpin()
	delete(s.subs, sub.id)
	s.shard.leave(sub)
}

// begin locates the start of a subscription, from where it follows the log.
// slot says that its answer settles a request. The caller holds s.mu.
func (s *session) begin(sub *subscription, req frame.Subscribe, slot bool) {
	var from start
	var failure *command.Failure
	who := asker{s.identity.Client, s.id}
	a := &ask{
		read: func() int {
			from, failure = s.g.locate(s.ctx, who, sub.topic, req)
			return len(from.state)
		},
		done: func() { s.begun(sub, req, slot, from, failure) },
	}
	if req.State {
		s.ask(a)
		return
	}
	s.spawn(func() {
		a.read()
		s.mu.Lock()
		defer s.mu.Unlock()
		a.done()
	})
}

// begun answers a subscribe. The caller holds s.mu.
func (s *session) begun(sub *subscription, req frame.Subscribe, slot bool, start start, failure *command.Failure) {
	if s.open[sub.id] == sub.request {
		delete(s.open, sub.id)
	}
	switch {
	case sub.ended: // unsubscribed meanwhile
		if slot {
			<-s.slots
		}
	case failure != nil:
		s.forget(sub)
		s.enqueue(item{frame: fault(sub.id, "", failure).Append(nil), slot: slot})
	default:
		sub.started, sub.at, sub.version = true, start.at, start.version
		s.enqueue(item{frame: frame.Subscribed{ID: sub.id, Cursor: cursor(start.head)}.Append(nil), slot: slot})
		if req.State {
			s.enqueue(item{frame: frame.State{Sub: sub.id, Version: start.version, Position: start.position, Data: start.state}.Append(nil)})
		}
		s.work(sub)
		s.kick()
	}
	s.settled()
}
