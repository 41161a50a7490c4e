package sqlite

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
	"github.com/ganglion-es/ganglion/eventstore/wakes"
)

// Wakes returns the table beside the log that says when aggregates are to be asked
// whether they must be woken. The clock is this machine's.
func (s *Store) Wakes() wakes.Store { return wakeStore{s} }

// wakeStore implements wakes.Store.
type wakeStore struct{ s *Store }

// run runs statements in a transaction.
func (w wakeStore) run(ctx context.Context, op string, do func(exec func(sql string, args ...any) (int64, error)) error) error {
	return w.s.change(ctx, op, func(ctx context.Context) error {
		return do(func(sql string, args ...any) (int64, error) {
			done, err := w.s.db.conn.ExecContext(ctx, sql, args...)
			if err != nil {
				return 0, err
			}
			return done.RowsAffected()
		})
	})
}

func microseconds(at time.Time) any {
	if at.IsZero() {
		return nil
	}
	return at.UnixMicro()
}

// Begin implements wakes.Store.
func (w wakeStore) Begin(ctx context.Context, fingerprint string, segment int) (c wakes.Checkpoint, err error) {
	err = w.s.change(ctx, "begin a segment of wake-ups", func(ctx context.Context) error {
		now := time.Now().UnixMicro()
		if _, err := w.s.db.conn.ExecContext(ctx, `delete from wake_segment where at < ?1 and fingerprint <> ?2`, now-(24*time.Hour).Microseconds(), fingerprint); err != nil {
			return err
		}
		return w.s.db.conn.QueryRowContext(ctx, `insert into wake_segment (fingerprint, segment, log_id, at) values (?1, ?2, ?3, ?4)
			on conflict (fingerprint, segment) do update set at = excluded.at returning pos, commit_key, log_id`,
			fingerprint, segment, w.s.LogID(), now).Scan(&c.Position, &c.Key, &c.LogID)
	})
	return c, err
}

// Write implements wakes.Store.
func (w wakeStore) Write(ctx context.Context, b wakes.Batch) error {
	now := time.Now().UnixMicro()
	return w.run(ctx, "write wake-ups", func(exec func(sql string, args ...any) (int64, error)) error {
		moved, err := exec(`update wake_segment set pos = ?4, commit_key = ?5, at = ?6 where fingerprint = ?1 and segment = ?2 and pos = ?3 and log_id = ?7`,
			b.Fingerprint, b.Segment, stored.Signed(b.From), stored.Signed(b.To), b.Key, now, w.s.LogID())
		if err == nil && moved == 0 {
			err = wakes.ErrFenced
		}
		for i := 0; err == nil && i < len(b.Asks); i++ {
			a := &b.Asks[i]
			due := microseconds(a.At)
			if a.Now {
				due = now
			}
			if due == nil {
				_, err = exec(`delete from wake where agg_type = ?1 and agg_id = ?2 and version <= ?3`, a.Stream.Type, a.Stream.ID, stored.Signed(a.Version))
				continue
			}
			_, err = exec(`insert into wake (agg_type, agg_id, segment, version, due) values (?1, ?2, ?3, ?4, ?5)
				on conflict (agg_type, agg_id) do update set segment = excluded.segment, version = excluded.version, due = excluded.due, refused = ''
				where version < excluded.version or version = excluded.version and ?6`,
				a.Stream.Type, a.Stream.ID, b.Segment, stored.Signed(a.Version), due, a.Now)
		}
		return err
	})
}

// Reset implements wakes.Store.
func (w wakeStore) Reset(ctx context.Context, fingerprint string, segment int, from wakes.Checkpoint) error {
	return w.run(ctx, "empty a segment of wake-ups", func(exec func(sql string, args ...any) (int64, error)) error {
		now, log := time.Now().UnixMicro(), w.s.LogID()
		found, err := exec(`update wake_segment set pos = 0, commit_key = '', log_id = ?6, at = ?7
			where fingerprint = ?1 and segment = ?2 and pos = ?3 and commit_key = ?4 and log_id = ?5`,
			fingerprint, segment, stored.Signed(from.Position), from.Key, from.LogID, log, now)
		if err != nil || found == 0 {
			return err
		}
		if _, err = exec(`update wake_segment set pos = 0, commit_key = '', log_id = ?2, at = ?3 where segment = ?1`, segment, log, now); err == nil {
			_, err = exec(`delete from wake where segment = ?1`, segment)
		}
		return err
	})
}

// oneOf writes a condition on the type. JSON holds the types.
const oneOf = ` and agg_type in (select value from json_each(?2))`

func typesOf(types []string) string {
	quoted := slices.Clone(types)
	for i := range quoted {
		quoted[i] = `"` + quoted[i] + `"` // names of types need no escapes
	}
	return "[" + strings.Join(quoted, ",") + "]"
}

func (w wakeStore) paused(ctx context.Context, tx *sql.Tx) (paused bool, err error) {
	err = tx.QueryRowContext(ctx, `select exists (select 1 from processor_paused where name = ?1)`, wakes.PauseName).Scan(&paused)
	return paused, err
}

// Due implements wakes.Store.
func (w wakeStore) Due(ctx context.Context, segment int, types []string, limit int) (d wakes.Due, err error) {
	err = w.s.reading(ctx, "read due wake-ups", func(ctx context.Context, tx *sql.Tx) error {
		d = wakes.Due{Now: stored.Micros(time.Now())}
		if d.Paused, err = w.paused(ctx, tx); err != nil || d.Paused {
			return err
		}
		d.Rows, err = scanWakes(tx.QueryContext(ctx, `select agg_type, agg_id, version, due, refused from wake
			where segment = ?1 and due is not null`+oneOf+` order by due limit ?3`, segment, typesOf(types), limit))
		for d.N < len(d.Rows) && !d.Rows[d.N].Due.After(d.Now) {
			d.N++
		}
		return err
	})
	return d, err
}

