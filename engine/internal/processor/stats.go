package processor

import (
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// Stats are a processor's current figures, and its counts since New.
type Stats struct {
	Projection string
	// Segments are the ones on which this node works.
	Segments []SegmentFigures
	// Builds counts the projection's builds of all programs, as last read.
	Builds map[rows.State]int
	// Batches and Rows count what was written. Retries counts what was tried again,
	// by its cause.
	Batches, Rows uint64
	Retries       map[Retry]uint64
}

// SegmentFigures are the figures of one segment.
type SegmentFigures struct {
	Build    int64
	State    rows.State // of the build
	Segment  int
	Position eventstore.Position
	// Behind is how many positions the rows are behind the log's head, and Stale for
	// how long they have not shown the head of their moment; both are 0 at the head.
	Behind uint64
	Stale  time.Duration
	// Blocked counts the rows that wait for an operator.
	Blocked int
	// Stopped is why the segment does not follow the log, "" if it does.
	Stopped Retry
}

// Retry is why a segment began again, or tried an event again.
type Retry string

// The causes.
const (
	RetryFenced   Retry = "fenced"        // another node has moved the checkpoint
	RetryStore    Retry = "store"         // the database did not answer
	RetryEvent    Retry = "event"         // an event could not be folded or stored
	RetryUnknown  Retry = "unknown_event" // an event is newer than this program
	RetryOtherLog Retry = "other_log"     // the rows show another log
	RetryPaused   Retry = "paused"        // an operator has paused the projection
	RetryBroker   Retry = "broker"        // the broker did not take over a relay's events
)

var retryCauses = [...]Retry{RetryFenced, RetryStore, RetryEvent, RetryUnknown, RetryOtherLog, RetryPaused, RetryBroker}

// counts are the counters of a processor.
type counts struct {
	batches, rows atomic.Uint64
	retries       [len(retryCauses)]atomic.Uint64 // in the order of retryCauses
}

// SegmentStats has the figures of a running segment. Only the segment's goroutines
// change it. A nil one records nothing.
type SegmentStats struct {
	counts    *counts
	position  atomic.Uint64
	blocked   atomic.Int64
	currentAt atomic.Pointer[time.Time] // when the rows last showed the head
	cause     atomic.Pointer[Retry]     // why it does not follow
}

// began records where the checkpoint is when work on the segment begins. Why the segment
// does not follow stays, until it moves.
func (s *SegmentStats) began(at eventstore.Position, blocked int) {
	if s == nil {
		return
	}
	s.position.Store(uint64(at))
	s.blocked.Store(int64(blocked))
	s.currentAt.CompareAndSwap(nil, new(time.Now()))
}

// moved records where the checkpoint is, and that the segment follows.
func (s *SegmentStats) moved(at eventstore.Position, blocked int) {
	if s != nil {
		s.began(at, blocked)
		s.cause.Store(nil)
	}
}

// current records that the rows show the head of a moment.
func (s *SegmentStats) current(at time.Time) {
	if s != nil {
		s.currentAt.Store(&at)
	}
}

func (s *SegmentStats) wrote(rows int) {
	if s != nil {
		s.counts.batches.Add(1)
		s.counts.rows.Add(uint64(rows))
	}
}

// isStopped reports whether a cause has stopped the segment since it last moved.
func (s *SegmentStats) isStopped(why Retry) bool {
	cause := s.cause.Load()
	return cause != nil && *cause == why
}

func (s *SegmentStats) stopped(why Retry) { s.cause.Store(&why) }

func (s *SegmentStats) retried(why Retry) {
	if s == nil {
		return
	}
	for i, c := range retryCauses {
		if c == why {
			s.counts.retries[i].Add(1)
		}
	}
}

// figures returns the figures of a segment, given the log's head.
func (s *SegmentStats) figures(at place, head eventstore.Position, now time.Time) SegmentFigures {
	f := SegmentFigures{Build: at.build, Segment: at.segment, Position: eventstore.Position(s.position.Load()), Blocked: int(s.blocked.Load())}
	if why := s.cause.Load(); why != nil {
		f.Stopped = *why
	}
	if since := s.currentAt.Load(); since != nil && f.Position < head {
		f.Behind, f.Stale = uint64(head-f.Position), now.Sub(*since)
	}
	return f
}

// count keeps the numbers of builds.
func (p *Processor) count(builds []rows.Overview) {
	counted := map[rows.State]int{rows.Building: 0, rows.Active: 0, rows.Retired: 0}
	for _, b := range builds {
		if b.Projection == p.spec.Projection {
			counted[b.State]++
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.builds = counted
}

// Stats returns the current figures.
func (p *Processor) Stats() Stats {
	s := Stats{
		Projection: p.spec.Projection, Batches: p.counts.batches.Load(), Rows: p.counts.rows.Load(), Retries: map[Retry]uint64{},
	}
	for i, cause := range retryCauses {
		if cause != RetryBroker || p.cfg.Relay != nil {
			s.Retries[cause] = p.counts.retries[i].Load()
		}
	}
	head, now := p.cfg.Tail.Head(), time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Builds = p.builds
	for at, w := range p.segments {
		f := w.stats.figures(at, head, now)
		f.State = w.state
		s.Segments = append(s.Segments, f)
	}
	return s
}
