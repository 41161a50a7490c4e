package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// emmett is @event-driven-io/emmett-postgresql in Node, on a database of the same
// server. Its events are in its own table, filled with COPY.
type emmett struct {
	url  string
	dir  string // of emmett.js
	conn *pgx.Conn
}

// emmett returns the rival, whose database it creates once.
func (b *bench) emmett(ctx context.Context) (_ *emmett, err error) {
	if b.rival == nil {
		b.rival, err = openEmmett(ctx, b, b.emmettDir)
	}
	return b.rival, err
}

func openEmmett(ctx context.Context, b *bench, dir string) (*emmett, error) {
	if _, err := b.server.Admin.Exec(ctx, `create database emmett`); err != nil {
		return nil, err
	}
	e := &emmett{url: b.server.URL("emmett"), dir: dir}
	var err error
	if e.conn, err = pgx.Connect(ctx, e.url); err != nil {
		return nil, err
	}
	return e, e.command(ctx, "schema").Run()
}

func (e *emmett) close() { _ = e.conn.Close(context.Background()) }

func (e *emmett) command(ctx context.Context, mode string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "node", filepath.Join(e.dir, "emmett.js"), mode, e.url)
	cmd.Stderr = os.Stderr
	return cmd
}

// fill copies the events of lots into the table of messages, in one transaction
// that is not the newest.
func (e *emmett) fill(ctx context.Context, lots int) error {
	source := pgx.CopyFromSlice(lots*eventsPerLot, func(i int) ([]any, error) {
		lot, n := i%lots, i/lots
		typ, value := nthEvent(lot, n)
		data, err := json.Marshal(value)
		return []any{lotID(lot), int64(n + 1), typ, string(data), fmt.Sprintf("%d-%d", lot, n)}, err
	})
	for _, sql := range []string{
		`create temporary table filling (n bigserial, stream text, version bigint, type text, data text, id text)`, "copy",
		`insert into emt_messages (stream_position, transaction_id, stream_id, partition, message_schema_version, message_id, message_type, message_data, message_metadata)
			select version, pg_current_xact_id(), stream, 'emt:default', '1', id, type, data::jsonb, '{}' from filling order by n`,
		`drop table filling`, `vacuum analyze`,
	} {
		var err error
		if sql == "copy" {
			_, err = e.conn.CopyFrom(ctx, pgx.Identifier{"filling"}, []string{"stream", "version", "type", "data", "id"}, source)
		} else {
			_, err = e.conn.Exec(ctx, sql)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// rebuild measures a rebuild in a mode of emmett.js. The time is the program's
// own, without the start of Node.
func (e *emmett) rebuild(ctx context.Context, mode string, lots int) (time.Duration, error) {
	if _, err := e.conn.Exec(ctx, `drop table if exists emmett_rows; delete from emt_processors; delete from emt_projections`); err != nil {
		return 0, err
	}
	out, err := e.command(ctx, mode).Output()
	if err != nil {
		return 0, fmt.Errorf("emmett, %s: %w", mode, err)
	}
	ms, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	if err != nil {
		return 0, fmt.Errorf("emmett, %s: unexpected output %q", mode, out)
	}
	return time.Duration(ms * float64(time.Millisecond)), e.check(ctx, lots)
}

func (e *emmett) check(ctx context.Context, lots int) error {
	return checkRows(ctx, e.conn, `select count(*), sum((data->>'price')::bigint)::bigint, sum((data->>'bids')::bigint)::bigint from emmett_rows`, lots)
}

// follow starts a process that keeps the rows current. It returns a function that
// ends the process.
func (e *emmett) follow(ctx context.Context) (stop func() error, err error) {
	cmd := e.command(ctx, "follow")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	stop = func() error { in.Close(); return cmd.Wait() }
	if err != nil || line != "ready\n" {
		return nil, fmt.Errorf("emmett did not start: %q, %w", line, stop())
	}
	return stop, nil
}

// caughtUp waits until the process of follow has seen all messages.
func (e *emmett) caughtUp(ctx context.Context, checkpoint func(context.Context) (int64, error)) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		var last int64
		if err := e.conn.QueryRow(ctx, `select coalesce(max(global_position), 0) from emt_messages`).Scan(&last); err != nil {
			return err
		}
		at, err := checkpoint(ctx)
		if err != nil || at >= last {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("emmett has not caught up: it is at %d of %d", at, last)
		}
	}
}
