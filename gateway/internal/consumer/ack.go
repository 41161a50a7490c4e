package consumer

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/proto/group"
)

// Ack acknowledges the events of a segment. isOver reports that the epoch is over: the
// client must be told that the segment was revoked. Ack does not block.
func (m *Member) Ack(segment string, epoch uint64, cursor string) (isOver bool, failure *command.Failure) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, isOver, failure := m.current(segment, epoch)
	if s == nil {
		return isOver, failure
	}
	p, err := strconv.ParseUint(cursor, 10, 64)
	at := eventstore.Position(p)
	if err != nil || strconv.FormatUint(p, 10) != cursor {
		return false, badCursor(s, cursor, "is malformed")
	}
	if at < s.holding.Position {
		return false, badCursor(s, cursor, "is before the cursor of assigned")
	}
	s.sign = time.Now()
	if at <= s.acked { // "still working"
		return false, nil
	}
	if _, wasSent := s.find(at); !wasSent {
		return false, badCursor(s, cursor, "was not sent")
	}
	wasFull := s.room() <= 0
	s.acknowledge(at)
	s.tell()
	m.store(s)
	if wasFull {
		m.wake()
	} else { // there was room already
		m.gather()
	}
	return false, nil
}

func badCursor(s *Segment, cursor, what string) *command.Failure {
	return command.BadRequest("cursor", "the cursor %s of segment %s %s: acknowledge the position of an event that was sent under epoch %d, "+
		"as a string; it covers every event of the segment up to there", command.Quote(cursor), command.Quote(s.Name), what, s.Epoch)
}

// current returns the segment that a client names, or reports that the epoch is over.
// The caller holds m.mu.
func (m *Member) current(name string, epoch uint64) (s *Segment, isOver bool, failure *command.Failure) {
	s = m.segments[name]
	switch {
	case s != nil && s.Epoch == epoch && s.isAnnounced && !s.isLost && !m.isClosed:
		return s, false, nil
	case epoch > m.newest:
		return nil, false, command.BadRequest("epoch", "no segment was assigned to this member under epoch %d: repeat the epoch of assigned", epoch)
	case s == nil && !isSegmentName(name):
		return nil, false, command.BadRequest("segment", "there is no segment %s: repeat the segment of assigned", command.Quote(name))
	}
	return nil, true, nil
}

func segmentName(n int) string { return strconv.Itoa(n) }

func isSegmentName(name string) bool {
	n, err := strconv.Atoi(name)
	return err == nil && n >= 0 && segmentName(n) == name || strings.HasPrefix(name, "~")
}

// store stores the acknowledged position. The caller holds m.mu.
func (m *Member) store(s *Segment) {
	if !s.isStoring && s.stored != s.acked {
		s.isStoring = true
		m.spawn(func() { m.storeAcks(s) })
	}
}

// storeAcks stores the newest acknowledged position until there is no newer one. If the
// database can't be reached, it tries again, and the segment sends nothing new in the
// meantime.
func (m *Member) storeAcks(s *Segment) {
	for pause := firstPause; ; {
		m.mu.Lock()
		at := s.acked
		if s.stored == at || s.isLost || m.storing.Err() != nil {
			s.isStoring = false
			m.settle(s)
			m.wake()
			m.mu.Unlock()
			return
		}
		m.mu.Unlock()
		err := m.place.Ack(m.storing, s.Name, s.Epoch, at)
		m.mu.Lock()
		s.isStalled = err != nil
		switch {
		case err == nil:
			s.stored, pause = max(s.stored, at), firstPause
		case errors.Is(err, group.ErrRevoked):
			m.lose(s)
		case pause == firstPause && !errors.Is(err, eventstore.ErrUnavailable) && m.storing.Err() == nil:
			m.gateway.Logger.Warn("an acknowledgement can't be stored", "group", m.request.Group, "segment", s.Name, "position", at, "err", err)
		}
		m.mu.Unlock()
		if err != nil && !errors.Is(err, group.ErrRevoked) {
			m.pause(m.storing, pause)
			pause = min(2*pause, lastPause)
		}
	}
}

