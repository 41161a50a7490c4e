package processor

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// boundEvery is how often a segment that waits for the build that sends looks at how
// far it may fold.
const boundEvery = 50 * time.Millisecond

// bound returns how far a segment may fold. A build of a process manager that does
// not send folds no further than the one that does, so that it can take over without
// a gap.
func (s *segment) bound() eventstore.Position {
	if s.cfg.Process == nil || s.worker == nil || s.term.Current() {
		return rows.Endless
	}
	return eventstore.Position(s.worker.bound.Load())
}

// wait returns when there may be commits after the checkpoint.
func (s *segment) wait(ctx context.Context) error {
	if s.bound() > s.at {
		return s.cfg.Tail.Wait(ctx, s.at, s.resets)
	}
	ctx, cancel := context.WithTimeout(ctx, boundEvery)
	defer cancel()
	if err := s.cfg.Tail.Wait(ctx, rows.Endless, s.resets); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// sendsOrServes reports whether a build that has caught up is in use from then on. A
// build of a process manager must take over first.
func (s *segment) sendsOrServes() bool { return s.cfg.Process == nil || s.term.Current() }

// signal tells the sender of a process manager what was written.
func (s *segment) signal(b rows.Batch) {
	if s.worker == nil || s.cfg.Process == nil {
		return
	}
	var due time.Time
	for _, r := range b.Rows {
		if micros, ok := valueOf(r); ok {
			if t := time.UnixMicro(micros); due.IsZero() || t.Before(due) {
				due = t
			}
		}
	}
	s.worker.signal.Wrote(len(b.Commands) > 0, due)
}

// valueOf returns when the process of a row is due.
func valueOf(r rows.Row) (micros int64, ok bool) {
	if len(r.Values) == 0 {
		return 0, false
	}
	micros, ok = r.Values[0].(int64)
	return micros, ok
}

// position returns where the segment's checkpoint was, as far as this node knows.
func (w *worker) position() eventstore.Position { return eventstore.Position(w.stats.position.Load()) }

// wake records the times of a segment's sequences.
func (p *Processor) wake(ctx context.Context, at place, w *worker) {
	for ctx.Err() == nil {
		table, err := p.cfg.Rows.Open(ctx, p.spec, at.build)
		if err == nil {
			p.cfg.Outbox.Wake(ctx, table, at.segment, &w.signal)
			return
		}
		p.pause(ctx, pausedFor)
	}
}

// mayReplace reports whether a build replaces older ones of its definition.
func (p *Processor) mayReplace(b rows.Overview) bool {
	return p.cfg.Process == nil || isCurrent(b)
}

// isCurrent reports whether a build sends.
func isCurrent(b rows.Overview) bool {
	return len(b.Checkpoints) > 0 && b.Checkpoints[0].Term.Current()
}

// lowest returns the position that all segments of a build have reached.
func lowest(b rows.Overview) eventstore.Position {
	low := rows.Endless
	for _, c := range b.Checkpoints {
		low = min(low, c.Position)
	}
	return low
}

func highest(b rows.Overview) (high eventstore.Position) {
	for _, c := range b.Checkpoints {
		high = max(high, c.Position)
	}
	return high
}

// sending returns the build that sends for the process manager, of any program.
func (p *Processor) sending(builds []rows.Overview) (rows.Overview, bool) {
	i := slices.IndexFunc(builds, func(b rows.Overview) bool { return b.Projection == p.spec.Projection && isCurrent(b) })
	if i < 0 {
		return rows.Overview{}, false
	}
	return builds[i], true
}

// A hold is how far a build may fold that does not send.
type hold struct {
	bound  eventstore.Position
	before eventstore.Position // as of the look before
	looked bool                // there was one
}

// hold sets how far the builds that do not send may fold.
func (p *Processor) hold(builds []rows.Overview) {
	if p.cfg.Process == nil {
		return
	}
	bound := rows.Endless
	if sending, ok := p.sending(builds); ok {
		bound = lowest(sending)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range builds {
		if p.ours(b.Build) {
			last, looked := p.holds[b.ID]
			p.holds[b.ID] = hold{bound: bound, before: last.bound, looked: looked}
		}
	}
	for _, w := range p.segments {
		w.bound.Store(uint64(bound))
	}
}

// handover makes the newest build of this program's definition send, in the place of
// another build. A newer build takes over once it has folded as far as it may. An
// older one, of a program to which the nodes have returned, takes over once the other
// build has stood still behind the head for a time. The owner of the first segment
// does this.
func (p *Processor) handover(ctx context.Context, builds []rows.Overview) error {
	if p.cfg.Process == nil || !p.cfg.Owns(0) {
		return nil
	}
	own, ok := p.newest(builds)
	from, sending := p.sending(builds)
	if !ok || !sending || own.ID == from.ID || own.LogID != p.cfg.Log.LogID() || own.Checkpoints[0].Paused {
		return nil
	}
	h := p.holdOf(own.ID)
	if !h.looked || lowest(own) < h.before || own.ID < from.ID && !p.isAbandoned(from) {
		return nil
	}
	err := p.cfg.Rows.Handover(ctx, from.ID, own.ID)
	if errors.Is(err, rows.ErrNoHandover) {
		return nil
	}
	if err == nil {
		p.log.Info("a build of a process manager sends from here on", "build", own.ID, "before", from.ID, "position", highest(from))
	}
	p.cfg.Watch.Refresh()
	return err
}

func (p *Processor) holdOf(build int64) hold {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.holds[build]
}

// reach returns how far a segment can fold now.
func (p *Processor) reach(build int64, c rows.Checkpoint) eventstore.Position {
	head := p.cfg.Tail.Head()
	if p.cfg.Process == nil || c.Term.Current() {
		return head
	}
	return min(head, p.holdOf(build).bound)
}

// newest returns the newest build of this program's definition that is in use.
func (p *Processor) newest(builds []rows.Overview) (found rows.Overview, ok bool) {
	for _, b := range builds {
		if p.ours(b.Build) && b.State != rows.Retired && len(b.Checkpoints) > 0 {
			found, ok = b, true
		}
	}
	return found, ok
}

// isAbandoned reports whether the build that sends has stood still behind the head
// for a time.
func (p *Processor) isAbandoned(b rows.Overview) bool {
	at := place{b.ID, -1} // no segment has this number
	high := highest(b)
	s, known := p.still[at]
	if !known || s.position != high || high >= p.cfg.Tail.Head() {
		p.still[at] = still{position: high, since: time.Now(), patience: abandonedAfter}
		return false
	}
	return time.Since(s.since) >= s.patience
}

// drain makes the owner of the first segment watch the outbox, and send what no other
// node sends.
func (p *Processor) drain(ctx context.Context, used []rows.Overview) {
	if p.cfg.Process == nil {
		return
	}
	ids := map[int64]bool{}
	for _, b := range used {
		ids[b.ID] = true
	}
	p.mu.Lock()
	p.used = ids
	p.mu.Unlock()
	switch {
	case p.cfg.Owns(0) && p.stopDrain == nil:
		draining, stop := context.WithCancel(ctx)
		p.stopDrain = stop
		p.running.Go(func() { p.cfg.Outbox.Drain(draining, p.isUsed) })
	case !p.cfg.Owns(0) && p.stopDrain != nil:
		p.stopDrain()
		p.stopDrain = nil
	}
}

// isUsed reports whether nodes of this program fold a build, and so send for it.
func (p *Processor) isUsed(build int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used[build]
}
