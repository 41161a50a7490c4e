package sqlite

import (
	"context"
	"database/sql"
	"time"

	"github.com/ganglion-es/ganglion/eventstore/internal/rowsql"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// send adds the commands of a batch to an outbox, within a transaction.
func (d *database) send(ctx context.Context, build rows.Build, b rows.Batch, now int64) error {
	for _, c := range b.Commands {
		if _, err := d.conn.ExecContext(ctx, `insert into process_command (name, build, segment, pos, k, n, target, command, data, depth, at, sequence)
			values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)`,
			build.Projection, build.ID, b.Segment, stored.Signed(c.Position), c.K, c.N, c.Target, c.Name, string(c.Data), c.Depth, now, c.Sequence); err != nil {
			return err
		}
	}
	return nil
}

const commandColumns = "pos, k, n, build, segment, sequence, target, command, data, depth, attempts, error, held, at"

func scanCommands(list *[]rows.Command) func(scan func(...any) error) error {
	return func(scan func(...any) error) error {
		var c rows.Command
		var at int64
		err := scan(&c.Position, &c.K, &c.N, &c.Build, &c.Segment, &c.Sequence, &c.Target, &c.Name, (*[]byte)(&c.Data), &c.Depth, &c.Attempts, &c.Error, &c.Held, &at)
		c.At = time.UnixMicro(at).UTC()
		*list = append(*list, c)
		return err
	}
}

// Pending implements rows.Outboxes.
func (r rowStore) Pending(ctx context.Context, process string, build int64, segment int, after rows.CommandID, limit int) (list []rows.Command, err error) {
	var paused bool
	err = r.s.reading(ctx, "read the outbox of "+process, func(ctx context.Context, tx *sql.Tx) error {
		list = nil
		if err := tx.QueryRowContext(ctx, `select exists (select 1 from processor_paused where name = ?1)`, process).Scan(&paused); err != nil {
			return err
		}
		return each(ctx, tx, rowsql.Statement{
			SQL: `select ` + commandColumns + ` from process_command
				where name = ?1 and build = ?2 and segment = ?3 and (pos, k, n) > (?4, ?5, ?6) order by pos, k, n limit ?7`,
			Args: []any{process, build, segment, stored.Signed(after.Position), after.K, after.N, limit},
		}, scanCommands(&list))
	})
	if err == nil && paused {
		return list, rows.ErrPaused
	}
	return list, err
}

// Senders implements rows.Outboxes.
func (r rowStore) Senders(ctx context.Context, process string) (list []rows.Sender, err error) {
	err = r.s.reading(ctx, "read the outbox of "+process, func(ctx context.Context, tx *sql.Tx) error {
		list = nil
		now := time.Now()
		return each(ctx, tx, rowsql.Statement{
			SQL: `select build, segment, count(*), sum(held), min(at) from process_command where name = ?1 group by build, segment order by build, segment`, Args: []any{process},
		}, func(scan func(...any) error) error {
			var s rows.Sender
			var oldest int64
			err := scan(&s.Build, &s.Segment, &s.Commands, &s.Held, &oldest)
			s.Age = max(0, now.Sub(time.UnixMicro(oldest)))
			list = append(list, s)
			return err
		})
	})
	return list, err
}

// Sent implements rows.Outboxes.
func (r rowStore) Sent(ctx context.Context, process string, done []rows.Sent) error {
	return r.s.change(ctx, "remove commands of "+process, func(ctx context.Context) error {
		rejected := int64(0)
		for _, one := range done {
			deleted, err := r.s.db.conn.ExecContext(ctx, `delete from process_command where name = ?1 and pos = ?2 and k = ?3 and n = ?4`,
				process, stored.Signed(one.Position), one.K, one.N)
			if err != nil {
				return err
			}
			n, err := deleted.RowsAffected()
			if err != nil {
				return err
			}
			if one.Rejected {
				rejected += n
			}
		}
		if rejected == 0 {
			return nil
		}
		_, err := r.s.db.conn.ExecContext(ctx, `insert into process_rejected (name, commands, at) values (?1, ?2, ?3)
			on conflict (name) do update set commands = commands + excluded.commands, at = excluded.at`, process, rejected, time.Now().UnixMicro())
		return err
	})
}

// Rejected implements rows.Outboxes.
func (r rowStore) Rejected(ctx context.Context, process string) (commands uint64, last time.Time, err error) {
	err = r.s.reading(ctx, "count the rejected commands of "+process, func(ctx context.Context, tx *sql.Tx) error {
		var at sql.NullInt64
		err := tx.QueryRowContext(ctx, `select coalesce(sum(commands), 0), max(at) from process_rejected where name = ?1`, process).Scan(&commands, &at)
		if at.Valid {
			last = time.UnixMicro(at.Int64).UTC()
		}
		return err
	})
	return commands, last, err
}

// Ahead implements rows.Outboxes.
func (r rowStore) Ahead(ctx context.Context, process string, build int64, limit int) (targets []string, held bool, err error) {
	err = r.s.reading(ctx, "read the outbox of "+process, func(ctx context.Context, tx *sql.Tx) error {
		targets, held = nil, true
		return each(ctx, tx, rowsql.Statement{SQL: rowsql.Ahead("?1", "?2", "?3", "min"), Args: []any{process, build, limit}}, func(scan func(...any) error) error {
			var target string
			var waits bool
			err := scan(&target, &waits)
			targets, held = append(targets, target), held && waits
			return err
		})
	})
	return targets, held, err
}

// Fail implements rows.Outboxes.
func (r rowStore) Fail(ctx context.Context, process string, id rows.CommandID, attempts int, held bool, reason string) error {
	return r.exec(ctx, "record an attempt of "+process, `update process_command set attempts = ?5, held = ?6, error = ?7
		where name = ?1 and pos = ?2 and k = ?3 and n = ?4`, process, stored.Signed(id.Position), id.K, id.N, attempts, dialect.Bool(held), reason)
}

// Held implements rows.Outboxes.
func (r rowStore) Held(ctx context.Context, process string, limit int) (list []rows.Command, err error) {
	err = r.s.reading(ctx, "read the held commands of "+process, func(ctx context.Context, tx *sql.Tx) error {
		list = nil
		return each(ctx, tx, rowsql.Statement{
			SQL: `select ` + commandColumns + ` from process_command where name = ?1 and held order by pos, k, n limit ?2`, Args: []any{process, limit},
		}, scanCommands(&list))
	})
	return list, err
}

// Release implements rows.Outboxes.
func (r rowStore) Release(ctx context.Context, process string, id rows.CommandID) (bool, error) {
	return r.held(ctx, "release a command of "+process, `update process_command set held = 0, attempts = 0, error = ''`, process, id)
}

// Discard implements rows.Outboxes.
func (r rowStore) Discard(ctx context.Context, process string, id rows.CommandID) (bool, error) {
	return r.held(ctx, "discard a command of "+process, `delete from process_command`, process, id)
}

func (r rowStore) held(ctx context.Context, op, sql, process string, id rows.CommandID) (was bool, err error) {
	err = r.s.change(ctx, op, func(ctx context.Context) error {
		done, err := r.s.db.conn.ExecContext(ctx, sql+` where name = ?1 and pos = ?2 and k = ?3 and n = ?4 and held`, process, stored.Signed(id.Position), id.K, id.N)
		if err != nil {
			return err
		}
		n, err := done.RowsAffected()
		was = n > 0
		return err
	})
	return was, err
}

// Due implements rows.Table.
func (t *table) Due(ctx context.Context, segment int, after rows.Wake, limit int) (d rows.Due, err error) {
	due := t.table.Column(0)
	err = t.reading(ctx, "read what is due in "+t.spec.Projection, func(ctx context.Context, tx *sql.Tx) error {
		d = rows.Due{Now: time.Now().UTC().Truncate(time.Microsecond)}
		return each(ctx, tx, rowsql.Statement{
			SQL:  `select key, pos, ` + due + ` from ` + t.table.Name + ` where seg = ?1 and (` + due + `, key) > (?2, ?3) order by ` + due + `, key limit ?4`,
			Args: []any{segment, rowsql.Micros(after.Due), after.Key, limit + 1},
		}, func(scan func(...any) error) error {
			var w rows.Wake
			var at int64
			err := scan(&w.Key, &w.Position, &at)
			w.Due = time.UnixMicro(at).UTC()
			rowsql.AddDue(&d, w, limit)
			return err
		})
	})
	return d, err
}

// Handover implements rows.Outboxes. The transaction excludes every writer.
func (r rowStore) Handover(ctx context.Context, from, to int64) error {
	return r.s.change(ctx, "hand a build over", func(ctx context.Context) error {
		former, err := r.part(ctx, from)
		if err != nil {
			return err
		}
		next, err := r.part(ctx, to)
		if err != nil {
			return err
		}
		origin, blocks, err := rowsql.Handover(former, next)
		if err != nil {
			return err
		}
		return r.takeOver(ctx, from, to, origin, blocks)
	})
}

// part reads a build, within a transaction. One that was dropped has no checkpoints.
func (r rowStore) part(ctx context.Context, id int64) (part rowsql.HandoverPart, err error) {
	conn := r.s.db.conn
	query := func(text string, row func(scan func(...any) error) error, args ...any) {
		if err == nil {
			var list *sql.Rows
			if list, err = conn.QueryContext(ctx, text, args...); err == nil {
				err = scanEach(list, row)
			}
		}
	}
	query(`select `+buildColumns+` from processor_build where id = ?1`, func(scan func(...any) error) (err error) {
		part.Build, err = scanBuild(scan)
		return err
	}, id)
	query(checkpointsSQL, scanCheckpoints(&part.Checkpoints), id, part.Build.Projection)
	query(blocksSQL, scanBlocks(&part.Blocks), id)
	return part, err
}

// takeOver ends the term of one build and begins that of another. What the former
// build has blocked, it folds in silence if an operator resumes it there.
func (r rowStore) takeOver(ctx context.Context, from, to int64, origin rows.Origin, blocks []rows.Block) (err error) {
	now, endless := time.Now().UnixMicro(), stored.Signed(rows.Endless)
	exec := func(text string, args ...any) {
		if err == nil {
			_, err = r.s.db.conn.ExecContext(ctx, text, args...)
		}
	}
	exec(`update processor_checkpoint set sends_until = pos where build = ?1`, from)
	exec(`update processor_blocked set sends_after = ?2 where build = ?1`, from, endless)
	exec(`update processor_checkpoint set sends_from = ?2, sends_until = ?3 where build = ?1`, to, rowsql.EncodeOrigin(origin), endless)
	exec(`update processor_blocked set sends_after = null where build = ?1`, to)
	for _, b := range blocks {
		exec(blockSQL, to, b.Key, b.Segment, stored.Signed(b.Position), b.Attempts, b.Error, now, sendsAfter(b))
	}
	exec(`update processor_build set state = ?2, since = ?3 where id = ?1 and state <> ?2`, to, rows.Active, now)
	return err
}