func scanWakes(found *sql.Rows, err error) (list []wakes.Row, _ error) {
	if err != nil {
		return nil, err
	}
	err = scanEach(found, func(scan func(...any) error) error {
		var r wakes.Row
		var due sql.NullInt64
		if err := scan(&r.Stream.Type, &r.Stream.ID, &r.Version, &due, &r.Refused); err != nil {
			return err
		}
		if due.Valid {
			r.Due = stored.FromMicros(due.Int64)
		}
		list = append(list, r)
		return nil
	})
	return list, err
}

// Change implements wakes.Store.
func (w wakeStore) Change(ctx context.Context, list []wakes.Change) error {
	now := time.Now()
	return w.run(ctx, "change wake-ups", func(exec func(sql string, args ...any) (int64, error)) error {
		for _, c := range list {
			key := []any{c.Stream.Type, c.Stream.ID, stored.Signed(c.Version)}
			var err error
			switch {
			case c.Refused != "":
				_, err = exec(`update wake set version = ?3, refused = ?4, due = null where agg_type = ?1 and agg_id = ?2 and version <= ?3`, append(key, stored.Clean(c.Refused))...)
			case c.At.IsZero():
				_, err = exec(`delete from wake where agg_type = ?1 and agg_id = ?2 and version <= ?3`, key...)
			default:
				due := max(c.At.UnixMicro(), now.Add(c.Pause).UnixMicro())
				_, err = exec(`update wake set version = ?3, refused = '', due = ?4 where agg_type = ?1 and agg_id = ?2 and version <= ?3`, append(key, due)...)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Count implements wakes.Store.
func (w wakeStore) Count(ctx context.Context, segment int, types []string) (n wakes.Counts, err error) {
	err = w.s.reading(ctx, "count wake-ups", func(ctx context.Context, tx *sql.Tx) error {
		now := time.Now().UnixMicro()
		var first sql.NullInt64
		if err := tx.QueryRowContext(ctx, `select
			(select count(*) from (select 1 from wake where segment = ?1 and due <= ?3`+oneOf+` limit ?4)),
			(select count(*) from (select 1 from wake where segment = ?1 and due is null`+oneOf+` limit ?4)),
			(select min(due) from wake where segment = ?1 and due <= ?3`+oneOf+`)`,
			segment, typesOf(types), now, wakes.MaxCounted).Scan(&n.Due, &n.Refused, &first); err != nil {
			return err
		}
		if first.Valid {
			n.Late = time.Duration(now-first.Int64) * time.Microsecond
		}
		n.Paused, err = w.paused(ctx, tx)
		return err
	})
	return n, err
}

// Standings implements wakes.Store.
func (w wakeStore) Standings(ctx context.Context, fingerprint string, types []string) (list []wakes.Standing, err error) {
	err = w.s.reading(ctx, "read the segments of wake-ups", func(ctx context.Context, tx *sql.Tx) error {
		list = nil
		now := stored.Micros(time.Now())
		paused, err := w.paused(ctx, tx)
		if err != nil {
			return err
		}
		found, err := tx.QueryContext(ctx, `select segment, pos from wake_segment where fingerprint = ?1 order by segment`, fingerprint)
		if err != nil {
			return err
		}
		if err := scanEach(found, func(scan func(...any) error) error {
			var s wakes.Standing
			err := scan(&s.Segment, &s.Position)
			list = append(list, s)
			return err
		}); err != nil || paused {
			return err
		}
		for i := range list {
			first, err := scanWakes(tx.QueryContext(ctx, `select agg_type, agg_id, version, due, refused from wake
				where segment = ?1 and due <= ?3`+oneOf+` order by due limit 1`, list[i].Segment, typesOf(types), now.UnixMicro()))
			if err != nil {
				return err
			}
			if len(first) > 0 {
				list[i].First, list[i].Late = first[0], now.Sub(first[0].Due)
			}
		}
		return nil
	})
	return list, err
}

// List implements wakes.Store.
func (w wakeStore) List(ctx context.Context, stream *eventstore.StreamID, limit int) (list []wakes.Row, paused bool, err error) {
	err = w.s.reading(ctx, "list wake-ups", func(ctx context.Context, tx *sql.Tx) error {
		if paused, err = w.paused(ctx, tx); err != nil {
			return err
		}
		typ, id := streamOrNull(stream)
		list, err = scanWakes(tx.QueryContext(ctx, `select agg_type, agg_id, version, due, refused from wake
			where ?1 is null or agg_type = ?1 and agg_id = ?2 order by due nulls first, agg_type, agg_id limit ?3`, typ, id, limit))
		return err
	})
	return list, paused, err
}

func streamOrNull(s *eventstore.StreamID) (typ, id any) {
	if s == nil {
		return nil, nil
	}
	return s.Type, s.ID
}

// Retry implements wakes.Store.
func (w wakeStore) Retry(ctx context.Context, stream *eventstore.StreamID) (n int, err error) {
	typ, id := streamOrNull(stream)
	err = w.run(ctx, "retry wake-ups", func(exec func(sql string, args ...any) (int64, error)) error {
		changed, err := exec(`update wake set refused = '', due = ?3 where due is null and (?1 is null or agg_type = ?1 and agg_id = ?2)`, typ, id, time.Now().UnixMicro())
		n = int(changed)
		return err
	})
	return n, err
}
