package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
	"github.com/ganglion-es/ganglion/eventstore/wakes"
)

// Wakes returns the table beside the log that says when aggregates are to be asked
// whether they must be woken. It uses the connections of the rows.
func (s *Store) Wakes() wakes.Store { return wakeStore{s.rows} }

// wakeStore implements wakes.Store.
type wakeStore struct{ r *rowStore }

// Begin implements wakes.Store.
func (w wakeStore) Begin(ctx context.Context, fingerprint string, segment int) (c wakes.Checkpoint, err error) {
	err = w.r.with(ctx, "begin a segment of wake-ups", func(ctx context.Context, conn *pgx.Conn) error {
		batch := &pgx.Batch{}
		batch.Queue(`delete from wake_segment where at < clock_timestamp() - interval '1 day' and fingerprint <> $1`, fingerprint)
		batch.Queue(`insert into wake_segment as w (fingerprint, segment, log_id) values ($1, $2, $3)
			on conflict (fingerprint, segment) do update set at = clock_timestamp() returning pos, commit_key, log_id`,
			fingerprint, segment, w.r.s.LogID()).QueryRow(func(row pgx.Row) error { return row.Scan(&c.Position, &c.Key, &c.LogID) })
		return conn.SendBatch(ctx, batch).Close()
	})
	return c, err
}

// writeWakes moves the checkpoint, and everything else happens only if it was where the
// writer has seen it. Rows are taken in one order, so writers do not deadlock. It does
// not wait for the disk: a crash of the server loses rows and checkpoint together, and
// the fold makes the same rows again.
const writeWakes = `with moved as (
		update wake_segment set pos = $4, commit_key = $5, at = clock_timestamp() where fingerprint = $1 and segment = $2 and pos = $3 and log_id = $6
		returning 1
	), ask as (
		select a.* from moved, unnest($7::text[], $8::text[], $9::bigint[], $10::timestamptz[], $11::boolean[]) as a (type, id, version, due, now)
	), gone as (
		delete from wake w using ask a where w.agg_type = a.type and w.agg_id = a.id and w.version <= a.version and a.due is null and not a.now
	), wrote as (
		insert into wake as w (agg_type, agg_id, segment, version, due)
		select type, id, $2, version, case when now then clock_timestamp() else due end from ask where now or due is not null order by type, id
		on conflict (agg_type, agg_id) do update set segment = excluded.segment, version = excluded.version, due = excluded.due, refused = ''
		where w.version < excluded.version
			or w.version = excluded.version and exists (select from ask a where a.now and a.type = excluded.agg_type and a.id = excluded.agg_id)
	)
	select (select count(*) from moved), set_config('synchronous_commit', 'off', true)`

// Write implements wakes.Store.
func (w wakeStore) Write(ctx context.Context, b wakes.Batch) error {
	types, ids, versions := wakeKeys(b.Asks, func(a wakes.Ask) (eventstore.StreamID, eventstore.Version) { return a.Stream, a.Version })
	due, now := make([]*time.Time, len(b.Asks)), make([]bool, len(b.Asks))
	for i := range b.Asks {
		a := &b.Asks[i]
		if now[i] = a.Now; !a.At.IsZero() {
			due[i] = &a.At
		}
	}
	var moved int
	err := w.r.with(ctx, "write wake-ups", func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, writeWakes, b.Fingerprint, b.Segment, stored.Signed(b.From), stored.Signed(b.To), b.Key, w.r.s.LogID(),
			types, ids, versions, due, now).Scan(&moved, nil)
	})
	if err == nil && moved == 0 {
		err = wakes.ErrFenced
	}
	return err
}

// wakeKeys returns the columns of the streams and versions of a list.
func wakeKeys[T any](list []T, of func(T) (eventstore.StreamID, eventstore.Version)) (types, ids []string, versions []int64) {
	types, ids, versions = make([]string, len(list)), make([]string, len(list)), make([]int64, len(list))
	for i := range list {
		s, v := of(list[i])
		types[i], ids[i], versions[i] = s.Type, s.ID, stored.Signed(v)
	}
	return types, ids, versions
}

