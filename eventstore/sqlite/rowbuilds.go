package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/rowsql"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

const buildColumns = "id, name, fingerprint, segments, state, log_id, since"

func scanBuild(scan func(...any) error) (rows.Build, error) {
	var b rows.Build
	var since int64
	err := scan(buildFields(&b, &since)...)
	b.Since = time.UnixMicro(since).UTC()
	return b, err
}

func buildFields(b *rows.Build, since *int64) []any {
	return []any{&b.ID, &b.Projection, &b.Fingerprint, &b.Segments, &b.State, &b.LogID, since}
}

// Ensure implements rows.Store.
func (r rowStore) Ensure(ctx context.Context, spec rows.Spec) (b rows.Build, err error) {
	err = r.s.change(ctx, "find a build of "+spec.Projection, func(ctx context.Context) error {
		conn := r.s.db.conn
		b, err = scanBuild(conn.QueryRowContext(ctx, `select `+buildColumns+` from processor_build where name = ?1 and fingerprint = ?2 order by id desc limit 1`,
			spec.Projection, spec.Fingerprint).Scan)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			b, err = r.begin(ctx, spec)
		case err == nil && b.State == rows.Retired:
			b, err = scanBuild(conn.QueryRowContext(ctx, `update processor_build set state = ?2, since = ?3 where id = ?1 returning `+buildColumns,
				b.ID, rows.Building, time.Now().UnixMicro()).Scan)
		}
		if err == nil {
			_, err = conn.ExecContext(ctx, useSQL, b.ID, time.Now().UnixMicro())
		}
		return err
	})
	return b, err
}

// Rebuild implements rows.Store.
func (r rowStore) Rebuild(ctx context.Context, spec rows.Spec) (b rows.Build, err error) {
	err = r.s.change(ctx, "begin a build of "+spec.Projection, func(ctx context.Context) error {
		b, err = r.begin(ctx, spec)
		return err
	})
	return b, err
}

// begin begins a build, within a transaction.
func (r rowStore) begin(ctx context.Context, spec rows.Spec) (rows.Build, error) {
	conn, now := r.s.db.conn, time.Now().UnixMicro()
	b, err := scanBuild(conn.QueryRowContext(ctx, `insert into processor_build (name, fingerprint, segments, state, log_id, since, used)
		values (?1, ?2, ?3, ?4, ?5, ?6, ?6) returning `+buildColumns,
		spec.Projection, spec.Fingerprint, spec.Segments, rows.Building, r.s.LogID(), now).Scan)
	if err != nil {
		return b, err
	}
	origin, err := r.origin(ctx, spec, b.ID)
	for segment := range spec.Segments {
		if err == nil {
			_, err = conn.ExecContext(ctx, `insert into processor_checkpoint (build, segment, at, sends_from) values (?1, ?2, ?3, ?4)`,
				b.ID, segment, now, rowsql.EncodeOrigin(origin))
		}
	}
	return b, err
}

// origin returns where a new build begins to send: only the first build of a process
// manager does so by itself. On a copy of a log, it pauses the first build.
func (r rowStore) origin(ctx context.Context, spec rows.Spec, id int64) (rows.Origin, error) {
	if !spec.Process && !spec.Relay {
		return nil, nil
	}
	var others bool
	var head eventstore.Position
	err := r.s.db.conn.QueryRowContext(ctx, `select exists (select 1 from processor_build where name = ?1 and id <> ?2), coalesce((select max(pos) from "commit"), 0)`,
		spec.Projection, id).Scan(&others, &head)
	if err != nil || others {
		return nil, err
	}
	if _, err := r.s.db.conn.ExecContext(ctx, `insert into processor_paused (name) select ?1 where exists (select 1 from processor_paused where name = ?2) on conflict do nothing`,
		spec.Projection, rows.PauseProcesses); err != nil {
		return nil, err
	}
	if spec.Relay {
		return nil, nil
	}
	return rowsql.FirstOrigin(spec, head), nil
}

