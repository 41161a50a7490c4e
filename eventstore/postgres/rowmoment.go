package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// Read implements rows.Reader. ctx alone bounds it, besides the server's
// timeout of a statement.
func (r *rowStore) Read(ctx context.Context, do func(rows.Moment) error) error {
	if err := r.s.core.Guard.Err(); err != nil {
		return err
	}
	pool, err := r.asks.connections(r.s)
	if err != nil {
		return err
	}
	var ours error
	err = r.s.lend(ctx, pool, "read rows", func(c *pgx.Conn) error {
		tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
		if err != nil {
			return err
		}
		// A rollback that fails closes the connection, and the pool drops it.
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		ours = do(&moment{r: r, tx: tx})
		return nil
	})
	return errors.Join(err, ours)
}

// moment implements rows.Moment.
type moment struct {
	r    *rowStore
	tx   pgx.Tx
	away bool // the search_path is that of a build, not of the log
}

// Tx returns the transaction, which finds the tables of a build that writes with
// SQL.
func (m *moment) Tx(ctx context.Context, t rows.Table) (pgx.Tx, error) {
	table, err := m.table(t)
	if err != nil {
		return nil, err
	}
	m.away = true
	if err := table.searchSchema(ctx, m.tx); err != nil {
		return nil, m.r.s.failed(ctx, "read "+table.spec.Projection, err)
	}
	return m.tx, nil
}

// Load implements rows.Moment.
func (m *moment) Load(ctx context.Context, t rows.Table, keys []string) (list []rows.Row, err error) {
	table, err := m.table(t)
	if err != nil {
		return nil, err
	}
	b := &pgx.Batch{}
	b.Queue(`select key, seg, pos, data from `+table.table.Name+` where key = any($1::text[]) and not gone`, append([]string{}, keys...)).Query(collect(&list))
	return list, m.send(ctx, b, "load rows of "+table.spec.Projection)
}

// Ask implements rows.Moment.
func (m *moment) Ask(ctx context.Context, t rows.Table, q rows.Question) (a rows.Answer, err error) {
	table, err := m.table(t)
	if err != nil {
		return a, err
	}
	b := &pgx.Batch{}
	table.queueCheckpoints(b, &a.Checkpoints)
	b.Queue(`select count(*) from processor_blocked where build = $1`, table.build.ID).QueryRow(func(row pgx.Row) error { return row.Scan(&a.Blocked) })
	ask := dialect.Ask(table.table, q)
	b.Queue(ask.SQL, ask.Args...).Query(collect(&a.Rows))
	err = m.send(ctx, b, "ask for rows of "+table.spec.Projection)
	if err == nil && len(a.Checkpoints) == 0 {
		err = rows.ErrDropped
	}
	return a, err
}

func (m *moment) table(t rows.Table) (*rowTable, error) {
	table, ok := t.(*rowTable)
	if !ok || table.r != m.r {
		return nil, errors.New("postgres: the table belongs to another store")
	}
	return table, nil
}

func (m *moment) send(ctx context.Context, b *pgx.Batch, op string) error {
	var err error
	if m.away {
		_, err = m.tx.Exec(ctx, `select set_config('search_path', $1, true)`, pgx.Identifier{m.r.s.cfg.Schema}.Sanitize())
		m.away = err != nil
	}
	if err == nil {
		err = m.tx.SendBatch(ctx, b).Close()
	}
	var e *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e) && e.Code == "42P01": // undefined_table
		return rows.ErrDropped
	}
	return m.r.s.failed(ctx, op, err)
}