// Reset implements wakes.Store.
func (w wakeStore) Reset(ctx context.Context, fingerprint string, segment int, from wakes.Checkpoint) error {
	return w.r.exec(ctx, "empty a segment of wake-ups", `with found as (
			select 1 from wake_segment where fingerprint = $1 and segment = $2 and pos = $3 and commit_key = $4 and log_id = $5 for update
		), reset as (
			update wake_segment set pos = 0, commit_key = '', log_id = $6, at = clock_timestamp() where segment = $2 and exists (select from found)
		)
		delete from wake where segment = $2 and exists (select from found)`,
		fingerprint, segment, stored.Signed(from.Position), from.Key, from.LogID, w.r.s.LogID())
}

// Due implements wakes.Store.
func (w wakeStore) Due(ctx context.Context, segment int, types []string, limit int) (d wakes.Due, err error) {
	err = w.r.with(ctx, "read due wake-ups", func(ctx context.Context, c *pgx.Conn) error {
		d = wakes.Due{}
		list, err := c.Query(ctx, `select n.now, n.paused, coalesce(w.agg_type, ''), coalesce(w.agg_id, ''), coalesce(w.version, 0), w.due
			from (select clock_timestamp() as now, exists (select from processor_paused where name = $4) as paused) n left join lateral (
				select agg_type, agg_id, version, due from wake
				where segment = $1 and due is not null and agg_type = any($2) and not n.paused order by due limit $3
			) w on true order by w.due`, segment, types, limit, wakes.PauseName)
		if err != nil {
			return err
		}
		defer list.Close()
		for list.Next() {
			var r wakes.Row
			var due *time.Time
			if err := list.Scan(&d.Now, &d.Paused, &r.Stream.Type, &r.Stream.ID, &r.Version, &due); err != nil {
				return err
			}
			if due == nil {
				continue
			}
			r.Due = due.UTC()
			if d.Rows = append(d.Rows, r); !due.After(d.Now) {
				d.N = len(d.Rows)
			}
		}
		return list.Err()
	})
	d.Now = d.Now.UTC()
	return d, err
}

// Change implements wakes.Store.
func (w wakeStore) Change(ctx context.Context, list []wakes.Change) error {
	types, ids, versions := wakeKeys(list, func(c wakes.Change) (eventstore.StreamID, eventstore.Version) { return c.Stream, c.Version })
	due, pauses, refused := make([]*time.Time, len(list)), make([]int64, len(list)), make([]string, len(list))
	for i := range list {
		c := &list[i]
		if pauses[i], refused[i] = c.Pause.Microseconds(), stored.Clean(c.Refused); !c.At.IsZero() {
			due[i] = &c.At
		}
	}
	return w.r.exec(ctx, "change wake-ups", `with c as materialized (
			select c.*, w.ctid as place from unnest($1::text[], $2::text[], $3::bigint[], $4::timestamptz[], $5::bigint[], $6::text[])
				as c (type, id, version, due, pause, refused)
			join wake w on w.agg_type = c.type and w.agg_id = c.id and w.version <= c.version order by c.type, c.id for update of w
		), gone as (
			delete from wake w using c where w.ctid = c.place and c.due is null and c.refused = ''
		)
		update wake w set version = c.version, refused = c.refused,
			due = case when c.refused <> '' then null else greatest(c.due, clock_timestamp() + c.pause * interval '1 microsecond') end
		from c where w.ctid = c.place and (c.due is not null or c.refused <> '')`,
		types, ids, versions, due, pauses, refused)
}

