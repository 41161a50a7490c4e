package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/rowsql"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

const buildColumns = "id, name, fingerprint, segments, state, log_id, since"

func buildFields(b *rows.Build) []any {
	return []any{&b.ID, &b.Projection, &b.Fingerprint, &b.Segments, &b.State, &b.LogID, &b.Since}
}

func scanBuild(row pgx.Row) (b rows.Build, err error) {
	err = row.Scan(buildFields(&b)...)
	b.Since = b.Since.UTC()
	return b, err
}

// Ensure implements rows.Store.
func (r *rowStore) Ensure(ctx context.Context, spec rows.Spec) (b rows.Build, err error) {
	err = r.change(ctx, "find a build of "+spec.Projection, func(ctx context.Context, tx pgx.Tx) error {
		b, err = scanBuild(tx.QueryRow(ctx, `select `+buildColumns+` from processor_build where name = $1 and fingerprint = $2 order by id desc limit 1`,
			spec.Projection, spec.Fingerprint))
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			b, err = r.begin(ctx, tx, spec)
		case err == nil && b.State == rows.Retired:
			b, err = scanBuild(tx.QueryRow(ctx, `update processor_build set state = $2, since = clock_timestamp() where id = $1 returning `+buildColumns, b.ID, rows.Building))
		}
		if err == nil {
			_, err = tx.Exec(ctx, useSQL, []int64{b.ID})
		}
		return err
	})
	return b, err
}

// Rebuild implements rows.Store.
func (r *rowStore) Rebuild(ctx context.Context, spec rows.Spec) (b rows.Build, err error) {
	err = r.change(ctx, "begin a build of "+spec.Projection, func(ctx context.Context, tx pgx.Tx) error {
		b, err = r.begin(ctx, tx, spec)
		return err
	})
	return b, err
}

