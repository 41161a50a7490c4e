package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// groupStore implements groups.Store, with the connections for rows.
type groupStore struct{ r *rowStore }

// Groups returns the consumer groups beside the log.
func (s *Store) Groups() groups.Store { return groupStore{s.rows} }

// with lends a connection. The errors of package groups are not failures of the
// database.
func (g groupStore) with(ctx context.Context, op string, use func(context.Context, *pgx.Conn) error) error {
	var ours error
	err := g.r.with(ctx, op, func(ctx context.Context, c *pgx.Conn) error {
		ours = nil
		err := use(ctx, c)
		for _, known := range groups.Errors {
			if errors.Is(err, known) {
				ours = known
				return nil
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	return ours
}

// change runs a transaction that changes a group, which it locks first.
func (g groupStore) change(ctx context.Context, op, group string, do func(context.Context, pgx.Tx) error) error {
	return g.with(ctx, op+" "+group, func(ctx context.Context, c *pgx.Conn) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			locked, err := tx.Exec(ctx, `update consumer set generation = generation + 1 where name = $1`, group)
			if err == nil && locked.RowsAffected() == 0 {
				err = groups.ErrNoGroup
			}
			if err != nil {
				return err
			}
			return do(ctx, tx)
		})
	})
}

// Ensure implements groups.Store.
func (g groupStore) Ensure(ctx context.Context, name string, segments int) (groups.Group, error) {
	err := g.with(ctx, "make the group "+name, func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, `with new as (
				insert into consumer (name, log_id, segments, paused) select $1, id::text, $2, exists (select from processor_paused where name = $3)
				from log on conflict do nothing returning name, generation
			), head as (
				select pos, key from commit order by pos desc limit 1
			)
			insert into consumer_segment (name, segment, pos, commit_key, epoch)
			select new.name, n::text, coalesce(head.pos, 0), coalesce(head.key, ''), new.generation
			from new cross join generate_series(0, $2::int - 1) n left join head on true`, name, segments, groups.PauseName)
		return err
	})
	if err != nil {
		return groups.Group{}, err
	}
	return g.one(ctx, name)
}

// one reads one group.
func (g groupStore) one(ctx context.Context, name string) (groups.Group, error) {
	list, err := g.Groups(ctx, name)
	if err == nil && len(list) == 0 {
		err = groups.ErrNoGroup
	}
	if err != nil {
		return groups.Group{}, err
	}
	return list[0], nil
}

// Groups implements groups.Store. One statement sees one moment.
func (g groupStore) Groups(ctx context.Context, names ...string) (list []groups.Group, err error) {
	err = g.with(ctx, "read the consumer groups", func(ctx context.Context, c *pgx.Conn) error {
		found, err := c.Query(ctx, `select name, generation, coordinator, log_id, paused, segments,
				(select count(*) from consumer_parked p where p.name = g.name),
				segment, pos, commit_key, epoch, client, member, session, gateway, tries, careful_until, suspect, at
			from consumer g join consumer_segment using (name) where $1::text[] is null or name = any($1) order by name`, names)
		if err != nil {
			return err
		}
		list = nil
		var one groups.Group
		var s groups.Segment
		var generation, epoch, pos, careful, suspect int64
		_, err = pgx.ForEachRow(found, []any{
			&one.Name, &generation, &one.Coordinator, &one.LogID, &one.Paused, &one.Count, &one.Parked,
			&s.Name, &pos, &s.Key, &epoch, &s.Holder.Client, &s.Holder.Member, &s.Holder.Session, &s.Holder.Gateway, &s.Tries, &careful, &suspect, &s.At,
		}, func() error {
			one.Generation, s.Epoch, s.At = uint64(generation), uint64(epoch), s.At.UTC()
			s.Position, s.CarefulUntil, s.Suspect = eventstore.Position(pos), eventstore.Position(careful), eventstore.Position(suspect)
			if n := len(list); n == 0 || list[n-1].Name != one.Name {
				list = append(list, one)
			}
			last := &list[len(list)-1]
			last.Segments = append(last.Segments, s)
			return nil
		})
		return err
	})
	for i := range list {
		groups.Sort(list[i].Segments)
	}
	return list, err
}

// Take implements groups.Store.
func (g groupStore) Take(ctx context.Context, name, coordinator string) (groups.Group, error) {
	err := g.change(ctx, "take the group", name, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `update consumer set coordinator = $2 where name = $1`, name, coordinator)
		return err
	})
	if err != nil {
		return groups.Group{}, err
	}
	return g.one(ctx, name)
}

