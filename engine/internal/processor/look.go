package processor

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// maxWatchEvery is the longest time between two queries of a Watch.
const maxWatchEvery = 2 * time.Second

// A Watch reads the builds of all projections for the processors of one node, with
// one query: every 250 ms while a build catches up or the builds change, and up to
// 2 s apart while they stay as they are. It is safe for concurrent use.
type Watch struct {
	rows rows.Store

	mu    sync.Mutex // held during the query, so that one serves all
	list  []rows.Overview
	read  time.Time
	every time.Duration
}

// NewWatch returns a watch of a store's builds.
func NewWatch(s rows.Store) *Watch { return &Watch{rows: s} }

// Refresh makes the next call of Overviews read the builds.
func (w *Watch) Refresh() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.read = time.Time{}
}

// Overviews returns all builds, as they were at most 2 s ago.
func (w *Watch) Overviews(ctx context.Context) ([]rows.Overview, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.read.IsZero() && time.Since(w.read) < w.every {
		return w.list, nil
	}
	list, err := w.rows.Overviews(ctx)
	if err != nil {
		return nil, err
	}
	quiet := slices.EqualFunc(list, w.list, func(a, b rows.Overview) bool { return a.Build == b.Build }) &&
		!slices.ContainsFunc(list, func(o rows.Overview) bool { return o.State == rows.Building })
	if quiet {
		w.every = min(max(2*w.every, checkEvery), maxWatchEvery)
	} else {
		w.every = checkEvery / 2 // so that the processors' next look is a query
	}
	w.list, w.read = list, time.Now()
	return list, nil
}

// look starts and stops segments according to builds and ownership, and retires
// builds that a newer one has replaced.
func (p *Processor) look(ctx context.Context) error {
	builds, err := p.cfg.Watch.Overviews(ctx)
	if err != nil {
		return err
	}
	p.count(builds)
	p.hold(builds)
	newestActive := int64(0)
	for _, b := range builds {
		if p.ours(b.Build) && b.State == rows.Active && p.mayReplace(b) {
			newestActive = max(newestActive, b.ID)
		}
	}
	wanted, used := map[place]claim{}, []rows.Overview{}
	for _, b := range builds {
		switch {
		case !p.ours(b.Build) || b.State == rows.Retired:
		case b.ID < newestActive:
			if err := p.cfg.Rows.SetState(ctx, b.ID, rows.Retired); err != nil {
				return err
			}
			p.cfg.Watch.Refresh()
		default:
			used = append(used, b)
			p.want(b, wanted)
		}
	}
	p.adjust(ctx, wanted)
	if err := p.handover(ctx, builds); err != nil {
		return err
	}
	p.drain(ctx, used)
	return p.care(ctx, used)
}

func (p *Processor) ours(b rows.Build) bool {
	return b.Projection == p.spec.Projection && b.Fingerprint == p.spec.Fingerprint
}

// A claim is why this node works on a segment.
type claim struct {
	state rows.State // of the build
	taken bool       // the segment is another node's
}

// want adds the segments of a build on which this node works.
func (p *Processor) want(b rows.Overview, wanted map[place]claim) {
	for _, c := range b.Checkpoints {
		at := place{b.ID, c.Segment}
		if p.cfg.Owns(c.Segment) {
			wanted[at] = claim{state: b.State}
			delete(p.still, at)
			p.restart(at, c)
		} else if p.takes(at, b, c) {
			wanted[at] = claim{state: b.State, taken: true}
		}
	}
}

// A still is a segment of another node that does not move.
type still struct {
	position eventstore.Position
	since    time.Time // by this node's clock
	patience time.Duration
}

// takes reports whether this node works on another node's segment, which has stood
// still behind the head for long. Nodes differ in their patience, so that few work
// on it together; the checkpoint decides among them.
func (p *Processor) takes(at place, b rows.Overview, c rows.Checkpoint) bool {
	if p.cfg.TakeAfter == 0 || c.Paused || b.LogID != p.cfg.Log.LogID() || p.cfg.Relay != nil && b.Blocked[c.Segment] > 0 {
		return false
	}
	p.mu.Lock()
	w := p.segments[at]
	p.mu.Unlock()
	if w != nil && w.taken && !w.fenced.Load() {
		return true
	}
	s, known := p.still[at]
	if !known || s.position != c.Position || c.Position >= p.reach(at.build, c) || w != nil {
		p.still[at] = still{c.Position, time.Now(), p.cfg.TakeAfter + rand.N(p.cfg.TakeAfter/2+1)}
		return false
	}
	if time.Since(s.since) < s.patience {
		return false
	}
	p.log.Warn("a segment of another node stands still: working on it here", "build", at.build, "segment", at.segment, "position", c.Position)
	return true
}

// restart stops a segment whose rows an operator has mended since it began, or whose
// term has changed, so that it begins again even if no event arrives. It also stops a
// relay that was paused, which would publish the next event.
func (p *Processor) restart(at place, c rows.Checkpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.segments[at]; w != nil && w.began.Load() && (w.mends.Load() < c.Mends || p.cfg.Relay != nil && c.Paused || w.term.Load().Current() != c.Term.Current() && c.Position >= w.position()) {
		w.stop()
		delete(p.segments, at)
	}
}

// adjust starts the segments that are wanted and stops the others.
func (p *Processor) adjust(ctx context.Context, wanted map[place]claim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at, w := range p.segments {
		if c, ok := wanted[at]; !ok || c.taken != w.taken {
			w.stop()
			delete(p.segments, at)
		}
	}
	for at, c := range wanted {
		w := p.segments[at]
		if w == nil {
			running, stop := context.WithCancel(ctx)
			w = &worker{stop: stop, taken: c.taken, stats: SegmentStats{counts: &p.counts}}
			w.bound.Store(uint64(p.holds[at.build].bound))
			p.segments[at] = w
			p.running.Go(func() { p.runSegment(running, at, w) })
		}
		w.state = c.state
	}
}
