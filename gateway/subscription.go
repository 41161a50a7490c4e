package gateway

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// subscription is one client's interest in a topic.
//
// It begins with locating its start (begin), then follows the log until there
// is nothing left between it and the hub's head (follow), and then is live:
// the hub pushes to it. A session that can't keep up drops what is queued and
// rewinds its subscriptions, which then follow again.
type subscription struct {
	session *session
	id      string
	topic   topic
	head    []byte   // what its event frames begin with
	request *request // the subscribe, open until it is answered

	joined bool // in the hub's lists; guarded by hub.mu

	// Guarded by session.mu.
	started bool // «subscribed» is in the queue
	live    bool
	ended   bool
	// at is how far the session's queue has it: every matching event at or
	// below at has been queued. version is that of the stream.
	at      eventstore.Position
	version eventstore.Version
	rewinds int // how often at went back
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

// push queues a live event, called by the hub. It returns false when the
// subscription is live no more.
func (s *session) push(sub *subscription, e *entry) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !sub.live || sub.ended || s.closing {
		return false
	}
	if e.err != nil {
		sub.at = e.position - 1
		s.withdraw(sub, e)
		return false
	}
	it := item{sub: sub, entry: e}
	if s.eventBytes > 0 && s.eventBytes+it.size() > s.g.cfg.QueueBytes {
		s.demote(sub, e)
		return false
	}
	sub.advance(e)
	s.enqueue(it)
	return true
}

// demote drops the events that wait for the socket. Their subscriptions go
// back to where the first of them was, and follow the log from there. e is the
// event that found no place. The caller holds s.mu.
func (s *session) demote(sub *subscription, e *entry) {
	s.g.stats.demotions.Add(1)
	behind := map[*subscription]*entry{}
	for i := range s.queue {
		if it := &s.queue[i]; it.isEvent() && !it.sub.ended && behind[it.sub] == nil {
			behind[it.sub] = it.entry
		}
	}
	if behind[sub] == nil {
		behind[sub] = e
	}
	s.drop(func(it *item) bool {
		return it.beat || it.sub != nil && behind[it.sub] != nil
	})
	for sub, first := range behind {
		sub.at, sub.version = first.position-1, first.version-1
		sub.rewinds++
		if sub.live { // else it follows already
			sub.live = false
			s.spawn(func() { s.follow(sub) })
		}
	}
}

// withdraw ends a subscription at an event that this gateway can't show: it
// is older than the event's form, or the application forgot the event.
// Nothing is skipped in silence; what is queued is still written, and other
// subscriptions go on. The caller holds s.mu.
func (s *session) withdraw(sub *subscription, e *entry) {
	s.g.cfg.Logger.Error("an event can't be shown", "stream", e.stream, "version", e.version, "position", e.position, "error", e.err)
	s.forget(sub)
	s.enqueue(item{frame: frame.Unsubscribed{
		Sub: sub.id, Code: command.Unavailable, Cursor: sub.cursor(),
		Message: fmt.Sprintf("node %s can't show version %d of %s: subscribe again with this cursor at another node, or once this one was upgraded",
			s.g.cfg.Node, e.version, e.stream),
	}.Append(nil)})
}

// forget ends a subscription; the hub drops it when it next meets it. The
// caller holds s.mu.
func (s *session) forget(sub *subscription) {
	sub.ended, sub.live = true, false
	delete(s.subs, sub.id)
}

// goLive makes a subscription live at the hub's head, called by the hub. It
// refuses if the subscription has moved since.
func (s *session) goLive(sub *subscription, at eventstore.Position, rewinds int, head eventstore.Position) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.ended || sub.at != at || sub.rewinds != rewinds || s.closing {
		return false
	}
	sub.live, sub.at = true, head
	f := frame.Live{Sub: sub.id, Cursor: cursor(head)}
	if sub.topic.category == "" {
		v := sub.version
		f.Version = &v
	}
	s.enqueue(item{frame: f.Append(nil), sub: sub})
	return true
}

// begin starts a subscription and follows the log until it is live. slot says
// that its answer settles a request.
func (s *session) begin(sub *subscription, req frame.Subscribe, slot bool) {
	start, failure := s.g.locate(s.ctx, sub.topic, req)
	s.mu.Lock()
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
	}
	s.settled()
	ended := sub.ended
	s.mu.Unlock()
	if !ended {
		s.follow(sub)
	}
}

// follow reads on from where a subscription is until it is live or ended.
// Subscriptions of one session take turns, page by page.
func (s *session) follow(sub *subscription) {
	for pause := time.Duration(0); ; {
		select {
		case s.turn <- struct{}{}:
		case <-s.ctx.Done():
			return
		}
		ahead, done, err := s.page(sub)
		<-s.turn
		switch {
		case done || s.ctx.Err() != nil:
			return
		case err != nil:
			if !errors.Is(err, eventstore.ErrUnavailable) {
				s.g.cfg.Logger.Warn("reading the log for a subscription failed", "session", s.id, "error", err)
			}
			pause = min(2*pause+50*time.Millisecond, 2*time.Second)
			timer := time.NewTimer(pause)
			select {
			case <-timer.C:
			case <-s.ctx.Done():
				timer.Stop()
				return
			}
		case ahead != nil:
			select {
			case <-ahead:
			case <-s.ctx.Done():
				return
			}
		default:
			pause = 0
		}
	}
}

// page brings a subscription on by one page. It is done when the subscription
// is live or ended. ahead, if not nil, is what to wait for before the next
// page: the client saw more at another gateway than has arrived here.
func (s *session) page(sub *subscription) (ahead <-chan struct{}, done bool, err error) {
	if !s.waitForRoom() {
		return nil, true, nil
	}
	s.mu.Lock()
	at, version, rewinds, ended := sub.at, sub.version, sub.rewinds, sub.ended
	s.mu.Unlock()
	if ended {
		s.g.hub.leave(sub)
		return nil, true, nil
	}
	entries, head, state := s.g.hub.join(sub, at, rewinds, windowPage)
	upTo := at
	switch state {
	case joined:
		return nil, true, nil
	case moved:
		return nil, false, nil
	case early:
		return s.g.hub.reached(at), false, nil
	case uncovered:
		if entries, upTo, err = s.g.readPage(s.ctx, sub.topic, at, version, head); err != nil {
			return nil, false, err
		}
	}
	for _, e := range entries {
		if !s.waitForRoom() || !s.pushHistory(sub, e, rewinds) {
			return nil, false, nil
		}
	}
	s.mu.Lock()
	if sub.rewinds == rewinds && !sub.ended {
		sub.at = max(sub.at, upTo)
	}
	s.mu.Unlock()
	return nil, false, nil
}

// windowPage is how many events are taken out of the window at once.
const windowPage = 256

// waitForRoom waits until half of the session's queue is free, so that the
// rest is there for what is live. It returns false when the session has ended.
func (s *session) waitForRoom() bool {
	for {
		s.mu.Lock()
		free := s.eventBytes <= s.g.cfg.QueueBytes/2
		s.mu.Unlock()
		if free {
			return s.ctx.Err() == nil
		}
		select {
		case <-s.room:
		case <-s.ctx.Done():
			return false
		}
	}
}

// pushHistory queues an event that was read back. It returns false when the
// subscription has ended or was rewound meanwhile.
func (s *session) pushHistory(sub *subscription, e *entry, rewinds int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.ended || sub.rewinds != rewinds || s.closing {
		return false
	}
	if e.err != nil {
		sub.at = e.position - 1
		s.withdraw(sub, e)
		return false
	}
	sub.advance(e)
	s.enqueue(item{sub: sub, entry: e})
	return true
}
