package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// keyAt is the SQL for the key of the commit with the event at a position, ” at 0,
// null beyond the end of the log.
func keyAt(pos string) string {
	return `case when ` + pos + ` = 0 then '' else (select c.key from commit c where c.pos >= ` + pos + ` order by c.pos limit 1) end`
}

// moveSegments begins all segments of a group at $2 under a new epoch, with the key $3.
const moveSegments = `update consumer_segment s set pos = $2, commit_key = $3, epoch = g.generation, at = clock_timestamp(), tries = 0, suspect = 0, careful_until = 0
	from consumer g where g.name = $1 and s.name = $1`

// Reset implements groups.Store.
func (g groupStore) Reset(ctx context.Context, group string, to groups.Place) error {
	return g.change(ctx, "reset the group", group, func(ctx context.Context, tx pgx.Tx) error {
		if err := g.endRetries(ctx, tx, group); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `update consumer set log_id = (select id::text from log) where name = $1`, group); err != nil {
			return err
		}
		if to.Keep {
			return g.keep(ctx, tx, group)
		}
		key, err := keyOf(ctx, tx, to.Position)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, moveSegments, group, stored.Signed(to.Position), key); err != nil {
			return err
		}
		return unparkAfter(ctx, tx, group, to.Position)
	})
}

// keep leaves all segments where they are, if the log has the commits at which they
// stand.
func (g groupStore) keep(ctx context.Context, tx pgx.Tx, group string) error {
	kept, err := tx.Exec(ctx, `update consumer_segment s set epoch = g.generation from consumer g
		where g.name = $1 and s.name = $1 and s.commit_key = `+keyAt("s.pos"), group)
	if err != nil {
		return err
	}
	var all int64
	err = tx.QueryRow(ctx, `select count(*) from consumer_segment where name = $1`, group).Scan(&all)
	if err == nil && kept.RowsAffected() != all {
		err = groups.ErrOtherLog
	}
	return err
}

// keyOf returns the key of the commit with the event at a position.
func keyOf(ctx context.Context, tx pgx.Tx, p eventstore.Position) (string, error) {
	var key *string
	err := tx.QueryRow(ctx, `select `+keyAt("$1::bigint"), stored.Signed(p)).Scan(&key)
	if err != nil {
		return "", err
	}
	if key == nil {
		return "", groups.ErrAhead
	}
	return *key, nil
}

// endRetries parks the sequences under retry where they have come to.
func (g groupStore) endRetries(ctx context.Context, tx pgx.Tx, group string) error {
	_, err := tx.Exec(ctx, `update consumer_parked p set pos = greatest(p.pos, s.pos + 1)
		from consumer_segment s where s.name = $1 and p.name = $1 and s.segment = '~' || p.sequence`, group)
	if err == nil {
		_, err = tx.Exec(ctx, `delete from consumer_segment where name = $1 and segment like '~%'`, group)
	}
	return err
}

// unparkAfter ends the parking of sequences whose events the segments get again.
func unparkAfter(ctx context.Context, tx pgx.Tx, group string, p eventstore.Position) error {
	_, err := tx.Exec(ctx, `delete from consumer_parked where name = $1 and pos > $2`, group, stored.Signed(p))
	return err
}

// Resize implements groups.Store.
func (g groupStore) Resize(ctx context.Context, group string, segments int) error {
	return g.change(ctx, "resize the group", group, func(ctx context.Context, tx pgx.Tx) error {
		if err := g.endRetries(ctx, tx, group); err != nil {
			return err
		}
		var lowest int64
		var key string
		if err := tx.QueryRow(ctx, `select pos, commit_key from consumer_segment where name = $1 order by pos limit 1`, group).Scan(&lowest, &key); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `delete from consumer_segment where name = $1`, group); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `update consumer set segments = $2 where name = $1`, group, segments); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `insert into consumer_segment (name, segment, pos, commit_key, epoch)
			select $1, n::text, $3, $4, g.generation from consumer g cross join generate_series(0, $2::int - 1) n where g.name = $1`,
			group, segments, lowest, key); err != nil {
			return err
		}
		return unparkAfter(ctx, tx, group, eventstore.Position(lowest))
	})
}

// Pause implements groups.Store.
func (g groupStore) Pause(ctx context.Context, group string, paused bool) error {
	return g.change(ctx, "pause or resume the group", group, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `update consumer set paused = $2 where name = $1`, group, paused)
		if err == nil && !paused {
			_, err = tx.Exec(ctx, `delete from processor_paused where name = $1`, groups.PauseName)
		}
		return err
	})
}

// Retry implements groups.Store.
func (g groupStore) Retry(ctx context.Context, group, sequence string) error {
	return g.change(ctx, "retry a sequence of the group", group, func(ctx context.Context, tx pgx.Tx) error {
		var at int64
		err := tx.QueryRow(ctx, `select pos from consumer_parked where name = $1 and sequence = $2`, group, sequence).Scan(&at)
		if errors.Is(err, pgx.ErrNoRows) {
			return groups.ErrNotParked
		}
		if err != nil {
			return err
		}
		return g.retry(ctx, tx, group, sequence, eventstore.Position(at-1))
	})
}

// retry adds the segment of a sequence, which begins after a position.
func (g groupStore) retry(ctx context.Context, tx pgx.Tx, group, sequence string, after eventstore.Position) error {
	key, err := keyOf(ctx, tx, after)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `insert into consumer_segment (name, segment, pos, commit_key, epoch)
		select $1, $2, $3, $4, generation from consumer where name = $1 on conflict do nothing`,
		group, groups.RetrySegment(sequence), stored.Signed(after), key)
	return err
}

// Skip implements groups.Store.
func (g groupStore) Skip(ctx context.Context, group, sequence string, p eventstore.Position) error {
	return g.change(ctx, "skip an event of the group", group, func(ctx context.Context, tx pgx.Tx) error {
		moved, err := tx.Exec(ctx, `update consumer_parked set pos = pos + 1 where name = $1 and sequence = $2 and pos = $3
			and not exists (select from consumer_segment where name = $1 and segment = $4)`,
			group, sequence, stored.Signed(p), groups.RetrySegment(sequence))
		if err != nil {
			return err
		}
		if moved.RowsAffected() == 0 {
			return groups.ErrNotParked
		}
		return g.retry(ctx, tx, group, sequence, p)
	})
}
