package session

import (
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/outbox"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
)

// How long a refused event waits until it is sent again. The time doubles with each
// refusal, until an event is acknowledged.
const (
	firstAgain = time.Second
	mostAgain  = time.Minute
)

// window has the events of a subscription whose client acknowledges them, from the
// oldest unacknowledged one on. While it is full, the subscription rests at its cursor,
// as that of a client that reads slowly does: nothing is queued. A refused event puts
// the cursor back; it and those after it are sent again, without the acknowledged ones.
// Session.mu guards a window.
type window struct {
	most  int
	again string // head of events that were sent before
	sent  []sentEvent
	next  int                 // index in sent of the next event to send; len(sent) if that is a new one
	done  eventstore.Position // no event up to it is sent again

	isResting bool        // the window is full, or a refused event waits
	timer     *time.Timer // until a refused event is sent again; nil if none waits
	delay     time.Duration
}

// sentEvent is an event that the client got.
type sentEvent struct {
	place  history.Place
	isDone bool // acknowledged
}

// before returns the place from which the event is read again.
func (e sentEvent) before() history.Place {
	p := e.place
	p.At--
	if p.Version > 0 {
		p.Version--
	}
	return p
}

// newWindow returns nil for a subscription without acknowledgements.
func newWindow(terms wire.Terms) *window {
	if terms.Window == 0 {
		return nil
	}
	return &window{most: terms.Window, again: terms.Again, delay: firstAgain}
}

// hasRoom reports whether another event may be sent, and makes the subscription rest
// otherwise.
func (w *window) hasRoom() bool {
	w.isResting = w.timer != nil || w.next == len(w.sent) && len(w.sent) >= w.most
	return !w.isResting
}

// append appends an event to a message, unless the client has acknowledged it.
func (w *window) append(d *outbox.Draft, head string, e *history.Entry) {
	switch {
	case e.Position <= w.done:
	case w.next < len(w.sent) && w.sent[w.next].place.At == e.Position:
		if !w.sent[w.next].isDone {
			d.AppendEvent(w.again, e)
		}
		w.next++
	default:
		if d.AppendEvent(head, e) {
			w.sent = append(w.sent, sentEvent{place: e.Place()})
			w.next = len(w.sent)
		}
	}
}

// find returns the index of an event that the client has not acknowledged.
func (w *window) find(at eventstore.Position) (i int, ok bool) {
	for i, e := range w.sent {
		if e.place.At == at {
			return i, !e.isDone
		}
	}
	return 0, false
}

// acknowledge marks events as acknowledged, and drops those before the oldest
// unacknowledged one.
func (w *window) acknowledge(i int, isOne bool) {
	if !isOne {
		for j := range i {
			w.sent[j].isDone = true
		}
	}
	w.sent[i].isDone = true
	n := 0
	for n < len(w.sent) && w.sent[n].isDone {
		w.done = w.sent[n].place.At
		n++
	}
	w.sent, w.next = w.sent[:copy(w.sent, w.sent[n:])], max(0, w.next-n)
	w.delay = firstAgain
}

// refuse returns the place from which the event is sent again; with all before it,
// unless the refusal is for this event alone.
func (w *window) refuse(i int, isOne bool) history.Place {
	if !isOne {
		i = 0
	}
	w.next = min(w.next, i)
	return w.sent[w.next].before()
}

// isResting reports whether the subscription waits for acknowledgements.
func (sub *subscription) isResting() bool { return sub.window != nil && sub.window.isResting }

// stop stops the timer.
func (w *window) stop() {
	if w != nil && w.timer != nil {
		w.timer.Stop()
	}
}

// Acknowledge implements [wire.Handler].
func (s reader) Acknowledge(a wire.Ack) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.subs.byID[a.Sub]
	if sub == nil || sub.window == nil {
		return false
	}
	w := sub.window
	i, ok := w.find(a.Position)
	switch {
	case !ok:
		return false
	case a.IsRefused:
		sub.Place = w.refuse(i, a.IsOne)
		s.waitForAgain(sub)
	default:
		w.acknowledge(i, a.IsOne)
		s.resumeResting(sub)
	}
	return true
}

// waitForAgain makes a subscription rest until its refused event is sent again. The
// caller holds s.mu.
func (s *Session) waitForAgain(sub *subscription) {
	w := sub.window
	if w.timer != nil {
		return // that of an earlier refusal
	}
	w.timer = time.AfterFunc(w.delay, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		w.timer = nil
		s.resumeResting(sub)
	})
	w.delay, w.isResting = min(2*w.delay, mostAgain), true
}

// resumeResting makes the next message look for events of a subscription that rested.
// The caller holds s.mu.
func (s *Session) resumeResting(sub *subscription) {
	if sub.window.isResting && sub.window.timer == nil {
		s.subs.markReady(sub)
		s.out.ScheduleWrite()
	}
}
