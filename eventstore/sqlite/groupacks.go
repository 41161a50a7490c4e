package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/eventstore/internal/rowsql"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// Ack implements groups.Store.
func (g groupStore) Ack(ctx context.Context, acks []groups.Ack) (errs []error, err error) {
	err = g.s.change(ctx, "acknowledge events", func(ctx context.Context) error {
		errs = make([]error, len(acks))
		for i, a := range acks {
			err := g.ack(ctx, a)
			if errors.Is(err, groups.ErrRevoked) || errors.Is(err, groups.ErrAhead) {
				errs[i], err = err, nil
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return errs, nil
}

// ack moves the position of a segment, within a transaction.
func (g groupStore) ack(ctx context.Context, a groups.Ack) error {
	var at int64
	held, err := g.row(ctx, []any{&at}, `select pos from consumer_segment join consumer using (name)
		where name = ?1 and segment = ?2 and epoch = ?3 and log_id = (select id from log)`, a.Group, a.Segment, int64(a.Epoch))
	to := stored.Signed(a.Position)
	switch {
	case err != nil:
		return err
	case !held:
		return groups.ErrRevoked
	case to <= at:
		return nil
	}
	key, err := g.keyAt(ctx, to)
	if err != nil {
		return err
	}
	_, err = g.exec(ctx, `update consumer_segment set pos = ?3, commit_key = ?4, at = ?5, suspect = 0,
		tries = case when tries >= ?6 and ?3 < careful_until then ?6 else 0 end where name = ?1 and segment = ?2`,
		a.Group, a.Segment, to, key, time.Now().UnixMicro(), groups.Careful)
	return err
}

// held reports whether a segment has an epoch, within a transaction.
func (g groupStore) held(ctx context.Context, group, segment string, epoch uint64) (held bool, err error) {
	var one int
	return g.row(ctx, []any{&one}, `select 1 from consumer_segment where name = ?1 and segment = ?2 and epoch = ?3`, group, segment, int64(epoch))
}

// Park implements groups.Store.
func (g groupStore) Park(ctx context.Context, group, segment string, epoch uint64, p groups.Park) error {
	return g.s.change(ctx, "park a sequence of the group "+group, func(ctx context.Context) error {
		held, err := g.held(ctx, group, segment, epoch)
		if err == nil && !held {
			err = groups.ErrRevoked
		}
		if err == nil {
			err = g.park(ctx, group, segment, p)
		}
		if err == nil {
			_, err = g.exec(ctx, `update consumer_segment set suspect = 0, tries = case when tries >= ?3 then ?3 else 0 end where name = ?1 and segment = ?2`,
				group, segment, groups.Careful)
		}
		return err
	})
}

// Rejoin implements groups.Store.
func (g groupStore) Rejoin(ctx context.Context, group, segment string, epoch uint64) error {
	return g.s.change(ctx, "rejoin a sequence of the group "+group, func(ctx context.Context) error {
		sequence := groups.SequenceOf(segment)
		held, err := g.held(ctx, group, segment, epoch)
		if err != nil {
			return err
		}
		if !held {
			var remains bool
			_, err := g.row(ctx, []any{&remains}, `select exists (select 1 from consumer_segment where name = ?1 and segment = ?2)
				or exists (select 1 from consumer_parked where name = ?1 and sequence = ?3)`, group, segment, sequence)
			if err == nil && remains {
				err = groups.ErrRevoked
			}
			return err
		}
		_, err = g.exec(ctx, `delete from consumer_parked where name = ?1 and sequence = ?2`, group, sequence)
		if err == nil {
			_, err = g.exec(ctx, `delete from consumer_segment where name = ?1 and segment = ?2`, group, segment)
		}
		return err
	})
}

// Parked implements groups.Store.
func (g groupStore) Parked(ctx context.Context, group string, limit int) (parked []groups.Parked, err error) {
	err = g.s.reading(ctx, "read the parked sequences of "+group, func(ctx context.Context, tx *sql.Tx) error {
		return each(ctx, tx, rowsql.Statement{
			SQL: `select sequence, pos, reason, at, exists (select 1 from consumer_segment s where s.name = p.name and s.segment = '~' || p.sequence)
				from consumer_parked p where name = ?1 order by pos, sequence limit ?2`, Args: []any{group, limit},
		}, func(scan func(...any) error) error {
			var p groups.Parked
			var at int64
			err := scan(&p.Sequence, &p.Position, &p.Reason, &at, &p.Retried)
			p.At = time.UnixMicro(at).UTC()
			parked = append(parked, p)
			return err
		})
	})
	return parked, err
}