// move stores the position of a segment without pending events, so that the log is not
// read again. The caller holds m.mu.
func (m *Member) move(s *Segment) {
	if s.isAnnounced && !s.isLost && s.isIdle() && s.parking == 0 && s.place.At > s.acked {
		s.sent, s.acked = nil, s.place.At
		m.store(s)
	}
}

// settle releases a revoking segment, and lets a sequence rejoin, once everything is
// stored. The caller holds m.mu.
func (m *Member) settle(s *Segment) {
	if s.isLost || !s.isIdle() || s.parking > 0 {
		return
	}
	switch {
	case s.holding.Revoking && !s.isReleased:
		s.isReleased = true
		m.place.Release(s.Name, s.Epoch)
	case s.isSequence() && s.isAnnounced && !s.isRejoining:
		if main := m.main(s); main != nil && s.place.At >= main.place.At && !main.isRejoining {
			s.isRejoining, main.isRejoining = true, true
			m.spawn(func() { m.rejoin(s, main) })
		}
	}
}

// rejoin ends the retry of a sequence that has caught up with its segment, which sends
// nothing in the meantime.
func (m *Member) rejoin(s, main *Segment) {
	m.retry(s, func() error { return m.place.Rejoin(m.ctx, s.Name, s.Epoch) }, func(err error) {
		main.isRejoining = false
		if err == nil {
			delete(main.parked, s.sequence.String())
			m.lose(s)
		}
	})
}

// Park sets the sequence of an event aside. isOver is as in Ack. It blocks while the
// database is asked.
func (m *Member) Park(ctx context.Context, f frame.Park) (isOver bool, failure *command.Failure) {
	m.mu.Lock()
	s, isOver, failure := m.current(f.Segment, f.Epoch)
	if s == nil {
		m.mu.Unlock()
		return isOver, failure
	}
	i, wasSent := s.find(f.Position)
	if !wasSent || s.sent[i].isDone {
		m.mu.Unlock()
		return false, command.BadRequest("position", "event %d of segment %s is not pending under epoch %d: park an event that was sent and is not acknowledged",
			f.Position, command.Quote(f.Segment), f.Epoch)
	}
	stream := s.sent[i].stream
	s.parking++ // it sends no event of the sequence
	s.sign = time.Now()
	m.mu.Unlock()
	err := m.place.Park(ctx, s.Name, s.Epoch, f.Position, stream.String(), f.Reason)
	m.mu.Lock()
	defer m.mu.Unlock()
	s.parking--
	m.wake()
	switch {
	case err == nil:
		m.setAside(s, stream, f.Position)
		return false, nil
	case errors.Is(err, group.ErrRevoked):
		m.lose(s)
		return true, nil
	case errors.Is(err, group.ErrParkedFull):
		return false, command.Unavailable("%d sequences of the group are parked, which is the maximum: an operator must retry or skip some; the event stays pending", group.MaxParked)
	case errors.Is(err, eventstore.ErrUnavailable), ctx.Err() != nil:
		return false, command.Unavailable("the event can't be parked at the moment, since the database does not answer: it stays pending; try again")
	}
	m.gateway.Logger.Error("parking a sequence failed", "group", m.request.Group, "stream", stream, "position", f.Position, "err", err)
	return false, command.Internal(command.RetryLater)
}

// setAside leaves out a sequence that was parked. Of a sequence under retry, nothing is
// left. The caller holds m.mu.
func (m *Member) setAside(s *Segment, stream eventstore.StreamID, from eventstore.Position) {
	if s.isSequence() {
		m.lose(s)
		return
	}
	s.leaveOut(stream, from)
	if s.parked == nil {
		s.parked = make(map[string]eventstore.Position)
	}
	s.parked[stream.String()] = from
	s.tell()
}
