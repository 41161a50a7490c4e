package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// copyRows is the number of rows per COPY and commit: enough to make the cost
// of its disk flush negligible.
const copyRows = 20_000

// rivals write the same rows into tables with the constraints and indexes of
// the table commit.
type rivals struct {
	server *server
	pos    int64 // position of the last copied row
	conns  []*pgx.Conn
}

// numbered is a rival's table whose positions come from a sequence, as in a
// simple event store.
const numbered = "numbered"

func openRivals(ctx context.Context, s *server, like string, conns int) (*rivals, error) {
	r := &rivals{server: s}
	for _, sql := range []string{
		`create table copied (like ` + like + ` including all)`,
		`create table ` + numbered + ` (like ` + like + ` including all)`,
		`create sequence numbers cache 1 minvalue 5`, // a commit of five events is at position 5 or later
		`alter table ` + numbered + ` alter pos set default nextval('numbers')`,
	} {
		if _, err := s.Admin.Exec(ctx, sql); err != nil {
			return nil, err
		}
	}
	for range conns {
		c, err := pgx.Connect(ctx, s.ConnURL)
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		r.conns = append(r.conns, c)
	}
	return r, nil
}

func (r *rivals) close() error {
	var errs []error
	for _, c := range r.conns {
		errs = append(errs, c.Close(context.Background()))
	}
	return errors.Join(errs...)
}

// copy runs COPY of events as rows on one connection: the most that the server
// can receive from one writer.
func (r *rivals) copy(ctx context.Context, d time.Duration) (sample, error) {
	var (
		s     sample
		start = time.Now()
		in    = &rows{run: runs.Add(1), callers: 512, pos: r.pos}
	)
	for time.Since(start) < d {
		in.left = copyRows
		if _, err := r.conns[0].PgConn().CopyFrom(ctx, in, `copy copied (`+columns+`) from stdin`); err != nil {
			return s, err
		}
		s.events += copyRows
	}
	r.pos = in.pos
	s.elapsed = time.Since(start)
	return s, nil
}

const insertSQL = `insert into ` + numbered + ` (version, at, n, hash, agg_type, agg_id, key, meta, events)
	values ($1, $2, 1, $3, 'counter', $4, $5, $6, $7)`

func insertArgs(c command, event int, key string) []any {
	return []any{c.expected + event + 1, c.at, []byte(key[:16]), c.stream, key, meta, appendEvents(nil, 1)}
}

// autocommit runs a single-row INSERT per event and transaction, as pgbench
// does. Only the indexes check it.
func (r *rivals) autocommit(ctx context.Context, conns int, d time.Duration) (sample, error) {
	run := runs.Add(1)
	return closedLoop(ctx, conns, d, func(ctx context.Context, caller, n int) (int, error) {
		c := nth(run, caller, n, 1)
		_, err := r.conns[caller].Exec(ctx, insertSQL, insertArgs(c, 0, c.key)...)
		return 1, err
	})
}

// naive runs a transaction per command: begin, read the version of the stream,
// insert a row per event, commit.
func (r *rivals) naive(ctx context.Context, conns, events int, d time.Duration) (sample, error) {
	run := runs.Add(1)
	return closedLoop(ctx, conns, d, func(ctx context.Context, caller, n int) (int, error) {
		c := nth(run, caller, n, events)
		err := pgx.BeginFunc(ctx, r.conns[caller], func(tx pgx.Tx) error {
			var version int
			err := tx.QueryRow(ctx, `select coalesce(max(version), 0) from `+numbered+` where agg_id = $1 and agg_type = 'counter'`, c.stream).Scan(&version)
			if err != nil {
				return err
			}
			if version != c.expected {
				return fmt.Errorf("%s is at version %d, expected %d", c.stream, version, c.expected)
			}
			var batch pgx.Batch
			for i := range events {
				key := c.key
				if i > 0 {
					key = uuid7()
				}
				batch.Queue(insertSQL, insertArgs(c, i, key)...)
			}
			return tx.SendBatch(ctx, &batch).Close()
		})
		return events, err
	})
}
