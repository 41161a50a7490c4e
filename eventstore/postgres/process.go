package postgres

import (
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/rowsql"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// processSQL returns what the statement that stores a batch of a process manager has
// besides: the fence of the term, and the part that writes the commands. Its
// parameters follow the first n.
func (t *rowTable) processSQL(n int) (fence, outbox string) {
	if !t.spec.Process {
		return "", ""
	}
	p := func(i int) string { return "$" + strconv.Itoa(n+i) }
	fence = " and sends_from = " + p(1) + " and sends_until = " + p(2)
	outbox = `, sent as (
			insert into process_command (name, build, segment, pos, k, n, sequence, target, command, data, depth)
			select $6, $1, $2, c.pos, c.k, c.n, c.sequence, c.target, c.command, c.data::json, c.depth from moved, unnest(` +
		p(3) + `::bigint[], ` + p(4) + `::int[], ` + p(5) + `::int[], ` + p(6) + `::text[], ` + p(7) + `::text[], ` + p(8) + `::text[], ` + p(9) + `::int[], ` + p(10) + `::text[]) ` +
		`as c (pos, k, n, target, command, data, depth, sequence)
		)`
	return fence, outbox
}

func processArguments(b rows.Batch) []any {
	m := len(b.Commands)
	positions, ks, ns, depths := make([]int64, m), make([]int32, m), make([]int32, m), make([]int32, m)
	targets, names, data, sequences := make([]string, m), make([]string, m), make([]string, m), make([]string, m)
	for i, c := range b.Commands {
		positions[i], ks[i], ns[i], depths[i] = stored.Signed(c.Position), int32(c.K), int32(c.N), int32(c.Depth)
		targets[i], names[i], data[i], sequences[i] = c.Target, c.Name, string(c.Data), c.Sequence
	}
	return []any{rowsql.EncodeOrigin(b.Term.From), stored.Signed(b.Term.Until), positions, ks, ns, targets, names, data, depths, sequences}
}

const commandColumns = "pos, k, n, build, segment, sequence, target, command, data, depth, attempts, error, held, at"

func scanCommand(row pgx.CollectableRow) (c rows.Command, err error) {
	var pos int64
	err = row.Scan(&pos, &c.K, &c.N, &c.Build, &c.Segment, &c.Sequence, &c.Target, &c.Name, &c.Data, &c.Depth, &c.Attempts, &c.Error, &c.Held, &c.At)
	c.Position, c.At = eventstore.Position(pos), c.At.UTC()
	return c, err
}

// Pending implements rows.Outboxes.
func (r *rowStore) Pending(ctx context.Context, process string, build int64, segment int, after rows.CommandID, limit int) (list []rows.Command, err error) {
	var paused bool
	err = r.with(ctx, "read the outbox of "+process, func(ctx context.Context, c *pgx.Conn) error {
		batch := &pgx.Batch{}
		batch.Queue(`select exists (select from processor_paused where name = $1)`, process).QueryRow(func(row pgx.Row) error { return row.Scan(&paused) })
		batch.Queue(`select `+commandColumns+` from process_command
			where name = $1 and build = $2 and segment = $3 and (pos, k, n) > ($4, $5, $6) order by pos, k, n limit $7`,
			process, build, segment, stored.Signed(after.Position), after.K, after.N, limit).Query(collectCommands(&list))
		return c.SendBatch(ctx, batch).Close()
	})
	if err == nil && paused {
		return list, rows.ErrPaused
	}
	return list, err
}

func collectCommands(list *[]rows.Command) func(pgx.Rows) error {
	return func(found pgx.Rows) (err error) {
		*list, err = pgx.CollectRows(found, scanCommand)
		return err
	}
}

// Senders implements rows.Outboxes.
func (r *rowStore) Senders(ctx context.Context, process string) (list []rows.Sender, err error) {
	err = r.with(ctx, "read the outbox of "+process, func(ctx context.Context, c *pgx.Conn) error {
		found, err := c.Query(ctx, `select build, segment, count(*), count(*) filter (where held), (extract(epoch from clock_timestamp() - min(at)) * 1e6)::bigint
			from process_command where name = $1 group by build, segment order by build, segment`, process)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(found, func(row pgx.CollectableRow) (s rows.Sender, err error) {
			var age int64
			err = row.Scan(&s.Build, &s.Segment, &s.Commands, &s.Held, &age)
			s.Age = max(0, time.Duration(age)*time.Microsecond)
			return s, err
		})
		return err
	})
	return list, err
}

// Sent implements rows.Outboxes. It does not wait for the disk: a command that a
// crash brings back is sent again under its key.
func (r *rowStore) Sent(ctx context.Context, process string, done []rows.Sent) error {
	positions, ks, ns, rejected := make([]int64, len(done)), make([]int32, len(done)), make([]int32, len(done)), make([]bool, len(done))
	for i, one := range done {
		positions[i], ks[i], ns[i], rejected[i] = stored.Signed(one.Position), int32(one.K), int32(one.N), one.Rejected
	}
	return r.exec(ctx, "remove commands of "+process, `with done as (
			delete from process_command o using unnest($2::bigint[], $3::int[], $4::int[], $5::boolean[]) as u (pos, k, n, rejected)
			where o.name = $1 and o.pos = u.pos and o.k = u.k and o.n = u.n returning u.rejected
		), counted as (
			insert into process_rejected as r (name, commands, at)
			select $1, count(*), clock_timestamp() from done where rejected having count(*) > 0
			on conflict (name) do update set commands = r.commands + excluded.commands, at = excluded.at
		)
		select set_config('synchronous_commit', 'off', true)`, process, positions, ks, ns, rejected)
}

// Rejected implements rows.Outboxes.
func (r *rowStore) Rejected(ctx context.Context, process string) (commands uint64, last time.Time, err error) {
	err = r.with(ctx, "count the rejected commands of "+process, func(ctx context.Context, c *pgx.Conn) error {
		var at *time.Time
		err := c.QueryRow(ctx, `select coalesce(sum(commands), 0)::bigint, max(at) from process_rejected where name = $1`, process).Scan(&commands, &at)
		if at != nil {
			last = at.UTC()
		}
		return err
	})
	return commands, last, err
}

// Ahead implements rows.Outboxes.
func (r *rowStore) Ahead(ctx context.Context, process string, build int64, limit int) (targets []string, held bool, err error) {
	err = r.with(ctx, "read the outbox of "+process, func(ctx context.Context, c *pgx.Conn) error {
		found, err := c.Query(ctx, rowsql.Ahead("$1", "$2", "$3", "bool_and"), process, build, limit)
		if err != nil {
			return err
		}
		targets, held = nil, true
		var target string
		var waits bool
		_, err = pgx.ForEachRow(found, []any{&target, &waits}, func() error {
			targets, held = append(targets, target), held && waits
			return nil
		})
		return err
	})
	return targets, held, err
}

// Fail implements rows.Outboxes.
func (r *rowStore) Fail(ctx context.Context, process string, id rows.CommandID, attempts int, held bool, reason string) error {
	return r.exec(ctx, "record an attempt of "+process, `update process_command set attempts = $5, held = $6, error = $7
		where name = $1 and pos = $2 and k = $3 and n = $4`, process, stored.Signed(id.Position), id.K, id.N, attempts, held, reason)
}

// Held implements rows.Outboxes.
func (r *rowStore) Held(ctx context.Context, process string, limit int) (list []rows.Command, err error) {
	err = r.with(ctx, "read the held commands of "+process, func(ctx context.Context, c *pgx.Conn) error {
		found, err := c.Query(ctx, `select `+commandColumns+` from process_command where name = $1 and held order by pos, k, n limit $2`, process, limit)
		if err != nil {
			return err
		}
		return collectCommands(&list)(found)
	})
	return list, err
}

// Release implements rows.Outboxes.
func (r *rowStore) Release(ctx context.Context, process string, id rows.CommandID) (bool, error) {
	return r.held(ctx, "release a command of "+process, `update process_command set held = false, attempts = 0, error = ''`, process, id)
}

// Discard implements rows.Outboxes.
func (r *rowStore) Discard(ctx context.Context, process string, id rows.CommandID) (bool, error) {
	return r.held(ctx, "discard a command of "+process, `delete from process_command`, process, id)
}

func (r *rowStore) held(ctx context.Context, op, sql, process string, id rows.CommandID) (was bool, err error) {
	err = r.with(ctx, op, func(ctx context.Context, c *pgx.Conn) error {
		tag, err := c.Exec(ctx, sql+` where name = $1 and pos = $2 and k = $3 and n = $4 and held`, process, stored.Signed(id.Position), id.K, id.N)
		was = tag.RowsAffected() > 0
		return err
	})
	return was, err
}

// Due implements rows.Table. One statement sees one moment.
func (t *rowTable) Due(ctx context.Context, segment int, after rows.Wake, limit int) (d rows.Due, err error) {
	due := t.table.Column(0)
	err = t.with(ctx, "read what is due in "+t.spec.Projection, func(ctx context.Context, c *pgx.Conn) error {
		d = rows.Due{}
		found, err := c.Query(ctx, `with clock as materialized (select (extract(epoch from clock_timestamp()) * 1e6)::bigint as now)
			select clock.now, r.key, r.pos, r.due from clock left join lateral (
				select key, pos, `+due+` as due from `+t.table.Name+` 
				where seg = $1 and (`+due+`, key) > ($2, $3) order by `+due+`, key limit $4) r on true
			order by r.due, r.key`, segment, rowsql.Micros(after.Due), after.Key, limit+1)
		if err != nil {
			return err
		}
		var now int64
		var key *string
		var pos, at *int64
		_, err = pgx.ForEachRow(found, []any{&now, &key, &pos, &at}, func() error {
			d.Now = time.UnixMicro(now).UTC()
			if key != nil {
				rowsql.AddDue(&d, rows.Wake{Key: *key, Position: eventstore.Position(*pos), Due: time.UnixMicro(*at).UTC()}, limit)
			}
			return nil
		})
		return err
	})
	return d, err
}

// Handover implements rows.Outboxes.
func (r *rowStore) Handover(ctx context.Context, from, to int64) error {
	refused := false
	err := r.change(ctx, "hand a build over", func(ctx context.Context, tx pgx.Tx) error {
		refused = false
		parts := map[int64]rowsql.HandoverPart{}
		for _, id := range []int64{min(from, to), max(from, to)} {
			part, err := lockPart(ctx, tx, id)
			if err != nil {
				return err
			}
			parts[id] = part
		}
		origin, blocks, err := rowsql.Handover(parts[from], parts[to])
		if err != nil {
			refused = true
			return nil
		}
		return takeOver(ctx, tx, from, to, origin, blocks)
	})
	if err == nil && refused {
		err = rows.ErrNoHandover
	}
	return err
}

// lockPart reads a build, and locks its checkpoints until the transaction ends. A
// build that was dropped has none.
func lockPart(ctx context.Context, tx pgx.Tx, id int64) (part rowsql.HandoverPart, err error) {
	list, err := tx.Query(ctx, `select `+buildColumns+` from processor_build where id = $1`, id)
	if err != nil {
		return part, err
	}
	builds, err := pgx.CollectRows(list, func(row pgx.CollectableRow) (rows.Build, error) { return scanBuild(row) })
	if err != nil || len(builds) == 0 {
		return part, err
	}
	part.Build = builds[0]
	locked, err := tx.Query(ctx, `select segment, pos, commit_key, at, floor, mends, false, sends_from, sends_until
		from processor_checkpoint where build = $1 order by segment for update`, id)
	if err != nil {
		return part, err
	}
	part.Checkpoints, err = pgx.CollectRows(locked, func(row pgx.CollectableRow) (c rows.Checkpoint, err error) {
		var k checkpoint
		if err = row.Scan(k.fields()...); err != nil {
			return c, err
		}
		return k.value()
	})
	if err != nil {
		return part, err
	}
	blocked, err := tx.Query(ctx, blocksSQL, id)
	if err != nil {
		return part, err
	}
	part.Blocks, err = pgx.CollectRows(blocked, scanBlock)
	return part, err
}

// takeOver ends the term of one build and begins that of another. What the former
// build has blocked, it folds in silence if an operator resumes it there.
func takeOver(ctx context.Context, tx pgx.Tx, from, to int64, origin rows.Origin, blocks []rows.Block) error {
	batch := &pgx.Batch{}
	batch.Queue(`update processor_checkpoint set sends_until = pos where build = $1`, from)
	batch.Queue(`update processor_blocked set sends_after = $2 where build = $1`, from, stored.Signed(rows.Endless))
	batch.Queue(`update processor_checkpoint set sends_from = $2, sends_until = $3 where build = $1`, to, rowsql.EncodeOrigin(origin), stored.Signed(rows.Endless))
	batch.Queue(`update processor_blocked set sends_after = null where build = $1`, to)
	for _, b := range blocks {
		batch.Queue(`insert into processor_blocked (build, key, segment, pos, attempts, error, sends_after) values ($1, $2, $3, $4, $5, $6, $7)
			on conflict (build, segment, key) do update
			set pos = excluded.pos, attempts = excluded.attempts, error = excluded.error, at = excluded.at, sends_after = excluded.sends_after`,
			to, b.Key, b.Segment, stored.Signed(b.Position), b.Attempts, b.Error, stored.Signed(b.After))
	}
	batch.Queue(`update processor_build set state = $2, since = clock_timestamp() where id = $1 and state <> $2`, to, rows.Active)
	return tx.SendBatch(ctx, batch).Close()
}
