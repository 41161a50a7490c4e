package sqlite

import (
	"context"
	"database/sql"
	"errors"

	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// Read implements rows.Reader.
func (r rowStore) Read(ctx context.Context, do func(rows.Moment) error) error {
	uncancelled, done, err := r.s.useSound(ctx)
	if err != nil {
		return err
	}
	defer done()
	tx, err := r.s.db.read.BeginTx(uncancelled, nil)
	if err != nil {
		return r.s.failed(uncancelled, "read rows", err)
	}
	defer func() { _ = tx.Rollback() }()
	return do(moment{r.s, tx})
}

// moment implements rows.Moment.
type moment struct {
	s  *Store
	tx *sql.Tx
}

// Load implements rows.Moment.
func (m moment) Load(ctx context.Context, t rows.Table, keys []string) (list []rows.Row, err error) {
	err = m.read(ctx, t, "load rows", func(ctx context.Context, t *table) error {
		list, err = t.load(ctx, m.tx, keys)
		return err
	})
	return list, err
}

// Ask implements rows.Moment.
func (m moment) Ask(ctx context.Context, t rows.Table, q rows.Question) (a rows.Answer, err error) {
	err = m.read(ctx, t, "ask for rows", func(ctx context.Context, t *table) error {
		a, err = t.ask(ctx, m.tx, q)
		return err
	})
	return a, err
}

func (m moment) read(ctx context.Context, t rows.Table, op string, do func(context.Context, *table) error) error {
	ours, ok := t.(*table)
	if !ok || ours.s != m.s {
		return errors.New("sqlite: the table belongs to another store")
	}
	if ctx.Err() != nil {
		return m.s.failed(ctx, op, ctx.Err())
	}
	ctx = context.WithoutCancel(ctx)
	if err := ours.present(m.tx.QueryRowContext(ctx, presentSQL, ours.build.ID)); errors.Is(err, rows.ErrDropped) {
		return err
	} else if err != nil {
		return m.s.failed(ctx, op, err)
	}
	if err := do(ctx, ours); err != nil {
		return m.s.failed(ctx, op, err)
	}
	return nil
}