// Open implements rows.Store. A store that only reads makes no table.
func (r rowStore) Open(ctx context.Context, spec rows.Spec, id int64) (rows.Table, error) {
	t := &table{s: r.s, spec: spec, table: rowsql.TableOf(spec.Projection, id, spec.Columns)}
	const op, find = "open the rows of ", `select ` + buildColumns + ` from processor_build where id = ?1 and name = ?2 and fingerprint = ?3`
	found := func(row *sql.Row) (err error) {
		if t.build, err = scanBuild(row.Scan); errors.Is(err, sql.ErrNoRows) {
			return rows.ErrDropped
		}
		return err
	}
	var err error
	if r.s.db.readOnly {
		err = r.s.reading(ctx, op+spec.Projection, func(ctx context.Context, tx *sql.Tx) error {
			return found(tx.QueryRowContext(ctx, find, id, spec.Projection, spec.Fingerprint))
		})
	} else {
		err = r.s.change(ctx, op+spec.Projection, func(ctx context.Context) error {
			if err := found(r.s.db.conn.QueryRowContext(ctx, find, id, spec.Projection, spec.Fingerprint)); err != nil {
				return err
			}
			return t.create(ctx, r.s.db.conn)
		})
	}
	if err != nil {
		return nil, err
	}
	t.prepare()
	return t, nil
}

// Builds implements rows.Store.
func (r rowStore) Builds(ctx context.Context) (builds []rows.Build, err error) {
	err = r.s.reading(ctx, "read the builds", func(ctx context.Context, tx *sql.Tx) error {
		return each(ctx, tx, rowsql.Statement{SQL: `select ` + buildColumns + ` from processor_build order by name, id`}, func(scan func(...any) error) error {
			b, err := scanBuild(scan)
			builds = append(builds, b)
			return err
		})
	})
	return builds, err
}

// SetState implements rows.Store.
func (r rowStore) SetState(ctx context.Context, id int64, state rows.State) error {
	return r.exec(ctx, "change a build", `update processor_build set state = ?2, since = ?3 where id = ?1 and state <> ?2`, id, state, time.Now().UnixMicro())
}

// Pause implements rows.Store.
func (r rowStore) Pause(ctx context.Context, projection string, paused bool) error {
	if paused {
		return r.exec(ctx, "pause a projection", `insert into processor_paused (name) values (?1) on conflict do nothing`, projection)
	}
	return r.exec(ctx, "resume a projection", `delete from processor_paused where name = ?1`, projection)
}

func (r rowStore) exec(ctx context.Context, op, sql string, args ...any) error {
	return r.s.change(ctx, op, func(ctx context.Context) error {
		_, err := r.s.db.conn.ExecContext(ctx, sql, args...)
		return err
	})
}

// Rewind implements rows.Store.
func (r rowStore) Rewind(ctx context.Context, id int64, to eventstore.Position) (at eventstore.Position, err error) {
	err = r.s.change(ctx, "rewind a build", func(ctx context.Context) error {
		conn := r.s.db.conn
		var head int64
		var key string
		if err := conn.QueryRowContext(ctx, `select coalesce((select max(pos) from "commit"), 0), coalesce((select max(pos) from "commit" where pos <= ?1), 0),
			coalesce((select key from "commit" where pos <= ?1 order by pos desc limit 1), '')`, stored.Signed(to)).Scan(&head, &at, &key); err != nil {
			return err
		}
		if stored.Signed(to) > head {
			return rows.ErrAhead
		}
		found, err := conn.ExecContext(ctx, `update processor_build set log_id = ?2 where id = ?1`, id, r.s.LogID())
		if err != nil {
			return err
		}
		if n, err := found.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, rows.ErrDropped)
		}
		if _, err := conn.ExecContext(ctx, `update processor_checkpoint set pos = ?2, commit_key = ?3, at = ?4, mends = mends + 1 where build = ?1`,
			id, stored.Signed(at), key, time.Now().UnixMicro()); err != nil {
			return err
		}
		_, err = conn.ExecContext(ctx, `delete from processor_blocked where build = ?1`, id)
		return err
	})
	return at, err
}

// Drop implements rows.Store.
func (r rowStore) Drop(ctx context.Context, id int64) error {
	return r.s.change(ctx, "drop a build", func(ctx context.Context) error { return r.drop(ctx, id) })
}

