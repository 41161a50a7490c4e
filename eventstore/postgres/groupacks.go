package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// ackSQL moves positions, and does not wait for the disk: a crash of the server loses
// the newest acknowledgements, never an event. It decides on the rows as it has locked
// them, in their order.
const ackSQL = `with a as (
		select * from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[]) with ordinality as a (name, segment, epoch, pos, n)
	), locked as (
		select a.*, s.pos as at, s.epoch = a.epoch and g.log_id = (select id::text from log) as held
		from a join consumer_segment s using (name, segment) join consumer g using (name)
		order by name, segment for update of s
	), new as (
		select l.*, k.key from locked l cross join lateral (select key from commit c where c.pos >= l.pos order by c.pos limit 1) k
		where l.held and l.at < l.pos
	), moved as (
		update consumer_segment s set pos = w.pos, commit_key = w.key, at = clock_timestamp(), suspect = 0,
			tries = case when s.tries >= $5 and w.pos < s.careful_until then $5 else 0 end
		from new w where s.name = w.name and s.segment = w.segment and s.epoch = w.epoch and s.pos < w.pos
		returning w.n
	)
	select l.n, l.held, l.at < l.pos and not exists (select from moved m where m.n = l.n), set_config('synchronous_commit', 'off', true) from locked l`

// Ack implements groups.Store.
func (g groupStore) Ack(ctx context.Context, acks []groups.Ack) (errs []error, err error) {
	n := len(acks)
	names, segments, epochs, positions := make([]string, n), make([]string, n), make([]int64, n), make([]int64, n)
	for i, a := range acks {
		names[i], segments[i], epochs[i], positions[i] = a.Group, a.Segment, int64(a.Epoch), stored.Signed(a.Position)
	}
	err = g.with(ctx, "acknowledge events", func(ctx context.Context, c *pgx.Conn) error {
		errs = make([]error, n)
		for i := range errs {
			errs[i] = groups.ErrRevoked // if the segment is gone
		}
		list, err := c.Query(ctx, ackSQL, names, segments, epochs, positions, groups.Careful)
		if err != nil {
			return err
		}
		var i int
		var held, ahead bool
		var commit string
		_, err = pgx.ForEachRow(list, []any{&i, &held, &ahead, &commit}, func() error {
			switch {
			case held && ahead:
				errs[i-1] = groups.ErrAhead
			case held:
				errs[i-1] = nil
			}
			return nil
		})
		return err
	})
	if err != nil {
		return nil, err
	}
	return errs, nil
}

// Park implements groups.Store.
func (g groupStore) Park(ctx context.Context, group, segment string, epoch uint64, p groups.Park) error {
	return g.with(ctx, "park a sequence of the group "+group, func(ctx context.Context, c *pgx.Conn) error {
		var held, room bool
		err := c.QueryRow(ctx, `with g as (
				select name from consumer where name = $1 for no key update -- before the segment, as assignSQL does
			), held as (
				select s.segment from g join consumer_segment s on s.name = g.name where s.segment = $2 and s.epoch = $3 for update of s
			), put as (
				insert into consumer_parked as p (name, sequence, pos, reason) select $1, $4, $5, $6 from held -- the trigger bounds them
				on conflict (name, sequence) do update set
					pos = case when $2 like '~%' then excluded.pos else least(p.pos, excluded.pos) end, reason = excluded.reason, at = excluded.at
				returning 1
			), ended as (
				delete from consumer_segment s using put where s.name = $1 and s.segment = $2 and $2 like '~%'
			), calmed as (
				update consumer_segment s set suspect = 0, tries = case when tries >= $7 then $7 else 0 end
				from put where s.name = $1 and s.segment = $2 and $2 not like '~%'
			)
			select exists (select from held), exists (select from put)`,
			group, segment, int64(epoch), p.Sequence, stored.Signed(p.Position), p.Reason, groups.Careful).Scan(&held, &room)
		switch {
		case err != nil:
			return err
		case !held:
			return groups.ErrRevoked
		case !room:
			return groups.ErrParkedFull
		}
		return nil
	})
}

// Rejoin implements groups.Store.
func (g groupStore) Rejoin(ctx context.Context, group, segment string, epoch uint64) error {
	return g.with(ctx, "rejoin a sequence of the group "+group, func(ctx context.Context, c *pgx.Conn) error {
		var held, remains bool
		err := c.QueryRow(ctx, `with held as (
				select segment from consumer_segment where name = $1 and segment = $2 and epoch = $3 for update
			), unparked as (
				delete from consumer_parked p using held where p.name = $1 and p.sequence = $4
			), ended as (
				delete from consumer_segment s using held where s.name = $1 and s.segment = $2
			)
			select exists (select from held), exists (select from consumer_segment where name = $1 and segment = $2)
				or exists (select from consumer_parked where name = $1 and sequence = $4)`,
			group, segment, int64(epoch), groups.SequenceOf(segment)).Scan(&held, &remains)
		if err == nil && !held && remains {
			err = groups.ErrRevoked
		}
		return err
	})
}

// Parked implements groups.Store.
func (g groupStore) Parked(ctx context.Context, group string, limit int) (parked []groups.Parked, err error) {
	err = g.with(ctx, "read the parked sequences of "+group, func(ctx context.Context, c *pgx.Conn) error {
		list, err := c.Query(ctx, `select sequence, pos, reason, at, exists (select from consumer_segment s where s.name = p.name and s.segment = '~' || p.sequence)
			from consumer_parked p where name = $1 order by pos, sequence limit $2`, group, limit)
		if err != nil {
			return err
		}
		parked, err = pgx.CollectRows(list, func(row pgx.CollectableRow) (p groups.Parked, err error) {
			var pos int64
			err = row.Scan(&p.Sequence, &pos, &p.Reason, &p.At, &p.Retried)
			p.Position, p.At = eventstore.Position(pos), p.At.UTC()
			return p, err
		})
		return err
	})
	return parked, err
}
