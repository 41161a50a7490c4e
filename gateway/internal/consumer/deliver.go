package consumer

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/proto/group"
)

// Sink takes what the client gets next. Its methods must not call the member.
type Sink interface {
	// Frame takes an assigned, revoking or revoked.
	Frame(f frame.Frame)
	// Event takes an event of a segment. It returns false if there is no room: then it
	// has not taken the event.
	Event(s *Segment, e *history.Entry) bool
}

// Next passes on what the client gets next. The events count as sent. more reports
// whether a further call would pass on more; if not, wake announces it. A failure says
// why the membership has ended; it is returned by each call from then on.
func (m *Member) Next(to Sink) (more bool, ended *command.Failure) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.isResting = false
	if m.isClosed {
		return false, m.ended
	}
	maySend := m.refresh()
	if m.ended != nil {
		return false, m.ended
	}
	all := m.inOrder()
	m.announce(all, to)
	if maySend {
		more = m.deliver(all, to)
	}
	for _, s := range all {
		s.tell()
		m.settle(s)
	}
	return more, m.ended
}

// inOrder returns the segments that are not lost, the farthest behind first.
func (m *Member) inOrder() []*Segment {
	all := make([]*Segment, 0, len(m.segments))
	for _, s := range m.segments {
		if !s.isLost {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *Segment) int {
		return cmp.Or(cmp.Compare(a.place.At, b.place.At), strings.Compare(a.Name, b.Name))
	})
	return all
}

// announce passes on which segments have begun and ended.
func (m *Member) announce(all []*Segment, to Sink) {
	for _, f := range m.revoked {
		to.Frame(f)
	}
	m.revoked = nil
	for _, s := range all {
		if s.isLoaded && !s.isAnnounced {
			s.isAnnounced = true
			m.newest = max(m.newest, s.Epoch)
			to.Frame(frame.Assigned{Sub: m.request.Sub, Segment: s.Name, Epoch: s.Epoch, Cursor: history.Cursor(s.holding.Position), Log: s.holding.Log})
		}
		if s.isAnnounced && s.holding.Revoking && !s.isRevoking {
			s.isRevoking = true
			to.Frame(frame.Revoking{Sub: m.request.Sub, Segment: s.Name, Epoch: s.Epoch})
		}
	}
}

// delivery is one call of deliver.
type delivery struct {
	*Member
	to     Sink
	head   eventstore.Position
	now    time.Time
	budget int  // events that may still be looked at
	isFull bool // the sink, or the budget is used up
}

// deliver passes on events. It reports whether there are more.
func (m *Member) deliver(all []*Segment, to Sink) (more bool) {
	x, head := m.gateway.Hub.Excerpt(m.topic)
	d := &delivery{Member: m, to: to, head: head, now: time.Now(), budget: scanLimit}
	var live []*Segment
	for _, s := range all {
		switch _, isCovered := x.After(s.place, head); {
		case !s.maySend():
			s.unpin()
		case s.isSequence():
			d.sequence(s)
		case isCovered:
			live = append(live, s)
		default:
			d.readBack(s, m.topic, head)
		}
	}
	if len(live) > 0 && !d.isFull && m.ended == nil {
		d.scan(live, &x)
	}
	return d.isFull && m.ended == nil
}

// scan passes on the window's events of segments that it covers, in one pass. The first
// segment is the farthest behind.
func (d *delivery) scan(live []*Segment, x *history.Excerpt) {
	segments := max(1, live[0].holding.Segments)
	open := make([]*Segment, segments)
	for _, s := range live {
		s.unpin()
		if s.holding.Segments == segments && s.number < segments {
			open[s.number] = s
		}
	}
	entries, _ := x.After(live[0].place, d.head)
	end := d.head
	for _, e := range entries {
		if d.budget--; d.budget < 0 {
			d.isFull = true
		} else if d.concerns(e) {
			if s := open[group.SegmentOf(e.Stream, segments)]; s != nil && s.place.At < e.Position {
				d.pass(s, e)
				if s.room() <= 0 {
					s.place.At, open[s.number] = e.Position, nil
				}
			}
		}
		if d.isFull || d.ended != nil {
			end = e.Position - 1
			break
		}
	}
	for _, s := range open {
		if s != nil {
			s.place.At = max(s.place.At, end)
		}
	}
}

// concerns reports whether the group may read an event.
func (d *delivery) concerns(e *history.Entry) bool {
	if e.Err != nil { // the name of an event that this node does not know says nothing
		return slices.Contains(d.group.Types, e.Stream.Type)
	}
	return d.group.Reads(e.Stream.Type, e.Event)
}

// pass passes on an event of a segment, unless its sequence is parked. If there is no
// room for it, it sets d.isFull. An event that this node can't show ends the
// membership: none is skipped.
func (d *delivery) pass(s *Segment, e *history.Entry) {
	switch {
	case s.leavesOut(e):
	case e.Err != nil:
		d.end(d.gateway.Unshown(e))
	case d.to.Event(s, e):
		s.add(e, d.now)
		d.passed.Store(d.now.UnixNano())
	default:
		d.isFull = true
	}
}

// readBack passes on events of one segment from pages of the log, up to a position.
func (d *delivery) readBack(s *Segment, topic history.Topic, upTo eventstore.Position) {
	for !d.isFull && d.ended == nil && s.room() > 0 && s.place.At < upTo {
		p := s.page
		if p == nil {
			p = d.gateway.Log.Pages().Get(s, d.request.Client, topic, s.place)
		}
		if p == nil {
			s.isWaiting = true
			return // Resume wakes
		}
		entries, end := p.After(s.place, upTo)
		s.unpin()
		d.passAll(s, entries, end)
	}
}

// passAll passes on events of one segment, of which none is missing up to a position.
func (d *delivery) passAll(s *Segment, entries []*history.Entry, end eventstore.Position) {
	for _, e := range entries {
		if d.budget--; d.budget < 0 {
			d.isFull = true
		} else if d.concerns(e) && (s.isSequence() || group.SegmentOf(e.Stream, s.holding.Segments) == s.number) {
			d.pass(s, e)
		}
		if d.isFull || d.ended != nil {
			return
		}
		if s.place = e.Place(); s.room() <= 0 {
			return
		}
	}
	s.place.At = max(s.place.At, end)
}

// sequence passes on events of a parked sequence under retry, up to the place of the
// segment that it belongs to.
func (d *delivery) sequence(s *Segment) {
	main := d.main(s)
	if main == nil || s.place.At >= main.place.At {
		return
	}
	topic, upTo := history.Topic{Stream: s.sequence}, min(main.place.At, d.head)
	x, _ := d.gateway.Hub.Excerpt(topic)
	if entries, isCovered := x.After(s.place, upTo); isCovered {
		s.unpin()
		d.passAll(s, entries, upTo)
		return
	}
	d.readBack(s, topic, upTo)
}

// main returns the segment that a sequence belongs to, or nil if the member does not
// hold it.
func (m *Member) main(s *Segment) *Segment {
	name := segmentName(group.SegmentOf(s.sequence, s.holding.Segments))
	if main := m.segments[name]; main != nil && !main.isLost && main.isLoaded {
		return main
	}
	return nil
}
