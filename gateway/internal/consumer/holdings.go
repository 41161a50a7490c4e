package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/proto/group"
)

// refresh takes over what the coordinator has said last. It reports whether events may
// be sent. The caller holds m.mu.
func (m *Member) refresh() (maySend bool) {
	h := m.place.Holdings()
	if h.Replaced {
		m.end(command.Replaced("a newer session consumes %s as the member %s of this client: do not consume again by yourself", m.request.Group, command.Quote(m.request.Name)))
		return false
	}
	m.round++
	for _, holding := range h.List {
		s := m.segments[holding.Segment]
		if s == nil || s.Epoch != holding.Epoch {
			if s != nil {
				m.lose(s)
			}
			s = m.hold(holding)
		}
		s.holding, s.round = holding, m.round
	}
	for name, s := range m.segments {
		if s.round != m.round {
			m.lose(s)
			delete(m.segments, name)
		}
	}
	return !h.Silent
}

// hold begins a segment. The caller holds m.mu.
func (m *Member) hold(h group.Holding) *Segment {
	s := m.newSegment(h)
	if s.isSequence() {
		stream, err := eventstore.ParseStreamID(h.Sequence)
		if err != nil {
			m.gateway.Logger.Error("a parked sequence has no valid name", "group", m.request.Group, "sequence", h.Sequence, "err", err)
			s.isLost = true
		}
		s.sequence = stream
	}
	m.segments[h.Segment] = s
	if !s.isLost {
		m.spawn(func() { m.load(s, h.Position) })
	}
	return s
}

// load finds what a segment leaves out, or where a sequence begins. It tries until it
// succeeds, or the segment is lost.
func (m *Member) load(s *Segment, from eventstore.Position) {
	find := m.loadParked
	if s.isSequence() {
		find = func(s *Segment) error { return m.loadVersion(s, from) }
	}
	m.retry(s, func() error { return find(s) }, func(err error) {
		if err == nil {
			s.isLoaded = true
		}
	})
}

func (m *Member) loadParked(s *Segment) error {
	list, err := m.place.Parked(m.ctx, s.Name, s.Epoch)
	if err != nil {
		return err
	}
	parked := make(map[string]eventstore.Position, len(list))
	for _, p := range list {
		parked[p.Sequence] = p.Position
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.parked = parked
	return nil
}

// loadVersion finds the version of a sequence at its position.
func (m *Member) loadVersion(s *Segment, from eventstore.Position) error {
	after := frame.Subscribe{Stream: s.sequence, Cursor: history.Cursor(from)}
	start, failure := m.gateway.Log.Locate(m.ctx, history.Caller{Client: m.request.Client}, history.Topic{Stream: s.sequence}, after)
	if failure != nil {
		return failure
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	s.place.Version = start.Version
	return nil
}

// Pauses between the attempts of retry.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

// retry calls try until it succeeds, the segment is lost or the membership has ended. A
// revoked segment is lost. done is called at the end with m.mu held, with the error if
// try did not succeed.
func (m *Member) retry(s *Segment, try func() error, done func(err error)) {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := try()
		m.mu.Lock()
		if errors.Is(err, group.ErrRevoked) {
			m.lose(s)
		}
		if err == nil || s.isLost || m.isClosed {
			done(err)
			m.wake()
			m.mu.Unlock()
			return
		}
		m.mu.Unlock()
		m.pause(m.ctx, pause)
	}
}

// pause waits, or until ctx ends.
func (m *Member) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// lose ends a segment. The caller holds m.mu.
func (m *Member) lose(s *Segment) {
	if s.isLost {
		return
	}
	s.isLost = true
	s.unpin()
	if s.isAnnounced {
		m.revoked = append(m.revoked, frame.Revoked{Sub: m.request.Sub, Segment: s.Name, Epoch: s.Epoch})
	}
	m.wake()
}
