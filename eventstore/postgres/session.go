package postgres

import (
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
	"github.com/ganglion-es/ganglion/eventstore/postgres/internal/driver"
)

// refuseStandby rejects a connection to a standby, whatever target_session_attrs
// the URL has, because a standby that lags would look like a log that went back.
func refuseStandby(ctx context.Context, c *pgconn.PgConn) error {
	standby, err := driver.InRecovery(ctx, c)
	if err != nil {
		return err
	}
	if standby {
		return driver.ErrStandby
	}
	driver.LoggedIn(c)
	return nil
}

// prepareSession registers types with a new connection, and sets its options. lock and
// statement are timeouts of the server; 0 means none.
func (s *Store) prepareSession(ctx context.Context, c *pgx.Conn, lock, statement time.Duration) error {
	driver.RegisterTypes(c.TypeMap())
	_, err := c.Exec(ctx, `select set_config('default_transaction_isolation', 'read committed', false),
		set_config('lock_timeout', $1, false), set_config('statement_timeout', $2, false), set_config('search_path', $3, false)`,
		milliseconds(lock), milliseconds(statement), pgx.Identifier{s.cfg.Schema}.Sanitize())
	return err
}

func milliseconds(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10)
}

// Timeouts that the server applies to reads.
const (
	readLockTimeout      = 5 * time.Second
	readStatementTimeout = 30 * time.Second
)

// prepareReads prepares a connection of the pool, and compares the log behind it
// with the guard's mark. If the log went back, the methods return an error, but
// the pool keeps the connection.
func (s *Store) prepareReads(ctx context.Context, c *pgx.Conn) error {
	if err := s.prepareSession(ctx, c, readLockTimeout, readStatementTimeout); err != nil {
		return err
	}
	mark := s.core.Guard.Mark()
	log, err := look(ctx, c, mark.Newest.Position)
	if err != nil {
		return err
	}
	if !s.core.Guard.Compare(mark, log) {
		s.cfg.Logger.Debug("the log went back", "position", mark.Newest.Position, "head", log.Head.Position)
	}
	if s.cfg.Warm {
		return warmReads(ctx, c)
	}
	return nil
}

// compare compares the log with the guard's mark.
func (s *Store) compare(ctx context.Context, c *pgx.Conn) error {
	mark := s.core.Guard.Mark()
	log, err := look(ctx, c, mark.Newest.Position)
	if err != nil {
		return err
	}
	if !s.core.Guard.Compare(mark, log) {
		return s.core.Guard.Err()
	}
	return nil
}

// micros returns the SQL for a timestamptz in microseconds since 1970.
func micros(column string) string { return `(extract(epoch from ` + column + `) * 1000000)::bigint` }

var lookSQL = `select (select id::text from log),
	c.pos, c.agg_type, c.agg_id, c.version, c.key, ` + micros("c.at") + `,
	h.pos, h.agg_type, h.agg_id, h.version, h.key, ` + micros("h.at") + `
	from (select) one left join commit c on c.pos = $1
	left join (select * from commit order by pos desc limit 1) h on true`

// look reads the log's id, the commit at p and the newest commit.
func look(ctx context.Context, c *pgx.Conn, p eventstore.Position) (guard.Log, error) {
	var (
		log      guard.Log
		at, head guard.Row
	)
	err := c.QueryRow(ctx, lookSQL, int64(p)).
		Scan(append(append([]any{&log.ID}, at.Columns()...), head.Columns()...)...)
	log.AtMark, log.Head = at.Commit(), head.Commit()
	return log, err
}
