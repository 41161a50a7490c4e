package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/eventstore/internal/rowsql"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// Groups returns the consumer groups beside the log.
func (s *Store) Groups() groups.Store { return groupStore{s} }

// groupStore implements groups.Store. Each change is one transaction of the only
// writer, so it locks nothing.
type groupStore struct{ s *Store }

// exec runs a statement within a transaction, and returns the number of rows that it
// changed.
func (g groupStore) exec(ctx context.Context, sql string, args ...any) (int64, error) {
	res, err := g.s.db.conn.ExecContext(ctx, sql, args...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// row reads one row within a transaction. It reports whether there is one.
func (g groupStore) row(ctx context.Context, into []any, query string, args ...any) (bool, error) {
	err := g.s.db.conn.QueryRowContext(ctx, query, args...).Scan(into...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// change runs a transaction that changes a group under its next generation.
func (g groupStore) change(ctx context.Context, op, group string, do func(ctx context.Context, generation int64) error) error {
	return g.s.change(ctx, op+" "+group, func(ctx context.Context) error {
		var generation int64
		found, err := g.row(ctx, []any{&generation}, `update consumer set generation = generation + 1 where name = ?1 returning generation`, group)
		if err == nil && !found {
			err = groups.ErrNoGroup
		}
		if err != nil {
			return err
		}
		return do(ctx, generation)
	})
}

// keyAt returns the key of the commit with the event at a position, within a
// transaction: "" at 0. The error is ErrAhead beyond the end of the log.
func (g groupStore) keyAt(ctx context.Context, p int64) (key string, err error) {
	if p == 0 {
		return "", nil
	}
	found, err := g.row(ctx, []any{&key}, `select key from "commit" where pos >= ?1 order by pos limit 1`, p)
	if err == nil && !found {
		err = groups.ErrAhead
	}
	return key, err
}

// insert adds a segment without a holder, unless it exists.
func (g groupStore) insert(ctx context.Context, group, segment string, pos int64, key string, epoch int64) error {
	_, err := g.exec(ctx, `insert into consumer_segment (name, segment, pos, commit_key, epoch, at) values (?1, ?2, ?3, ?4, ?5, ?6) on conflict do nothing`,
		group, segment, pos, key, epoch, time.Now().UnixMicro())
	return err
}

// Ensure implements groups.Store.
func (g groupStore) Ensure(ctx context.Context, name string, segments int) (groups.Group, error) {
	err := g.s.change(ctx, "make the group "+name, func(ctx context.Context) error {
		made, err := g.exec(ctx, `insert into consumer (name, log_id, segments, paused)
			select ?1, id, ?2, exists (select 1 from processor_paused where name = ?3) from log where true on conflict do nothing`, name, segments, groups.PauseName)
		if err != nil || made == 0 {
			return err
		}
		var pos int64
		var key string
		if _, err := g.row(ctx, []any{&pos, &key}, `select pos, key from "commit" order by pos desc limit 1`); err != nil {
			return err
		}
		for n := range segments {
			if err := g.insert(ctx, name, groups.SegmentName(n), pos, key, 1); err != nil {
				return err
			}
		}
		return nil
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

// Groups implements groups.Store.
func (g groupStore) Groups(ctx context.Context, names ...string) (list []groups.Group, err error) {
	st := rowsql.Statement{SQL: `select name, generation, coordinator, log_id, paused, segments,
			(select count(*) from consumer_parked p where p.name = g.name),
			segment, pos, commit_key, epoch, client, member, session, gateway, tries, careful_until, suspect, at
		from consumer g join consumer_segment using (name)`}
	if len(names) > 0 {
		st.SQL += ` where name in (?` + strings.Repeat(", ?", len(names)-1) + `)`
	}
	for _, name := range names {
		st.Args = append(st.Args, name)
	}
	st.SQL += ` order by name`
	err = g.s.reading(ctx, "read the consumer groups", func(ctx context.Context, tx *sql.Tx) error {
		return each(ctx, tx, st, func(scan func(...any) error) error {
			var one groups.Group
			var s groups.Segment
			var at int64
			err := scan(&one.Name, &one.Generation, &one.Coordinator, &one.LogID, &one.Paused, &one.Count, &one.Parked,
				&s.Name, &s.Position, &s.Key, &s.Epoch, &s.Holder.Client, &s.Holder.Member, &s.Holder.Session, &s.Holder.Gateway,
				&s.Tries, &s.CarefulUntil, &s.Suspect, &at)
			s.At = time.UnixMicro(at).UTC()
			if n := len(list); n == 0 || list[n-1].Name != one.Name {
				list = append(list, one)
			}
			last := &list[len(list)-1]
			last.Segments = append(last.Segments, s)
			return err
		})
	})
	for i := range list {
		groups.Sort(list[i].Segments)
	}
	return list, err
}

// Take implements groups.Store.
func (g groupStore) Take(ctx context.Context, name, coordinator string) (groups.Group, error) {
	err := g.change(ctx, "take the group", name, func(ctx context.Context, _ int64) error {
		_, err := g.exec(ctx, `update consumer set coordinator = ?2 where name = ?1`, name, coordinator)
		return err
	})
	if err != nil {
		return groups.Group{}, err
	}
	return g.one(ctx, name)
}

// Assign implements groups.Store.
func (g groupStore) Assign(ctx context.Context, name string, generation uint64, coordinator string, changes []groups.Change) (groups.Group, error) {
	err := g.change(ctx, "assign segments of the group", name, func(ctx context.Context, next int64) error {
		var own bool
		if _, err := g.row(ctx, []any{&own}, `select coordinator = ?2 from consumer where name = ?1`, name, coordinator); err != nil {
			return err
		}
		if !own || uint64(next) != generation+1 {
			return groups.ErrFenced
		}
		for _, c := range changes {
			if err := g.assign(ctx, name, next, c); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return groups.Group{}, err
	}
	return g.one(ctx, name)
}

// assign makes one change, within a transaction.
func (g groupStore) assign(ctx context.Context, group string, epoch int64, c groups.Change) error {
	var pos, careful, suspect int64
	var tries int
	found, err := g.row(ctx, []any{&pos, &tries, &careful, &suspect},
		`select pos, tries, careful_until, suspect from consumer_segment where name = ?1 and segment = ?2`, group, c.Segment)
	if err != nil || !found {
		return err
	}
	if c.Failed && pos < stored.Signed(c.Suspect) {
		if tries++; tries >= groups.Careful {
			careful = max(careful, stored.Signed(c.Last))
		}
		suspect = stored.Signed(c.Suspect)
	}
	if p := c.Park; p != nil && tries >= groups.ParkAfter && pos < stored.Signed(p.Position) {
		switch err := g.park(ctx, group, c.Segment, *p); {
		case err == nil && groups.SequenceOf(c.Segment) != "":
			return nil
		case err == nil:
			tries, suspect = groups.Careful, 0
		case !errors.Is(err, groups.ErrParkedFull):
			return err
		}
	}
	_, err = g.exec(ctx, `update consumer_segment set epoch = ?3, client = ?4, member = ?5, session = ?6, gateway = ?7, tries = ?8, careful_until = ?9, suspect = ?10
		where name = ?1 and segment = ?2`,
		group, c.Segment, epoch, c.To.Client, c.To.Member, c.To.Session, c.To.Gateway, tries, careful, suspect)
	return err
}

// park parks a sequence of a segment, within a transaction, and removes the segment if
// it is the sequence's own. The error is ErrParkedFull.
func (g groupStore) park(ctx context.Context, group, segment string, p groups.Park) error {
	own := groups.SequenceOf(segment) != ""
	var full bool
	if _, err := g.row(ctx, []any{&full}, `select (select count(*) from consumer_parked where name = ?1) >= ?3
		and not exists (select 1 from consumer_parked where name = ?1 and sequence = ?2)`, group, p.Sequence, groups.MaxParked); err != nil {
		return err
	}
	if full {
		return groups.ErrParkedFull
	}
	_, err := g.exec(ctx, `insert into consumer_parked (name, sequence, pos, reason, at) values (?1, ?2, ?3, ?4, ?5)
		on conflict (name, sequence) do update set pos = case when ?6 then excluded.pos else min(pos, excluded.pos) end, reason = excluded.reason, at = excluded.at`,
		group, p.Sequence, stored.Signed(p.Position), p.Reason, time.Now().UnixMicro(), own)
	if err == nil && own {
		_, err = g.exec(ctx, `delete from consumer_segment where name = ?1 and segment = ?2`, group, segment)
	}
	return err
}

// Drop implements groups.Store.
func (g groupStore) Drop(ctx context.Context, group string, left bool) error {
	return g.change(ctx, "drop the group", group, func(ctx context.Context, _ int64) error {
		var held bool
		_, err := g.row(ctx, []any{&held}, `select exists (select 1 from consumer_segment where name = ?1 and session <> '')`, group)
		if err == nil && held && !left {
			err = groups.ErrHeld
		}
		for _, table := range []string{"consumer_parked", "consumer_segment", "consumer"} {
			if err == nil {
				_, err = g.exec(ctx, `delete from `+table+` where name = ?1`, group)
			}
		}
		return err
	})
}
