package postgres

import (
	"context"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// Parameters of the statement that writes a batch; the columns follow.
const fixedParameters = 20

// writeSQL writes the statement that stores a batch: it moves the checkpoint, and
// everything else happens only if that row was there to move. One statement holds
// no lock while the client does anything.
//
// A batch that only moves on does not wait for the disk: rows and checkpoint are
// behind the log's commits in the same write-ahead log, so a crash of the server
// loses the newest batches as a whole, and the fold makes the same rows again.
func (t *rowTable) writeSQL() string {
	names, arrays, sets := "key, seg, pos, gone, data", "$7::text[], $8::bigint[], $9::boolean[], $10::text[]", "seg = excluded.seg, pos = excluded.pos, gone = excluded.gone, data = excluded.data"
	from := "u.key, $2::int, u.pos, u.gone, u.data::json"
	of := "key, pos, gone, data"
	for i, c := range t.spec.Columns {
		column := t.table.Column(i)
		names += ", " + column
		arrays += ", $" + strconv.Itoa(fixedParameters+1+i) + "::" + types[c.Kind] + "[]"
		sets += ", " + column + " = excluded." + column
		from += ", u." + column
		of += ", " + column
	}
	fence, outbox := t.processSQL(fixedParameters + len(t.spec.Columns))
	return `with moved as (
			update processor_checkpoint set pos = $4, commit_key = $5, at = clock_timestamp(), mends = mends + case when $3 = $4 then 1 else 0 end
			where build = $1 and segment = $2 and pos = $3 and mends = $16 and ($3 = $4 or not exists (select from processor_paused where name = $6))` + fence + `
			returning 1
		), wrote as (
			insert into ` + t.table.Name + ` (` + names + `)
			select ` + from + ` from moved, unnest(` + arrays + `) as u (` + of + `)
			on conflict (key) do update set ` + sets + `
		), blocked as (
			insert into processor_blocked (build, key, segment, pos, attempts, error, sends_after)
			select $1, b.key, $2, b.pos, b.attempts, b.error, b.after from moved,
				unnest($11::text[], $12::bigint[], $13::int[], $14::text[], $20::bigint[]) as b (key, pos, attempts, error, after)
			on conflict (build, segment, key) do update
			set pos = excluded.pos, attempts = excluded.attempts, error = excluded.error, at = excluded.at, sends_after = excluded.sends_after
		), unblocked as (
			delete from processor_blocked using moved where build = $1 and segment = $2 and key = any($15::text[])
		), skipped as (
			insert into processor_skipped (build, key, segment, pos)
			select $1, s.key, $2, s.pos from moved, unnest($17::text[], $18::bigint[]) as s (key, pos)
			on conflict do nothing
		)` + outbox + `
		select (select count(*) from moved), exists (select from processor_build where id = $1), exists (select from processor_paused where name = $6),
			set_config('synchronous_commit', case when $19 then current_setting('synchronous_commit') else 'off' end, true)`
}

// Write implements rows.Table.
func (t *rowTable) Write(ctx context.Context, b rows.Batch) error {
	args := t.arguments(b)
	var w written
	err := t.with(ctx, "write rows of "+t.spec.Projection, func(ctx context.Context, c *pgx.Conn) error {
		return w.scan(c.QueryRow(ctx, t.write, args...))
	})
	if err != nil {
		return err
	}
	return w.outcome(b)
}

// Try implements rows.Table. It is one round trip, so a client that stops in it
// holds no lock.
func (t *rowTable) Try(ctx context.Context, b rows.Batch) error {
	args := t.arguments(b)
	var w written
	err := t.with(ctx, "try rows of "+t.spec.Projection, func(ctx context.Context, c *pgx.Conn) error {
		batch := &pgx.Batch{}
		batch.Queue("begin")
		batch.Queue(t.write, args...).QueryRow(w.scan)
		batch.Queue("rollback")
		err := c.SendBatch(ctx, batch).Close()
		if err != nil && c.PgConn().TxStatus() != 'I' && !c.IsClosed() {
			_, _ = c.Exec(ctx, "rollback")
		}
		return err
	})
	if err != nil {
		return err
	}
	return w.outcome(b)
}

// written is what the statement that stores a batch reports.
type written struct {
	moved           int
	present, paused bool
	commit          string // the transaction's synchronous_commit
}

func (w *written) scan(row pgx.Row) error {
	return row.Scan(&w.moved, &w.present, &w.paused, &w.commit)
}

func (w *written) outcome(b rows.Batch) error {
	switch {
	case !w.present:
		return rows.ErrDropped
	case w.moved == 0 && w.paused && b.From != b.To:
		return rows.ErrPaused
	case w.moved == 0:
		return rows.ErrFenced
	}
	return nil
}

// isDecision reports whether a batch has more than what the fold makes again: such
// a batch waits for the disk.
func isDecision(b rows.Batch) bool {
	return b.From == b.To || len(b.Commands) > 0 || len(b.Block)+len(b.Unblock)+len(b.Skip) > 0
}

func (t *rowTable) arguments(b rows.Batch) []any {
	n := len(b.Rows)
	keys, positions, gone, data := make([]string, n), make([]int64, n), make([]bool, n), make([]*string, n)
	for i := range b.Rows {
		r := &b.Rows[i]
		keys[i], positions[i], gone[i] = r.Key, stored.Signed(r.Position), r.Gone
		if !r.Gone {
			data[i] = new(string(r.Data))
		}
	}
	m := len(b.Block)
	blocked, at, attempts, reasons, after := make([]string, m), make([]int64, m), make([]int32, m), make([]string, m), make([]*int64, m)
	for i, block := range b.Block {
		blocked[i], at[i], attempts[i], reasons[i] = block.Key, stored.Signed(block.Position), int32(block.Attempts), block.Error
		if block.HandedOver {
			after[i] = new(stored.Signed(block.After))
		}
	}
	unblock := b.Unblock
	if unblock == nil {
		unblock = []string{}
	}
	skipped, skippedAt := make([]string, len(b.Skip)), make([]int64, len(b.Skip))
	for i, s := range b.Skip {
		skipped[i], skippedAt[i] = s.Key, stored.Signed(s.Position)
	}
	args := []any{
		t.build.ID, b.Segment, stored.Signed(b.From), stored.Signed(b.To), b.Key, t.spec.Projection,
		keys, positions, gone, data, blocked, at, attempts, reasons, unblock,
		b.Mends, skipped, skippedAt, isDecision(b), after,
	}
	for i, c := range t.spec.Columns {
		args = append(args, columnValues(c.Kind, i, b.Rows))
	}
	if t.spec.Process {
		args = append(args, processArguments(b)...)
	}
	return args
}

// columnValues returns the values of one column, absent ones as nil pointers.
func columnValues(kind rows.Kind, i int, list []rows.Row) any {
	switch kind {
	case rows.Bool:
		return valuesOf[bool](i, list)
	case rows.Float:
		return valuesOf[float64](i, list)
	case rows.Text:
		return valuesOf[string](i, list)
	}
	return valuesOf[int64](i, list)
}

func valuesOf[T any](i int, list []rows.Row) []*T {
	values := make([]*T, len(list))
	for n := range list {
		if !list[n].Gone {
			if v, ok := list[n].Values[i].(T); ok {
				values[n] = &v
			}
		}
	}
	return values
}

// Interrupt implements rows.Table.
func (t *rowTable) Interrupt(ctx context.Context, segment int) error {
	return t.with(ctx, "interrupt a segment of "+t.spec.Projection, func(ctx context.Context, c *pgx.Conn) error {
		raised, err := c.Exec(ctx, `update processor_checkpoint set mends = mends + 1 where build = $1 and segment = $2`, t.build.ID, segment)
		if err == nil && raised.RowsAffected() == 0 {
			return rows.ErrDropped
		}
		return err
	})
}
