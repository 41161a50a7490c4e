package waker

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/eventstore/wakes"
)

// observeEvery is how often a node looks at the segments of other nodes.
const observeEvery = time.Second

// others is what a waker knows of the segments that it does not own. It belongs to the
// goroutine of Run.
type others struct {
	read  time.Time
	now   map[int]wakes.Standing
	since map[int]*still
}

// A still is a segment of another node that has work and does not advance.
type still struct {
	as       wakes.Standing // without Late
	since    time.Time      // by this node's clock
	patience time.Duration
}

// observe looks at the segments of other nodes, if there are any. If the database does
// not answer, none of them stands still.
func (w *Waker) observe(ctx context.Context, owned [Segments]bool) {
	if w.cfg.TakeAfter == 0 || !slices.Contains(owned[:], false) || time.Since(w.others.read) < min(observeEvery, w.cfg.TakeAfter/4) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, observeEvery)
	defer cancel()
	list, err := w.cfg.Wakes.Standings(ctx, w.fingerprint, w.names)
	w.others.read = time.Now()
	if err != nil {
		clear(w.others.since)
		return
	}
	w.others.now = map[int]wakes.Standing{}
	for _, s := range list {
		w.others.now[s.Segment] = s
	}
	head := w.cfg.Tail.Head()
	for n, own := range owned {
		s := w.others.now[n] // at position 0 if no node has begun it
		s.Late = 0
		at := w.others.since[n]
		switch {
		case own || s.Position >= head && s.First.Version == 0:
			delete(w.others.since, n)
		case at == nil || at.as != s:
			w.others.since[n] = &still{s, time.Now(), w.cfg.TakeAfter + rand.N(w.cfg.TakeAfter/2+1)}
		}
	}
}

// takes reports whether this node works on a segment of another node: once the segment
// has stood still for long, until the other node works again. Nodes differ in their
// patience, so that few work on it together. They cost questions, and never a wrong
// wake-up.
func (w *Waker) takes(n int, s *segment) bool {
	if s != nil {
		delete(w.others.since, n)
		return s.taken && (!s.fenced.Load() || w.others.now[n].Late >= w.cfg.TakeAfter)
	}
	at := w.others.since[n]
	if at == nil || time.Since(at.since) < at.patience {
		return false
	}
	delete(w.others.since, n)
	w.cfg.Logger.Warn("wake-ups of another node stand still: working on them here", "segment", n, "position", at.as.Position)
	return true
}