// change runs a transaction on the builds. Nodes that start together wait for each
// other.
func (r *rowStore) change(ctx context.Context, op string, do func(context.Context, pgx.Tx) error) error {
	return r.with(ctx, op, func(ctx context.Context, c *pgx.Conn) error {
		return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(1195461199, hashtext('rows ' || $1))`, r.s.cfg.Schema); err != nil {
				return err
			}
			return do(ctx, tx)
		})
	})
}

// begin begins a build, within a transaction.
func (r *rowStore) begin(ctx context.Context, tx pgx.Tx, spec rows.Spec) (rows.Build, error) {
	b, err := scanBuild(tx.QueryRow(ctx, `insert into processor_build (name, fingerprint, segments, state, log_id) values ($1, $2, $3, $4, $5) returning `+buildColumns,
		spec.Projection, spec.Fingerprint, spec.Segments, rows.Building, r.s.LogID()))
	if err != nil {
		return b, err
	}
	origin, err := r.origin(ctx, tx, spec, b.ID)
	if err == nil {
		_, err = tx.Exec(ctx, `insert into processor_checkpoint (build, segment, sends_from) select $1, generate_series(0, $2::int - 1), $3`,
			b.ID, spec.Segments, rowsql.EncodeOrigin(origin))
	}
	return b, err
}

// origin returns where a new build begins to send: only the first build of a process
// manager does so by itself. On a copy of a log, it pauses the first build.
func (r *rowStore) origin(ctx context.Context, tx pgx.Tx, spec rows.Spec, id int64) (rows.Origin, error) {
	if !spec.Process && !spec.Relay {
		return nil, nil
	}
	var others bool
	var head int64
	err := tx.QueryRow(ctx, `select exists (select from processor_build where name = $1 and id <> $2), coalesce((select max(pos) from commit), 0)`,
		spec.Projection, id).Scan(&others, &head)
	if err != nil || others {
		return nil, err
	}
	if _, err := tx.Exec(ctx, `insert into processor_paused (name) select $1 where exists (select from processor_paused where name = $2) on conflict do nothing`,
		spec.Projection, rows.PauseProcesses); err != nil {
		return nil, err
	}
	if spec.Relay {
		return nil, nil
	}
	return rowsql.FirstOrigin(spec, eventstore.Position(head)), nil
}

// Open implements rows.Store.
func (r *rowStore) Open(ctx context.Context, spec rows.Spec, id int64) (rows.Table, error) {
	t := &rowTable{r: r, spec: spec, table: rowsql.TableOf(spec.Projection, id, spec.Columns)}
	dropped := false
	err := r.change(ctx, "open the rows of "+spec.Projection, func(ctx context.Context, tx pgx.Tx) (err error) {
		t.build, err = scanBuild(tx.QueryRow(ctx, `select `+buildColumns+` from processor_build where id = $1 and name = $2 and fingerprint = $3`,
			id, spec.Projection, spec.Fingerprint))
		if errors.Is(err, pgx.ErrNoRows) {
			dropped = true
			return nil
		}
		if err != nil {
			return err
		}
		return t.create(ctx, tx)
	})
	switch {
	case err != nil:
		return nil, err
	case dropped:
		return nil, rows.ErrDropped
	}
	t.write = t.writeSQL()
	return t, nil
}

// Builds implements rows.Store.
func (r *rowStore) Builds(ctx context.Context) (builds []rows.Build, err error) {
	err = r.with(ctx, "read the builds", func(ctx context.Context, c *pgx.Conn) error {
		list, err := c.Query(ctx, `select `+buildColumns+` from processor_build order by name, id`)
		if err != nil {
			return err
		}
		builds, err = pgx.CollectRows(list, func(row pgx.CollectableRow) (rows.Build, error) { return scanBuild(row) })
		return err
	})
	return builds, err
}

// SetState implements rows.Store.
func (r *rowStore) SetState(ctx context.Context, id int64, state rows.State) error {
	return r.exec(ctx, "change a build", `update processor_build set state = $2, since = clock_timestamp() where id = $1 and state <> $2`, id, state)
}

// Pause implements rows.Store.
func (r *rowStore) Pause(ctx context.Context, projection string, paused bool) error {
	if paused {
		return r.exec(ctx, "pause a projection", `insert into processor_paused (name) values ($1) on conflict do nothing`, projection)
	}
	return r.exec(ctx, "resume a projection", `delete from processor_paused where name = $1`, projection)
}

func (r *rowStore) exec(ctx context.Context, op, sql string, args ...any) error {
	return r.with(ctx, op, func(ctx context.Context, c *pgx.Conn) error {
		_, err := c.Exec(ctx, sql, args...)
		return err
	})
}

// Rewind implements rows.Store.
func (r *rowStore) Rewind(ctx context.Context, id int64, to eventstore.Position) (at eventstore.Position, err error) {
	var refused error
	err = r.change(ctx, "rewind a build", func(ctx context.Context, tx pgx.Tx) error {
		var head int64
		var key string
		if err := tx.QueryRow(ctx, `select coalesce((select max(pos) from commit), 0), coalesce((select max(pos) from commit where pos <= $1), 0),
			coalesce((select key from commit where pos <= $1 order by pos desc limit 1), '')`, stored.Signed(to)).Scan(&head, &at, &key); err != nil {
			return err
		}
		if refused = nil; stored.Signed(to) > head {
			refused = rows.ErrAhead
			return nil
		}
		found, err := tx.Exec(ctx, `update processor_build set log_id = $2 where id = $1`, id, r.s.LogID())
		if err == nil && found.RowsAffected() == 0 {
			refused = rows.ErrDropped
			return nil
		}
		if err == nil {
			_, err = tx.Exec(ctx, `update processor_checkpoint set pos = $2, commit_key = $3, at = clock_timestamp(), mends = mends + 1 where build = $1`, id, stored.Signed(at), key)
		}
		if err == nil {
			_, err = tx.Exec(ctx, `delete from processor_blocked where build = $1`, id)
		}
		return err
	})
	if err == nil {
		err = refused
	}
	return at, err
}

// Drop implements rows.Store.
func (r *rowStore) Drop(ctx context.Context, id int64) error {
	return r.change(ctx, "drop a build", func(ctx context.Context, tx pgx.Tx) error { return r.drop(ctx, tx, id) })
}

// drop drops a build with its table, and with its schema if it writes with SQL.
func (r *rowStore) drop(ctx context.Context, tx pgx.Tx, id int64) error {
	var name string
	err := tx.QueryRow(ctx, `delete from processor_build where id = $1 returning name`, id).Scan(&name)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err == nil {
		_, err = tx.Exec(ctx, `drop table if exists `+rowsql.TableOf(name, id, nil).Name)
	}
	if schema := r.buildSchema(name, id); err == nil && len(schema) <= maxSchema {
		_, err = tx.Exec(ctx, `drop schema if exists `+pgx.Identifier{schema}.Sanitize()+` cascade`)
	}
	return err
}

const useSQL = `update processor_build set used = clock_timestamp() where id = any($1::bigint[])`

// Use implements rows.Store.
func (r *rowStore) Use(ctx context.Context, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	return r.exec(ctx, "use builds", useSQL, ids)
}

// Expire implements rows.Store.
func (r *rowStore) Expire(ctx context.Context, projection string, unused time.Duration) (expired []int64, err error) {
	err = r.change(ctx, "drop the unused builds of "+projection, func(ctx context.Context, tx pgx.Tx) error {
		list, err := tx.Query(ctx, `select id from processor_build b where name = $1 and used <= clock_timestamp() - $2 * interval '1 microsecond'
			and exists (select from processor_build o where o.name = $1 and o.state = $3 and o.used > b.used)
			and not exists (select from processor_checkpoint c where c.build = b.id and c.sends_from <> '[]' and c.sends_until = $4) order by id`, projection, unused.Microseconds(), rows.Active, stored.Signed(rows.Endless))
		if err != nil {
			return err
		}
		if expired, err = pgx.CollectRows(list, pgx.RowTo[int64]); err != nil {
			return err
		}
		for _, id := range expired {
			if err := r.drop(ctx, tx, id); err != nil {
				return err
			}
		}
		return nil
	})
	return expired, err
}

// Overviews implements rows.Store. One statement sees one moment.
func (r *rowStore) Overviews(ctx context.Context) (list []rows.Overview, err error) {
	err = r.with(ctx, "read the builds and their checkpoints", func(ctx context.Context, c *pgx.Conn) error {
		found, err := c.Query(ctx, `select `+buildColumns+`, segment, pos, commit_key, at, floor, mends, exists (select from processor_paused p where p.name = b.name),
				sends_from, sends_until, (select count(*) from processor_blocked k where k.build = b.id and k.segment = c.segment)
			from processor_build b join processor_checkpoint c on c.build = b.id order by name, id, segment`)
		if err != nil {
			return err
		}
		list = nil
		var b rows.Build
		var k checkpoint
		var blocked int
		scans := append(append(buildFields(&b), k.fields()...), &blocked)
		_, err = pgx.ForEachRow(found, scans, func() error {
			if n := len(list); n == 0 || list[n-1].ID != b.ID {
				b.Since = b.Since.UTC()
				list = append(list, rows.Overview{Build: b})
			}
			c, err := k.value()
			last := &list[len(list)-1]
			last.Checkpoints, last.Blocked = append(last.Checkpoints, c), append(last.Blocked, blocked)
			return err
		})
		return err
	})
	return list, err
}

// Blocked implements rows.Store.
func (r *rowStore) Blocked(ctx context.Context, builds []int64, limit int) (list []rows.Waiting, err error) {
	err = r.with(ctx, "read the blocked rows", func(ctx context.Context, c *pgx.Conn) error {
		found, err := c.Query(ctx, `select key, segment, pos, attempts, error, at, sends_after, build from processor_blocked
			where build = any($1) order by build, pos, key limit $2`, append([]int64{}, builds...), limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(found, func(row pgx.CollectableRow) (w rows.Waiting, err error) {
			w.Block, err = scanBlockAnd(row, &w.Build)
			return w, err
		})
		return err
	})
	return list, err
}