// assignSQL changes the segments of a group, if its generation is the one that the
// coordinator has seen. It is one statement, so a client that stops in it holds no
// lock. It locks segments in their order, as ackSQL does.
const assignSQL = `with fence as (
		update consumer set generation = generation + 1 where name = $1 and generation = $2 and coordinator = $3 returning generation
	), c as (
		select * from unnest($4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::boolean[], $10::bigint[], $11::bigint[], $12::text[], $13::bigint[], $14::text[])
			as c (segment, client, member, session, gateway, failed, suspect, last, park, park_pos, reason)
	), locked as (
		select c.*, fence.generation, s.tries, s.pos, c.failed and s.pos < c.suspect as counts
		from fence cross join c join consumer_segment s on s.name = $1 and s.segment = c.segment
		order by s.segment for update of s
	), parked as (
		insert into consumer_parked as p (name, sequence, pos, reason) select $1, park, park_pos, reason from locked
		where park <> '' and pos < park_pos and tries + counts::int >= $15
		on conflict (name, sequence) do update set pos = excluded.pos, reason = excluded.reason, at = excluded.at
		returning sequence -- without the ones for which the trigger has no room
	), decided as (
		select l.*, exists (select from parked p where p.sequence = l.park) as parks from locked l
	), ended as (
		delete from consumer_segment s using decided d where s.name = $1 and s.segment = d.segment and d.parks and s.segment like '~%'
	), changed as (
		update consumer_segment s set epoch = d.generation, client = d.client, member = d.member, session = d.session, gateway = d.gateway,
			tries = case when d.parks then $16 else s.tries + d.counts::int end,
			suspect = case when d.parks then 0 when d.counts then d.suspect else s.suspect end,
			careful_until = case when d.counts and s.tries + 1 >= $16 then greatest(s.careful_until, d.last) else s.careful_until end
		from decided d where s.name = $1 and s.segment = d.segment and not (d.parks and s.segment like '~%')
	)
	select count(*), exists (select from consumer where name = $1) from fence`

// Assign implements groups.Store.
func (g groupStore) Assign(ctx context.Context, name string, generation uint64, coordinator string, changes []groups.Change) (groups.Group, error) {
	n := len(changes)
	texts := func(of func(groups.Change) string) []string {
		list := make([]string, n)
		for i, c := range changes {
			list[i] = of(c)
		}
		return list
	}
	positions := func(of func(groups.Change) eventstore.Position) []int64 {
		list := make([]int64, n)
		for i, c := range changes {
			list[i] = stored.Signed(of(c))
		}
		return list
	}
	failed := make([]bool, n)
	parks := make([]groups.Park, n)
	for i, c := range changes {
		failed[i] = c.Failed
		if c.Park != nil {
			parks[i] = *c.Park
		}
	}
	sequences, parkedAt, reasons := parkColumns(parks)
	err := g.with(ctx, "assign segments of the group "+name, func(ctx context.Context, conn *pgx.Conn) error {
		var moved int
		var exists bool
		err := conn.QueryRow(ctx, assignSQL, name, int64(generation), coordinator,
			texts(func(c groups.Change) string { return c.Segment }), texts(func(c groups.Change) string { return c.To.Client }),
			texts(func(c groups.Change) string { return c.To.Member }), texts(func(c groups.Change) string { return c.To.Session }),
			texts(func(c groups.Change) string { return c.To.Gateway }), failed,
			positions(func(c groups.Change) eventstore.Position { return c.Suspect }), positions(func(c groups.Change) eventstore.Position { return c.Last }),
			sequences, parkedAt, reasons, groups.ParkAfter, groups.Careful).Scan(&moved, &exists)
		switch {
		case err != nil:
			return err
		case !exists:
			return groups.ErrNoGroup
		case moved == 0:
			return groups.ErrFenced
		}
		return nil
	})
	if err != nil {
		return groups.Group{}, err
	}
	return g.one(ctx, name)
}

func parkColumns(parks []groups.Park) (sequences []string, positions []int64, reasons []string) {
	for _, p := range parks {
		sequences, positions, reasons = append(sequences, p.Sequence), append(positions, stored.Signed(p.Position)), append(reasons, p.Reason)
	}
	return sequences, positions, reasons
}

// Drop implements groups.Store.
func (g groupStore) Drop(ctx context.Context, group string, left bool) error {
	return g.change(ctx, "drop the group", group, func(ctx context.Context, tx pgx.Tx) error {
		done, err := tx.Exec(ctx, `delete from consumer where name = $1
			and ($2 or not exists (select from consumer_segment where name = $1 and session <> ''))`, group, left)
		if err == nil && done.RowsAffected() == 0 {
			err = groups.ErrHeld
		}
		return err
	})
}