// drop drops a build, within a transaction.
func (r rowStore) drop(ctx context.Context, id int64) error {
	conn := r.s.db.conn
	var name string
	err := conn.QueryRowContext(ctx, `select name from processor_build where id = ?1`, id).Scan(&name)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	for _, statement := range []string{
		`drop table if exists ` + rowsql.TableOf(name, id, nil).Name,
		`delete from processor_skipped where build = ` + strconv.FormatInt(id, 10),
		`delete from processor_blocked where build = ` + strconv.FormatInt(id, 10),
		`delete from processor_checkpoint where build = ` + strconv.FormatInt(id, 10),
		`delete from processor_build where id = ` + strconv.FormatInt(id, 10),
	} {
		if err == nil {
			_, err = conn.ExecContext(ctx, statement)
		}
	}
	return err
}

const useSQL = `update processor_build set used = ?2 where id = ?1`

// Use implements rows.Store.
func (r rowStore) Use(ctx context.Context, ids []int64) error {
	return r.s.change(ctx, "use builds", func(ctx context.Context) error {
		for _, id := range ids {
			if _, err := r.s.db.conn.ExecContext(ctx, useSQL, id, time.Now().UnixMicro()); err != nil {
				return err
			}
		}
		return nil
	})
}

// Expire implements rows.Store.
func (r rowStore) Expire(ctx context.Context, projection string, unused time.Duration) (expired []int64, err error) {
	err = r.s.change(ctx, "drop the unused builds of "+projection, func(ctx context.Context) error {
		list, err := r.s.db.conn.QueryContext(ctx, `select id from processor_build b where name = ?1 and used <= ?2
			and exists (select 1 from processor_build o where o.name = ?1 and o.state = ?3 and o.used > b.used)
			and not exists (select 1 from processor_checkpoint c where c.build = b.id and c.sends_from <> '[]' and c.sends_until = ?4) order by id`,
			projection, time.Now().Add(-unused).UnixMicro(), rows.Active, stored.Signed(rows.Endless))
		if err != nil {
			return err
		}
		expired = nil
		if err := scanEach(list, func(scan func(...any) error) error {
			var id int64
			err := scan(&id)
			expired = append(expired, id)
			return err
		}); err != nil {
			return err
		}
		for _, id := range expired {
			if err := r.drop(ctx, id); err != nil {
				return err
			}
		}
		return nil
	})
	return expired, err
}

// Overviews implements rows.Store.
func (r rowStore) Overviews(ctx context.Context) (list []rows.Overview, err error) {
	err = r.s.reading(ctx, "read the builds and their checkpoints", func(ctx context.Context, tx *sql.Tx) error {
		return each(ctx, tx, rowsql.Statement{
			SQL: `select ` + buildColumns + `, segment, pos, commit_key, at, floor, mends, exists (select 1 from processor_paused p where p.name = b.name),
					sends_from, sends_until, (select count(*) from processor_blocked k where k.build = b.id and k.segment = c.segment)
				from processor_build b join processor_checkpoint c on c.build = b.id order by name, id, segment`,
		}, func(scan func(...any) error) error {
			var b rows.Build
			var k checkpoint
			var since int64
			var blocked int
			if err := scan(append(append(buildFields(&b, &since), k.fields()...), &blocked)...); err != nil {
				return err
			}
			b.Since = time.UnixMicro(since).UTC()
			c, err := k.value()
			if n := len(list); n == 0 || list[n-1].ID != b.ID {
				list = append(list, rows.Overview{Build: b})
			}
			last := &list[len(list)-1]
			last.Checkpoints, last.Blocked = append(last.Checkpoints, c), append(last.Blocked, blocked)
			return err
		})
	})
	return list, err
}

// Blocked implements rows.Store.
func (r rowStore) Blocked(ctx context.Context, builds []int64, limit int) (list []rows.Waiting, err error) {
	ids, err := json.Marshal(builds)
	if err != nil {
		return nil, err
	}
	err = r.s.reading(ctx, "read the blocked rows", func(ctx context.Context, tx *sql.Tx) error {
		list = nil
		return each(ctx, tx, rowsql.Statement{
			SQL: `select key, segment, pos, attempts, error, at, sends_after, build from processor_blocked
				where build in (select value from json_each(?1)) order by build, pos, key limit ?2`, Args: []any{string(ids), limit},
		}, func(scan func(...any) error) (err error) {
			var w rows.Waiting
			w.Block, err = scanBlock(scan, &w.Build)
			list = append(list, w)
			return err
		})
	})
	return list, err
}
