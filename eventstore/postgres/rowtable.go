package postgres

import (
	"context"
	"errors"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/rowsql"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// rowTable implements rows.Table.
type rowTable struct {
	r     *rowStore
	spec  rows.Spec
	build rows.Build
	table rowsql.Table
	write string
}

// Build implements rows.Table.
func (t *rowTable) Build() rows.Build { return t.build }

// types are the column types of the kinds of values.
var types = map[rows.Kind]string{rows.Bool: "boolean", rows.Int: "bigint", rows.Float: "double precision", rows.Text: "text", rows.Time: "bigint"}

// create makes the table with its indexes in one transaction, unless it exists:
// "create index if not exists" waits for the writers of the table, even if the index
// exists, and writers that arrive later wait for it.
func (t *rowTable) create(ctx context.Context, tx pgx.Tx) error {
	var exists bool
	if err := tx.QueryRow(ctx, `select to_regclass($1) is not null`, t.table.Name).Scan(&exists); err != nil || exists {
		return err
	}
	var b strings.Builder
	b.WriteString("create table if not exists " + t.table.Name +
		` (key text collate "C" primary key, seg integer not null, pos bigint not null, gone boolean not null, data json`)
	for i, c := range t.spec.Columns {
		b.WriteString(", " + t.table.Column(i) + " " + types[c.Kind])
		if c.Kind == rows.Text {
			b.WriteString(` collate "C"`)
		}
	}
	b.WriteString(")")
	statements := []string{b.String(), t.table.PositionIndex(), t.table.TombstoneIndex()}
	if t.spec.Process {
		statements = append(statements, t.table.DueIndex())
	}
	for n, index := range t.spec.Indexes {
		statements = append(statements, dialect.Index(t.table, n, index))
	}
	for _, sql := range statements {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// with lends a connection for work, and names the errors of a dropped build and of
// refused data.
func (t *rowTable) with(ctx context.Context, op string, use func(context.Context, *pgx.Conn) error) error {
	return t.lend(ctx, &t.r.work, op, use)
}

func (t *rowTable) lend(ctx context.Context, from *rowPool, op string, use func(context.Context, *pgx.Conn) error) error {
	var ours error
	err := t.r.lend(ctx, from, op, func(ctx context.Context, c *pgx.Conn) error {
		err := use(ctx, c)
		var e *pgconn.PgError
		switch {
		case errors.Is(err, rows.ErrDropped):
			ours = err
		case errors.As(err, &e) && e.Code == "42P01": // undefined_table
			ours = rows.ErrDropped
		case errors.As(err, &e) && refusesData(e.Code):
			ours = &rows.InvalidError{Reason: e.Message}
		default:
			return err
		}
		return nil
	})
	return errors.Join(err, ours)
}

// refusesData reports whether an error names what was written: data_exception,
// integrity_constraint_violation, or program_limit_exceeded, which is an index
// entry that is too long.
func refusesData(code string) bool {
	return strings.HasPrefix(code, "22") || strings.HasPrefix(code, "23") || code == "54000"
}

// moment runs reads that see one moment of a build that must still be there, in
// one round trip.
func (t *rowTable) moment(ctx context.Context, op string, reads func(*pgx.Batch)) error {
	return t.lend(ctx, &t.r.asks, op, func(ctx context.Context, c *pgx.Conn) error {
		present := false
		batch := &pgx.Batch{}
		batch.Queue("begin isolation level repeatable read read only")
		batch.Queue(`select exists (select from processor_build where id = $1)`, t.build.ID).QueryRow(func(row pgx.Row) error { return row.Scan(&present) })
		reads(batch)
		batch.Queue("commit")
		err := c.SendBatch(ctx, batch).Close()
		if err != nil && c.PgConn().TxStatus() != 'I' && !c.IsClosed() {
			_, _ = c.Exec(ctx, "rollback")
		}
		if err == nil && !present {
			return rows.ErrDropped
		}
		return err
	})
}

func (t *rowTable) queueCheckpoints(b *pgx.Batch, list *[]rows.Checkpoint) {
	b.Queue(`select segment, pos, commit_key, at, floor, mends, exists (select from processor_paused where name = $2), sends_from, sends_until
		from processor_checkpoint where build = $1 order by segment`, t.build.ID, t.spec.Projection).Query(func(r pgx.Rows) (err error) {
		*list, err = pgx.CollectRows(r, func(row pgx.CollectableRow) (c rows.Checkpoint, err error) {
			var k checkpoint
			if err = row.Scan(k.fields()...); err != nil {
				return c, err
			}
			return k.value()
		})
		return err
	})
}

// checkpoint is a row of processor_checkpoint as the driver scans it.
type checkpoint struct {
	rows.Checkpoint
	pos, floor, until int64
	from              string
}

func (c *checkpoint) fields() []any {
	return []any{&c.Segment, &c.pos, &c.Key, &c.At, &c.floor, &c.Mends, &c.Paused, &c.from, &c.until}
}

func (c *checkpoint) value() (_ rows.Checkpoint, err error) {
	c.Position, c.Floor, c.At = eventstore.Position(c.pos), eventstore.Position(c.floor), c.At.UTC()
	c.Term.Until = eventstore.Position(c.until)
	c.Term.From, err = rowsql.DecodeOrigin(c.from)
	return c.Checkpoint, err
}

// Checkpoints implements rows.Table.
func (t *rowTable) Checkpoints(ctx context.Context) (list []rows.Checkpoint, err error) {
	err = t.moment(ctx, "read the checkpoints of "+t.spec.Projection, func(b *pgx.Batch) { t.queueCheckpoints(b, &list) })
	return list, err
}

// Blocks implements rows.Table.
func (t *rowTable) Blocks(ctx context.Context) (list []rows.Block, err error) {
	err = t.moment(ctx, "read the blocked rows of "+t.spec.Projection, func(b *pgx.Batch) {
		b.Queue(blocksSQL, t.build.ID).Query(func(r pgx.Rows) (err error) {
			list, err = pgx.CollectRows(r, scanBlock)
			return err
		})
	})
	return list, err
}

const blocksSQL = `select key, segment, pos, attempts, error, at, sends_after from processor_blocked where build = $1 order by pos, key`

func scanBlock(row pgx.CollectableRow) (b rows.Block, err error) { return scanBlockAnd(row) }

// scanBlockAnd scans a block, and further columns after it.
func scanBlockAnd(row pgx.CollectableRow, more ...any) (b rows.Block, err error) {
	var pos int64
	var after *int64
	err = row.Scan(append([]any{&b.Key, &b.Segment, &pos, &b.Attempts, &b.Error, &b.At, &after}, more...)...)
	b.Position, b.At = eventstore.Position(pos), b.At.UTC()
	if after != nil {
		b.HandedOver, b.After = true, eventstore.Position(*after)
	}
	return b, err
}

// Skips implements rows.Table.
func (t *rowTable) Skips(ctx context.Context) (list []rows.Skip, err error) {
	err = t.moment(ctx, "read the skipped events of "+t.spec.Projection, func(b *pgx.Batch) {
		b.Queue(`select key, segment, pos, at from processor_skipped where build = $1 order by pos, key`, t.build.ID).Query(func(r pgx.Rows) (err error) {
			list, err = pgx.CollectRows(r, func(row pgx.CollectableRow) (s rows.Skip, err error) {
				var pos int64
				err = row.Scan(&s.Key, &s.Segment, &pos, &s.At)
				s.Position, s.At = eventstore.Position(pos), s.At.UTC()
				return s, err
			})
			return err
		})
	})
	return list, err
}

// Load implements rows.Table.
func (t *rowTable) Load(ctx context.Context, keys []string) (list []rows.Row, err error) {
	if keys == nil {
		keys = []string{}
	}
	err = t.with(ctx, "load rows of "+t.spec.Projection, func(ctx context.Context, c *pgx.Conn) error {
		found, err := c.Query(ctx, `select key, seg, pos, data from `+t.table.Name+` where key = any($1::text[]) and not gone`, keys)
		if err != nil {
			return err
		}
		return collect(&list)(found)
	})
	return list, err
}

// collect reads rows that are not gone.
func collect(list *[]rows.Row) func(pgx.Rows) error {
	return func(r pgx.Rows) (err error) {
		*list, err = pgx.CollectRows(r, func(row pgx.CollectableRow) (found rows.Row, err error) {
			var pos int64
			err = row.Scan(&found.Key, &found.Segment, &pos, &found.Data)
			found.Position = eventstore.Position(pos)
			return found, err
		})
		return err
	}
}

// Ask implements rows.Table.
func (t *rowTable) Ask(ctx context.Context, q rows.Question) (a rows.Answer, err error) {
	err = t.moment(ctx, "ask for rows of "+t.spec.Projection, func(b *pgx.Batch) {
		t.queueCheckpoints(b, &a.Checkpoints)
		b.Queue(`select count(*) from processor_blocked where build = $1`, t.build.ID).QueryRow(func(row pgx.Row) error { return row.Scan(&a.Blocked) })
		ask := dialect.Ask(t.table, q)
		b.Queue(ask.SQL, ask.Args...).Query(collect(&a.Rows))
	})
	return a, err
}

// Changes implements rows.Table.
func (t *rowTable) Changes(ctx context.Context, after []eventstore.Position, next rows.Edge, limit int) (c rows.Changed, err error) {
	err = t.moment(ctx, "read changed rows of "+t.spec.Projection, func(b *pgx.Batch) {
		t.queueCheckpoints(b, &c.Checkpoints)
		changes := dialect.Changes(t.table, after, next, limit)
		b.Queue(changes.SQL, changes.Args...).Query(func(r pgx.Rows) (err error) {
			c.Rows, err = pgx.CollectRows(r, func(row pgx.CollectableRow) (found rows.Row, err error) {
				var pos int64
				err = row.Scan(&found.Key, &found.Segment, &pos, &found.Gone, &found.Data)
				found.Position = eventstore.Position(pos)
				return found, err
			})
			return err
		})
	})
	c.More = len(c.Rows) == limit
	return c, err
}

// purgeStep bounds the number of tombstones that one statement deletes.
const purgeStep = 10_000

// Purge implements rows.Table.
func (t *rowTable) Purge(ctx context.Context, upTo eventstore.Position) error {
	for deleted := int64(purgeStep); deleted == purgeStep; {
		err := t.with(ctx, "purge rows of "+t.spec.Projection, func(ctx context.Context, c *pgx.Conn) error {
			return pgx.BeginFunc(ctx, c, func(tx pgx.Tx) error {
				raised, err := tx.Exec(ctx, `update processor_checkpoint set floor = greatest(floor, $2) where build = $1`, t.build.ID, stored.Signed(upTo))
				if err != nil {
					return err
				}
				if raised.RowsAffected() == 0 {
					return rows.ErrDropped
				}
				removed, err := tx.Exec(ctx, `delete from `+t.table.Name+` where key = any(array(
					select key from `+t.table.Name+` where gone and pos <= $1 order by pos limit $2)) and gone and pos <= $1`, stored.Signed(upTo), purgeStep)
				deleted = removed.RowsAffected()
				return err
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}
