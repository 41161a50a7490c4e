package waker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/wakes"
)

// countEvery is how often a segment counts its rows.
const countEvery = 5 * time.Second

type totals struct{ notDue, woken, refused, failed atomic.Uint64 }

// watch is what other goroutines see of a segment.
type watch struct {
	mu      sync.Mutex
	planned time.Time // when the asker looks again, by the database's clock
	counts  wakes.Counts
	at      time.Time // of counts, by this machine's clock
	behind  uint64
}

// plan records when the asker looks again, by the database's clock.
func (w *watch) plan(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.planned = at
}

// isBeforePlan reports whether a time is before the asker looks again.
func (w *watch) isBeforePlan(at time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return at.Before(w.planned)
}

func (w *watch) counted(n wakes.Counts) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts, w.at = n, time.Now()
}

func (w *watch) follows(at, head eventstore.Position) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.behind = 0
	if head > at {
		w.behind = uint64(head - at)
	}
}

// Stats are the figures of a waker. Those of rows are at most 5 s old.
type Stats struct {
	Segments int           // that this node works on
	Due      int           // rows that are due
	Late     time.Duration // how long the first of them has been due
	Refused  int           // rows that wait for another version, or for an operator
	Behind   uint64        // the largest number of positions between a segment and the head
	Paused   bool
	// Questions since the start, by outcome.
	NotDue, Woken, RefusedTotal, Failed uint64
}

// Stats returns the figures of the segments that this node works on.
func (w *Waker) Stats() Stats {
	t := &w.totals
	all := Stats{NotDue: t.notDue.Load(), Woken: t.woken.Load(), RefusedTotal: t.refused.Load(), Failed: t.failed.Load()}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.segments {
		s.watch.mu.Lock()
		c := s.watch.counts
		if c.Due > 0 {
			c.Late += time.Since(s.watch.at)
		}
		all.Behind = max(all.Behind, s.watch.behind)
		s.watch.mu.Unlock()
		all.Segments++
		all.Due += c.Due
		all.Refused += c.Refused
		all.Late = max(all.Late, c.Late)
		all.Paused = all.Paused || c.Paused
	}
	return all
}
