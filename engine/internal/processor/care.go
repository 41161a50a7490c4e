package processor

import (
	"context"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// keepTombstones is how long a deleted row leaves a tombstone.
const keepTombstones = 7 * 24 * time.Hour

// care says that this program uses its builds. The owner of the first segment also
// drops builds that no program uses, and purges old tombstones.
func (p *Processor) care(ctx context.Context, used []rows.Overview) error {
	if time.Since(p.cared) < careEvery {
		return nil
	}
	p.cared = time.Now()
	ids := make([]int64, len(used))
	for i, b := range used {
		ids[i] = b.ID
	}
	if err := p.cfg.Rows.Use(ctx, ids); err != nil {
		return err
	}
	if p.cfg.Owns(0) {
		dropped, err := p.cfg.Rows.Expire(ctx, p.spec.Projection, dropAfter)
		if err != nil {
			return err
		}
		if len(dropped) > 0 {
			p.log.Info("builds that no program used for a day are dropped", "builds", dropped)
		}
		for _, b := range used {
			if p.cfg.Relay != nil {
				break // it has no rows
			}
			if err := p.purge(ctx, b, time.Now().Add(-keepTombstones)); err != nil {
				return err
			}
		}
	}
	return nil
}

// purge removes the tombstones of rows that were deleted before a time. The time
// is that of the nodes which decided the commands: a wrong clock purges too early
// or too late, which readers notice by the floor.
func (p *Processor) purge(ctx context.Context, b rows.Overview, before time.Time) error {
	if b.State != rows.Active || b.LogID != p.cfg.Log.LogID() || len(b.Checkpoints) == 0 {
		return nil
	}
	low, high := b.Checkpoints[0].Floor, b.Checkpoints[0].Position
	for _, c := range b.Checkpoints {
		low, high = max(low, c.Floor), min(high, c.Position)
	}
	upTo, err := lastBefore(ctx, p.cfg.Log, low, high, before)
	if err != nil || upTo <= low {
		return err
	}
	table, err := p.cfg.Rows.Open(ctx, p.spec, b.ID)
	if err != nil {
		return err
	}
	return table.Purge(ctx, upTo)
}

// lastBefore returns the end of the last commit in (low, high] from before a time,
// or low. It searches as if the times of commits only rose, and reads a commit in
// each of at most 64 steps.
func lastBefore(ctx context.Context, log Log, low, high eventstore.Position, before time.Time) (eventstore.Position, error) {
	for first := true; low < high; first = false {
		mid := low + (high-low)/2
		if first {
			mid = low // mostly nothing is old
		}
		commits, err := log.Read(ctx, mid, 1)
		switch {
		case err != nil:
			return low, err
		case len(commits) == 0 || commits[0].Position > high || !commits[0].At.Before(before):
			high = mid
		default:
			low = commits[0].Position
		}
	}
	return low, nil
}
