package consumer

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/proto/group"
)

// Segment is a segment that a member holds under one epoch. Name, Epoch and Head do not
// change; Member.mu guards the rest.
type Segment struct {
	Name  string
	Epoch uint64
	Head  string // of the frames of its events

	member   *Member
	holding  group.Holding
	round    uint64              // of refresh that has seen it
	number   int                 // for SegmentOf; -1 for a sequence
	sequence eventstore.StreamID // for a parked sequence under retry

	isLoaded    bool // parked, or the version of place, is known
	isAnnounced bool // Next has returned assigned
	isRevoking  bool // and revoking
	isReleased  bool
	isLost      bool
	isStalled   bool // the last acknowledgement could not be stored yet
	isStoring   bool // a goroutine stores acknowledgements
	isRejoining bool // a sequence of it rejoins
	parking     int  // calls of Park in progress

	parked map[string]eventstore.Position // by sequence: left out from there on
	place  history.Place                  // everything up to it was sent or left out
	sent   []sent                         // after acked, in order
	open   int                            // elements of sent that are not done
	acked  eventstore.Position            // up to here everything is handled
	stored eventstore.Position            // and stored
	told   eventstore.Position            // the first pending event that the coordinator knows of
	sign   time.Time                      // last sign of life while an event is pending

	isWaiting bool          // for a page
	page      *history.Page // from Resume; pinned
}

// sent is an event that was sent and is not acknowledged.
type sent struct {
	position eventstore.Position
	stream   eventstore.StreamID
	isDone   bool // its sequence was parked since
}

func (m *Member) newSegment(h group.Holding) *Segment {
	s := &Segment{
		Name: h.Segment, Epoch: h.Epoch, Head: string(frame.AppendSegmentHead(nil, m.request.Sub, h.Segment)),
		member: m, holding: h, number: -1, place: history.Place{At: h.Position}, acked: h.Position, stored: h.Position,
	}
	if h.Sequence == "" {
		s.number, _ = strconv.Atoi(h.Segment)
	}
	return s
}

func (s *Segment) isSequence() bool { return s.number < 0 }

// room returns how many more events may be sent.
func (s *Segment) room() int {
	window := s.member.request.Window
	if s.holding.Window > 0 {
		window = min(window, s.holding.Window)
	}
	return window - s.open
}

// maySend reports whether new events may be sent, if there is room.
func (s *Segment) maySend() bool {
	return s.isAnnounced && !s.isLost && !s.holding.Revoking && s.holding.Halt == "" &&
		!s.isStalled && !s.isRejoining && s.parking == 0 && !s.isWaiting && s.room() > 0
}

// add records that an event was sent.
func (s *Segment) add(e *history.Entry, now time.Time) {
	if s.open == 0 {
		s.sign = now
	}
	s.sent = append(s.sent, sent{position: e.Position, stream: e.Stream})
	s.open++
	s.place = e.Place()
}

// leavesOut reports whether the sequence of an event is parked.
func (s *Segment) leavesOut(e *history.Entry) bool {
	if len(s.parked) == 0 {
		return false
	}
	from, isParked := s.parked[e.Stream.String()]
	return isParked && e.Position >= from
}

// find returns the index of the event at a position that was sent.
func (s *Segment) find(p eventstore.Position) (i int, ok bool) {
	return slices.BinarySearchFunc(s.sent, p, func(e sent, p eventstore.Position) int { return cmp.Compare(e.position, p) })
}

// acknowledge drops the events up to a position, which is that of one of them.
func (s *Segment) acknowledge(p eventstore.Position) {
	n, _ := s.find(p)
	for _, e := range s.sent[:n+1] {
		if !e.isDone {
			s.open--
		}
	}
	s.sent = slices.Delete(s.sent, 0, n+1)
	if len(s.sent) == 0 && cap(s.sent) > 128 {
		s.sent = nil // an idle segment keeps no large list
	}
	s.acked = p
}

// leaveOut marks the pending events of a sequence from a position on as done.
func (s *Segment) leaveOut(stream eventstore.StreamID, from eventstore.Position) {
	for i := range s.sent {
		if e := &s.sent[i]; e.stream == stream && e.position >= from && !e.isDone {
			e.isDone = true
			s.open--
		}
	}
}

// first returns the position of the earliest pending event, or 0.
func (s *Segment) first() eventstore.Position {
	for _, e := range s.sent {
		if !e.isDone {
			return e.position
		}
	}
	return 0
}

// tell reports the earliest pending event to the coordinator, if it has changed.
func (s *Segment) tell() {
	first := s.first()
	if first == s.told || s.isLost {
		return
	}
	s.told = first
	last := eventstore.Position(0)
	if first > 0 {
		last = s.sent[len(s.sent)-1].position
	}
	s.member.place.Pending(s.Name, s.Epoch, first, last)
}

// isIdle reports whether nothing is pending, and everything acknowledged is stored.
func (s *Segment) isIdle() bool { return s.open == 0 && !s.isStoring && s.stored == s.acked }

// IsWaiting implements [history.Reader].
func (s *Segment) IsWaiting() bool {
	s.member.mu.Lock()
	defer s.member.mu.Unlock()
	return !s.isLost && !s.member.isClosed
}

// Resume implements [history.Reader].
func (s *Segment) Resume(p *history.Page) (used bool) {
	m := s.member
	m.mu.Lock()
	defer m.mu.Unlock()
	s.isWaiting = false
	m.wake()
	if s.isLost || m.isClosed || m.isResting {
		return false
	}
	s.page = p
	return p != nil
}

// unpin unpins the page of the last Resume, if there is one.
func (s *Segment) unpin() {
	if s.page != nil {
		s.member.gateway.Log.Pages().Unpin(s.page)
		s.page = nil
	}
}
