package postgres

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/ganglion-es/ganglion/eventstore"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schema is what a program makes of a log.
//
// A migration only adds, so that nodes of the program before it go on. Its file
// also inserts the row of compatible that says which programs those are: then
// both are there, or neither.
type schema struct {
	files   fs.FS // its migrations
	version int64 // the newest of them
}

// startsWithin is how long Open waits for a server that says that it is
// starting.
const startsWithin = 30 * time.Second

var current = schema{files: migrations, version: 1}

// migrate brings the schema up to date, or reports that it is newer than this
// program. Nodes that start together wait for each other.
func (s *Store) migrate(ctx context.Context) error {
	inspected := false
	db := stdlib.OpenDB(*s.conns.ConnConfig, stdlib.OptionBeforeConnect(s.limitLogin), stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		if !inspected { // the first connection, before it is changed in any way
			if err := s.inspect(ctx, c); err != nil {
				_ = c.Close(ctx) // database/sql does not
				return err
			}
			inspected = true
		}
		// A migration takes its time; only a lock that an application holds on
		// a table is not waited for, since everybody else would wait behind.
		return s.prepareSession(ctx, c, 5*time.Second, 0)
	}))
	defer db.Close()
	failed := func(op string, err error) error { return s.failed(ctx, op, err) }

	lock, err := s.firstConn(ctx, db)
	if err != nil {
		return failed("open the log", err)
	}
	defer lock.Close()
	// The lock is the transaction's: a pooler hands on a session with what is the
	// session's own.
	tx, err := lock.BeginTx(ctx, nil)
	if err != nil {
		return failed("wait for another node's migration", err)
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, `select set_config('lock_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)`); err != nil {
		return failed("wait for another node's migration", err)
	}
	if _, err := tx.ExecContext(ctx, `select pg_advisory_xact_lock(1195461199, hashtext('migrate ' || $1))`, s.cfg.Schema); err != nil {
		return failed("wait for another node's migration", err)
	}
	if err := s.makeSchema(ctx, db); err != nil {
		return failed("make the schema", err)
	}

	files, err := fs.Sub(s.schema.files, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName("schema_version"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return failed("migrate", err)
	}
	at, err := p.GetDBVersion(ctx)
	if err != nil {
		return failed("read the schema's version", err)
	}
	if at == s.schema.version {
		return nil
	}
	if at < s.schema.version {
		if _, err := p.Up(ctx); err != nil {
			return failed("migrate the schema", err)
		}
		s.cfg.Logger.Info("the log's schema was migrated", "from", at, "to", s.schema.version)
		return nil
	}
	var oldest int64
	err = db.QueryRowContext(ctx, `select oldest from compatible where schema = $1`, at).Scan(&oldest)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return failed("read the schema's version", err)
	}
	if err != nil || oldest > s.schema.version {
		return fmt.Errorf("%w: it has schema %d, this program knows %d: use a newer one",
			eventstore.ErrSchemaTooNew, at, s.schema.version)
	}
	return nil
}

// firstConn opens the first connection. A server that is starting, or recovers
// from a crash, is waited for: machines that start together know no order. What
// does not answer, or refuses for any other reason, may be a wrong address or
// password, and waiting would only hide that.
func (s *Store) firstConn(ctx context.Context, db *sql.DB) (*sql.Conn, error) {
	for began, told := time.Now(), false; ; {
		c, err := db.Conn(ctx)
		var e *pgconn.PgError
		if err == nil || !errors.As(err, &e) || e.Code != codeStarting || time.Since(began) > startsWithin {
			return c, err
		}
		switch {
		case s.cfg.Waiting != nil:
			s.cfg.Waiting(s.failed(ctx, "open the log", err))
		case !told:
			s.cfg.Logger.Warn("waiting for the database to start", "for", startsWithin, "reason", reason(err))
			told = true
		}
		select {
		case <-time.After(startsWithin / 100):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// makeSchema makes the schema if it is missing. It looks first: even "create
// schema if not exists" needs the right to create one.
func (s *Store) makeSchema(ctx context.Context, db *sql.DB) error {
	var exists bool
	err := db.QueryRowContext(ctx, `select exists (select from pg_namespace where nspname = $1)`, s.cfg.Schema).Scan(&exists)
	if err != nil || exists {
		return err
	}
	_, err = db.ExecContext(ctx, `create schema `+pgx.Identifier{s.cfg.Schema}.Sanitize())
	return err
}