// Count implements wakes.Store.
func (w wakeStore) Count(ctx context.Context, segment int, types []string) (n wakes.Counts, err error) {
	var late float64
	err = w.r.with(ctx, "count wake-ups", func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, `select
			(select count(*) from (select from wake where segment = $1 and due <= statement_timestamp() and agg_type = any($2) limit $3) d),
			(select count(*) from (select from wake where segment = $1 and due is null and agg_type = any($2) limit $3) r),
			coalesce((select extract(epoch from clock_timestamp() - min(due)) from wake
				where segment = $1 and due <= statement_timestamp() and agg_type = any($2)), 0)::float8,
			exists (select from processor_paused where name = $4)`,
			segment, types, wakes.MaxCounted, wakes.PauseName).Scan(&n.Due, &n.Refused, &late, &n.Paused)
	})
	n.Late = time.Duration(late * float64(time.Second))
	return n, err
}

// Standings implements wakes.Store.
func (w wakeStore) Standings(ctx context.Context, fingerprint string, types []string) (list []wakes.Standing, err error) {
	err = w.r.with(ctx, "read the segments of wake-ups", func(ctx context.Context, c *pgx.Conn) error {
		found, err := c.Query(ctx, `select s.segment, s.pos, coalesce(w.agg_type, ''), coalesce(w.agg_id, ''), coalesce(w.version, 0), w.due,
				coalesce(extract(epoch from clock_timestamp() - w.due), 0)::float8
			from wake_segment s left join lateral (
				select agg_type, agg_id, version, due from wake
				where segment = s.segment and due <= statement_timestamp() and agg_type = any($2)
					and not exists (select from processor_paused where name = $3) order by due limit 1
			) w on true where s.fingerprint = $1 order by s.segment`, fingerprint, types, wakes.PauseName)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(found, func(row pgx.CollectableRow) (s wakes.Standing, err error) {
			var due *time.Time
			var late float64
			if err = row.Scan(&s.Segment, &s.Position, &s.First.Stream.Type, &s.First.Stream.ID, &s.First.Version, &due, &late); due != nil {
				s.First.Due = due.UTC()
			}
			s.Late = time.Duration(late * float64(time.Second))
			return s, err
		})
		return err
	})
	return list, err
}

// List implements wakes.Store.
func (w wakeStore) List(ctx context.Context, stream *eventstore.StreamID, limit int) (list []wakes.Row, paused bool, err error) {
	typ, id := streamOrNull(stream)
	err = w.r.with(ctx, "list wake-ups", func(ctx context.Context, c *pgx.Conn) error {
		list = nil
		if err := c.QueryRow(ctx, `select exists (select from processor_paused where name = $1)`, wakes.PauseName).Scan(&paused); err != nil {
			return err
		}
		found, err := c.Query(ctx, `select agg_type, agg_id, version, due, refused from wake
			where $1::text is null or agg_type = $1 and agg_id = $2 order by due nulls first, agg_type, agg_id limit $3`, typ, id, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(found, func(row pgx.CollectableRow) (r wakes.Row, err error) {
			var due *time.Time
			if err = row.Scan(&r.Stream.Type, &r.Stream.ID, &r.Version, &due, &r.Refused); due != nil {
				r.Due = due.UTC()
			}
			return r, err
		})
		return err
	})
	return list, paused, err
}

func streamOrNull(s *eventstore.StreamID) (typ, id *string) {
	if s == nil {
		return nil, nil
	}
	return &s.Type, &s.ID
}

// Retry implements wakes.Store.
func (w wakeStore) Retry(ctx context.Context, stream *eventstore.StreamID) (n int, err error) {
	typ, id := streamOrNull(stream)
	err = w.r.with(ctx, "retry wake-ups", func(ctx context.Context, c *pgx.Conn) error {
		tag, err := c.Exec(ctx, `update wake set refused = '', due = clock_timestamp()
			where due is null and ($1::text is null or agg_type = $1 and agg_id = $2)`, typ, id)
		n = int(tag.RowsAffected())
		return err
	})
	return n, err
}
