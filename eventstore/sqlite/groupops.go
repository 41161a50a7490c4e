package sqlite

import (
	"context"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// Reset implements groups.Store.
func (g groupStore) Reset(ctx context.Context, group string, to groups.Place) error {
	return g.change(ctx, "reset the group", group, func(ctx context.Context, epoch int64) error {
		if err := g.endRetries(ctx, group); err != nil {
			return err
		}
		if _, err := g.exec(ctx, `update consumer set log_id = (select id from log) where name = ?1`, group); err != nil {
			return err
		}
		if to.Keep {
			return g.keep(ctx, group, epoch)
		}
		pos := stored.Signed(to.Position)
		key, err := g.keyAt(ctx, pos)
		if err != nil {
			return err
		}
		if _, err := g.exec(ctx, `update consumer_segment set pos = ?2, commit_key = ?3, epoch = ?4, tries = 0, suspect = 0, careful_until = 0 where name = ?1`,
			group, pos, key, epoch); err != nil {
			return err
		}
		return g.unparkAfter(ctx, group, pos)
	})
}

// keep leaves all segments where they are, if the log has the commits at which they
// stand.
func (g groupStore) keep(ctx context.Context, group string, epoch int64) error {
	var other bool
	_, err := g.row(ctx, []any{&other}, `select exists (select 1 from consumer_segment s where name = ?1 and pos > 0
		and commit_key is not (select key from "commit" c where c.pos >= s.pos order by c.pos limit 1))`, group)
	if err == nil && other {
		err = groups.ErrOtherLog
	}
	if err == nil {
		_, err = g.exec(ctx, `update consumer_segment set epoch = ?2 where name = ?1`, group, epoch)
	}
	return err
}

// endRetries parks the sequences under retry where they have come to.
func (g groupStore) endRetries(ctx context.Context, group string) error {
	_, err := g.exec(ctx, `update consumer_parked set pos = max(consumer_parked.pos, s.pos + 1) from consumer_segment s
		where s.name = ?1 and consumer_parked.name = ?1 and s.segment = '~' || sequence`, group)
	if err == nil {
		_, err = g.exec(ctx, `delete from consumer_segment where name = ?1 and segment like '~%'`, group)
	}
	return err
}

// unparkAfter ends the parking of sequences whose events the segments get again.
func (g groupStore) unparkAfter(ctx context.Context, group string, pos int64) error {
	_, err := g.exec(ctx, `delete from consumer_parked where name = ?1 and pos > ?2`, group, pos)
	return err
}

// Resize implements groups.Store.
func (g groupStore) Resize(ctx context.Context, group string, segments int) error {
	return g.change(ctx, "resize the group", group, func(ctx context.Context, epoch int64) error {
		if err := g.endRetries(ctx, group); err != nil {
			return err
		}
		var lowest int64
		var key string
		if _, err := g.row(ctx, []any{&lowest, &key}, `select pos, commit_key from consumer_segment where name = ?1 order by pos limit 1`, group); err != nil {
			return err
		}
		if _, err := g.exec(ctx, `delete from consumer_segment where name = ?1`, group); err != nil {
			return err
		}
		if _, err := g.exec(ctx, `update consumer set segments = ?2 where name = ?1`, group, segments); err != nil {
			return err
		}
		for n := range segments {
			if err := g.insert(ctx, group, groups.SegmentName(n), lowest, key, epoch); err != nil {
				return err
			}
		}
		return g.unparkAfter(ctx, group, lowest)
	})
}

// Pause implements groups.Store.
func (g groupStore) Pause(ctx context.Context, group string, paused bool) error {
	return g.change(ctx, "pause or resume the group", group, func(ctx context.Context, _ int64) error {
		_, err := g.exec(ctx, `update consumer set paused = ?2 where name = ?1`, group, paused)
		if err == nil && !paused {
			_, err = g.exec(ctx, `delete from processor_paused where name = ?1`, groups.PauseName)
		}
		return err
	})
}

// Retry implements groups.Store.
func (g groupStore) Retry(ctx context.Context, group, sequence string) error {
	return g.change(ctx, "retry a sequence of the group", group, func(ctx context.Context, epoch int64) error {
		var at int64
		found, err := g.row(ctx, []any{&at}, `select pos from consumer_parked where name = ?1 and sequence = ?2`, group, sequence)
		if err == nil && !found {
			err = groups.ErrNotParked
		}
		if err != nil {
			return err
		}
		return g.retry(ctx, group, sequence, at-1, epoch)
	})
}

// retry adds the segment of a sequence, which begins after a position.
func (g groupStore) retry(ctx context.Context, group, sequence string, after, epoch int64) error {
	key, err := g.keyAt(ctx, after)
	if err != nil {
		return err
	}
	return g.insert(ctx, group, groups.RetrySegment(sequence), after, key, epoch)
}

// Skip implements groups.Store.
func (g groupStore) Skip(ctx context.Context, group, sequence string, p eventstore.Position) error {
	return g.change(ctx, "skip an event of the group", group, func(ctx context.Context, epoch int64) error {
		moved, err := g.exec(ctx, `update consumer_parked set pos = pos + 1 where name = ?1 and sequence = ?2 and pos = ?3
			and not exists (select 1 from consumer_segment where name = ?1 and segment = ?4)`,
			group, sequence, stored.Signed(p), groups.RetrySegment(sequence))
		if err == nil && moved == 0 {
			err = groups.ErrNotParked
		}
		if err != nil {
			return err
		}
		return g.retry(ctx, group, sequence, stored.Signed(p), epoch)
	})
}
