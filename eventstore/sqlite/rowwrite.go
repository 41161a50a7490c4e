package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/ganglion-es/ganglion/eventstore/internal/rowsql"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// errTried rolls back a transaction that was only tried.
var errTried = errors.New("tried")

// Write implements rows.Table.
func (t *table) Write(ctx context.Context, b rows.Batch) error {
	return t.changing(ctx, "write rows of "+t.spec.Projection, func(ctx context.Context) error { return t.store(ctx, b) })
}

// Try implements rows.Table.
func (t *table) Try(ctx context.Context, b rows.Batch) error {
	err := t.changing(ctx, "try rows of "+t.spec.Projection, func(ctx context.Context) error {
		if err := t.store(ctx, b); err != nil {
			return err
		}
		return errTried
	})
	if errors.Is(err, errTried) {
		return nil
	}
	return err
}

// Interrupt implements rows.Table.
func (t *table) Interrupt(ctx context.Context, segment int) error {
	return t.changing(ctx, "interrupt a segment of "+t.spec.Projection, func(ctx context.Context) error {
		_, err := t.s.db.conn.ExecContext(ctx, `update processor_checkpoint set mends = mends + 1 where build = ?1 and segment = ?2`, t.build.ID, segment)
		return err
	})
}

// store stores a batch, within a transaction.
func (t *table) store(ctx context.Context, b rows.Batch) error {
	now := time.Now().UnixMicro()
	if err := t.move(ctx, b, now); err != nil {
		return err
	}
	if err := t.writeRows(ctx, t.s.db.conn, b.Rows); err != nil {
		return err
	}
	exec := func(sql string, args ...any) error {
		_, err := t.s.db.conn.ExecContext(ctx, sql, args...)
		return err
	}
	for _, block := range b.Block {
		if err := exec(blockSQL, t.build.ID, block.Key, b.Segment, stored.Signed(block.Position), block.Attempts, block.Error, now, sendsAfter(block)); err != nil {
			return err
		}
	}
	for _, key := range b.Unblock {
		if err := exec(`delete from processor_blocked where build = ?1 and segment = ?2 and key = ?3`, t.build.ID, b.Segment, key); err != nil {
			return err
		}
	}
	for _, skip := range b.Skip {
		if err := exec(`insert into processor_skipped (build, key, segment, pos, at) values (?1, ?2, ?3, ?4, ?5) on conflict do nothing`,
			t.build.ID, skip.Key, b.Segment, stored.Signed(skip.Position), now); err != nil {
			return err
		}
	}
	return t.s.db.send(ctx, t.build, b, now)
}

const blockSQL = `insert into processor_blocked (build, key, segment, pos, attempts, error, at, sends_after) values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
	on conflict (build, segment, key) do update
	set pos = excluded.pos, attempts = excluded.attempts, error = excluded.error, at = excluded.at, sends_after = excluded.sends_after`

// sendsAfter returns a position, or nil if the row was not handed over.
func sendsAfter(b rows.Block) any {
	if !b.HandedOver {
		return nil
	}
	return stored.Signed(b.After)
}

// move moves or mends the checkpoint, if it is what the writer has seen.
func (t *table) move(ctx context.Context, b rows.Batch, now int64) error {
	mend := 0
	if b.From == b.To {
		mend = 1
	}
	moved, err := t.s.db.conn.ExecContext(ctx, `update processor_checkpoint set pos = ?4, commit_key = ?5, at = ?6, mends = mends + ?7
		where build = ?1 and segment = ?2 and pos = ?3 and mends = ?8 and (not ?9 or sends_from = ?10 and sends_until = ?11)`,
		t.build.ID, b.Segment, stored.Signed(b.From), stored.Signed(b.To), b.Key, now, mend, b.Mends,
		dialect.Bool(t.spec.Process), rowsql.EncodeOrigin(b.Term.From), stored.Signed(b.Term.Until))
	if err != nil {
		return err
	}
	var paused bool
	if err := t.s.db.conn.QueryRowContext(ctx, `select exists (select 1 from processor_paused where name = ?1)`, t.spec.Projection).Scan(&paused); err != nil {
		return err
	}
	n, err := moved.RowsAffected()
	switch {
	case err != nil:
		return err
	case paused && b.From != b.To:
		return rows.ErrPaused
	case n == 0:
		return rows.ErrFenced
	}
	return nil
}

func (t *table) writeRows(ctx context.Context, conn *sql.Conn, list []rows.Row) error {
	if len(list) == 0 {
		return nil
	}
	upsert, err := conn.PrepareContext(ctx, t.upsert)
	if err != nil {
		return err
	}
	defer upsert.Close()
	args := make([]any, 5+len(t.spec.Columns))
	for _, r := range list {
		args[0], args[1], args[2], args[3], args[4] = r.Key, r.Segment, stored.Signed(r.Position), dialect.Bool(r.Gone), nil
		clear(args[5:])
		if !r.Gone {
			args[4] = string(r.Data)
			for i, v := range r.Values {
				if value, ok := v.(bool); ok {
					v = dialect.Bool(value)
				}
				args[5+i] = v
			}
		}
		if _, err := upsert.ExecContext(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}
