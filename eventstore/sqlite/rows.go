package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/rowsql"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

var dialect = rowsql.Dialect{
	Parameter: "?",
	Prefix: func(column, parameter string) string {
		// The comparison is what an index serves.
		return "(" + column + " >= " + parameter + " and substr(" + column + ", 1, length(" + parameter + ")) = " + parameter + ")"
	},
	Bool: func(b bool) any {
		if b {
			return int64(1)
		}
		return int64(0)
	},
}

// Rows returns the rows beside the log.
func (s *Store) Rows() rows.Store { return rowStore{s} }

type rowStore struct{ s *Store }

// table implements rows.Table.
type table struct {
	s      *Store
	spec   rows.Spec
	build  rows.Build
	table  rowsql.Table
	upsert string
}

// Build implements rows.Table.
func (t *table) Build() rows.Build { return t.build }

func (t *table) create(ctx context.Context, conn *sql.Conn) error {
	var b strings.Builder
	b.WriteString("create table if not exists " + t.table.Name + " (key text primary key, seg integer not null, pos integer not null, gone integer not null, data text")
	for i, c := range t.spec.Columns {
		kind := map[rows.Kind]string{rows.Bool: "integer", rows.Int: "integer", rows.Float: "real", rows.Text: "text", rows.Time: "integer"}[c.Kind]
		b.WriteString(", " + t.table.Column(i) + " " + kind)
	}
	b.WriteString(") strict, without rowid")
	statements := []string{b.String(), t.table.PositionIndex(), t.table.TombstoneIndex()}
	if t.spec.Process {
		statements = append(statements, t.table.DueIndex())
	}
	for n, index := range t.spec.Indexes {
		statements = append(statements, dialect.Index(t.table, n, index))
	}
	for _, sql := range statements {
		if _, err := conn.ExecContext(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// prepare writes the statement that stores one row.
func (t *table) prepare() {
	names, places, sets := "key, seg, pos, gone, data", "?1, ?2, ?3, ?4, ?5", "seg = excluded.seg, pos = excluded.pos, gone = excluded.gone, data = excluded.data"
	for i := range t.spec.Columns {
		c := t.table.Column(i)
		names += ", " + c
		places += ", ?" + strconv.Itoa(i+6)
		sets += ", " + c + " = excluded." + c
	}
	t.upsert = "insert into " + t.table.Name + " (" + names + ") values (" + places + ") on conflict (key) do update set " + sets
}

// changing runs a transaction on a build that must still be there.
func (t *table) changing(ctx context.Context, op string, do func(context.Context) error) error {
	return t.s.change(ctx, op, func(ctx context.Context) error {
		if err := t.present(t.s.db.conn.QueryRowContext(ctx, presentSQL, t.build.ID)); err != nil {
			return err
		}
		return do(ctx)
	})
}

const presentSQL = `select 1 from processor_build where id = ?1`

func (t *table) present(row *sql.Row) error {
	var one int
	if err := row.Scan(&one); errors.Is(err, sql.ErrNoRows) {
		return rows.ErrDropped
	} else if err != nil {
		return err
	}
	return nil
}

// reading runs a transaction that reads one moment of a build that must still be
// there.
func (t *table) reading(ctx context.Context, op string, do func(context.Context, *sql.Tx) error) error {
	return t.s.reading(ctx, op, func(ctx context.Context, tx *sql.Tx) error {
		if err := t.present(tx.QueryRowContext(ctx, presentSQL, t.build.ID)); err != nil {
			return err
		}
		return do(ctx, tx)
	})
}

// reading runs a transaction that reads one moment of the database.
func (s *Store) reading(ctx context.Context, op string, do func(context.Context, *sql.Tx) error) error {
	ctx, done, err := s.useSound(ctx)
	if err != nil {
		return err
	}
	defer done()
	tx, err := s.db.read.BeginTx(ctx, nil)
	if err != nil {
		return s.failed(ctx, op, err)
	}
	defer func() { _ = tx.Rollback() }()
	if err := do(ctx, tx); err != nil {
		if errors.Is(err, rows.ErrDropped) {
			return err
		}
		return s.failed(ctx, op, err)
	}
	return nil
}

func each(ctx context.Context, tx *sql.Tx, st rowsql.Statement, row func(scan func(...any) error) error) error {
	list, err := tx.QueryContext(ctx, st.SQL, st.Args...)
	if err != nil {
		return err
	}
	return scanEach(list, row)
}

func scanEach(list *sql.Rows, row func(scan func(...any) error) error) error {
	defer list.Close()
	for list.Next() {
		if err := row(list.Scan); err != nil {
			return err
		}
	}
	return list.Err()
}

// Checkpoints implements rows.Table.
func (t *table) Checkpoints(ctx context.Context) (list []rows.Checkpoint, err error) {
	err = t.reading(ctx, "read the checkpoints of "+t.spec.Projection, func(ctx context.Context, tx *sql.Tx) error {
		list, err = t.checkpoints(ctx, tx)
		return err
	})
	return list, err
}

// checkpoint is a row of processor_checkpoint as the driver scans it.
type checkpoint struct {
	rows.Checkpoint
	at   int64
	from string
}

func (c *checkpoint) fields() []any {
	return []any{&c.Segment, &c.Position, &c.Key, &c.at, &c.Floor, &c.Mends, &c.Paused, &c.from, &c.Term.Until}
}

func (c *checkpoint) value() (_ rows.Checkpoint, err error) {
	c.At = time.UnixMicro(c.at).UTC()
	c.Term.From, err = rowsql.DecodeOrigin(c.from)
	return c.Checkpoint, err
}

const checkpointsSQL = `select segment, pos, commit_key, at, floor, mends, exists (select 1 from processor_paused where name = ?2), sends_from, sends_until
	from processor_checkpoint where build = ?1 order by segment`

func (t *table) checkpoints(ctx context.Context, tx *sql.Tx) (list []rows.Checkpoint, err error) {
	err = each(ctx, tx, rowsql.Statement{SQL: checkpointsSQL, Args: []any{t.build.ID, t.spec.Projection}}, scanCheckpoints(&list))
	return list, err
}

func scanCheckpoints(list *[]rows.Checkpoint) func(scan func(...any) error) error {
	return func(scan func(...any) error) error {
		var k checkpoint
		if err := scan(k.fields()...); err != nil {
			return err
		}
		c, err := k.value()
		*list = append(*list, c)
		return err
	}
}

// Blocks implements rows.Table.
func (t *table) Blocks(ctx context.Context) (list []rows.Block, err error) {
	err = t.reading(ctx, "read the blocked rows of "+t.spec.Projection, func(ctx context.Context, tx *sql.Tx) error {
		return each(ctx, tx, rowsql.Statement{SQL: blocksSQL, Args: []any{t.build.ID}}, scanBlocks(&list))
	})
	return list, err
}

const blocksSQL = `select key, segment, pos, attempts, error, at, sends_after from processor_blocked where build = ?1 order by pos, key`

func scanBlocks(list *[]rows.Block) func(scan func(...any) error) error {
	return func(scan func(...any) error) error {
		b, err := scanBlock(scan)
		*list = append(*list, b)
		return err
	}
}

// scanBlock scans a block, and further columns after it.
func scanBlock(scan func(...any) error, more ...any) (b rows.Block, err error) {
	var at int64
	var after sql.NullInt64
	err = scan(append([]any{&b.Key, &b.Segment, &b.Position, &b.Attempts, &b.Error, &at, &after}, more...)...)
	b.At = time.UnixMicro(at).UTC()
	b.HandedOver, b.After = after.Valid, eventstore.Position(after.Int64)
	return b, err
}

// Skips implements rows.Table.
func (t *table) Skips(ctx context.Context) (list []rows.Skip, err error) {
	err = t.reading(ctx, "read the skipped events of "+t.spec.Projection, func(ctx context.Context, tx *sql.Tx) error {
		return each(ctx, tx, rowsql.Statement{
			SQL: `select key, segment, pos, at from processor_skipped where build = ?1 order by pos, key`, Args: []any{t.build.ID},
		}, func(scan func(...any) error) error {
			var s rows.Skip
			var at int64
			err := scan(&s.Key, &s.Segment, &s.Position, &at)
			s.At = time.UnixMicro(at).UTC()
			list = append(list, s)
			return err
		})
	})
	return list, err
}

// Load implements rows.Table.
func (t *table) Load(ctx context.Context, keys []string) (list []rows.Row, err error) {
	err = t.reading(ctx, "load rows of "+t.spec.Projection, func(ctx context.Context, tx *sql.Tx) error {
		list, err = t.load(ctx, tx, keys)
		return err
	})
	return list, err
}

func (t *table) load(ctx context.Context, tx *sql.Tx, keys []string) (list []rows.Row, err error) {
	st, err := tx.PrepareContext(ctx, `select seg, pos, data from `+t.table.Name+` where key = ?1 and not gone`)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	for _, key := range keys {
		r := rows.Row{Key: key}
		err := st.QueryRowContext(ctx, key).Scan(&r.Segment, &r.Position, (*[]byte)(&r.Data))
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, nil
}

// Ask implements rows.Table.
func (t *table) Ask(ctx context.Context, q rows.Question) (a rows.Answer, err error) {
	err = t.reading(ctx, "ask for rows of "+t.spec.Projection, func(ctx context.Context, tx *sql.Tx) error {
		a, err = t.ask(ctx, tx, q)
		return err
	})
	return a, err
}

func (t *table) ask(ctx context.Context, tx *sql.Tx, q rows.Question) (a rows.Answer, err error) {
	if a.Checkpoints, err = t.checkpoints(ctx, tx); err != nil {
		return a, err
	}
	if err := tx.QueryRowContext(ctx, `select count(*) from processor_blocked where build = ?1`, t.build.ID).Scan(&a.Blocked); err != nil {
		return a, err
	}
	err = each(ctx, tx, dialect.Ask(t.table, q), func(scan func(...any) error) error {
		var r rows.Row
		err := scan(&r.Key, &r.Segment, &r.Position, (*[]byte)(&r.Data))
		a.Rows = append(a.Rows, r)
		return err
	})
	return a, err
}

// Changes implements rows.Table.
func (t *table) Changes(ctx context.Context, after []eventstore.Position, next rows.Edge, limit int) (c rows.Changed, err error) {
	err = t.reading(ctx, "read changed rows of "+t.spec.Projection, func(ctx context.Context, tx *sql.Tx) error {
		if c.Checkpoints, err = t.checkpoints(ctx, tx); err != nil {
			return err
		}
		return each(ctx, tx, dialect.Changes(t.table, after, next, limit), func(scan func(...any) error) error {
			var r rows.Row
			err := scan(&r.Key, &r.Segment, &r.Position, &r.Gone, (*[]byte)(&r.Data))
			c.Rows = append(c.Rows, r)
			return err
		})
	})
	c.More = len(c.Rows) == limit
	return c, err
}

// purgeStep bounds the number of tombstones that one transaction deletes, so that
// no append waits long.
const purgeStep = 5_000

// Purge implements rows.Table.
func (t *table) Purge(ctx context.Context, upTo eventstore.Position) error {
	for deleted := int64(purgeStep); deleted == purgeStep; {
		err := t.changing(ctx, "purge rows of "+t.spec.Projection, func(ctx context.Context) error {
			conn := t.s.db.conn
			if _, err := conn.ExecContext(ctx, `update processor_checkpoint set floor = max(floor, ?2) where build = ?1`, t.build.ID, stored.Signed(upTo)); err != nil {
				return err
			}
			removed, err := conn.ExecContext(ctx, `delete from `+t.table.Name+` where key in (
				select key from `+t.table.Name+` where gone and pos <= ?1 order by pos limit ?2)`, stored.Signed(upTo), purgeStep)
			if err == nil {
				deleted, err = removed.RowsAffected()
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
