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

// schema is a version of the schema to which a program migrates a log.
//
// A migration only adds, so that nodes which run the earlier program continue.
// The same file inserts a row into the table compatible: it names the oldest
// program that works with the schema. A crash cannot separate the migration from
// its row.
type schema struct {
	files   fs.FS // the migrations
	version int64 // the newest one
}

// startsWithin bounds how long Open waits for a server that is starting.
const startsWithin = 30 * time.Second

var current = schema{files: migrations, version: 7}

// migrate brings the schema up to date, or reports that it is newer than this
// program. Nodes that start together wait for each other.
func (s *Store) migrate(ctx context.Context, conn *pgx.ConnConfig, want schema) error {
	inspected := false
	db := stdlib.OpenDB(*conn, stdlib.OptionBeforeConnect(s.dialer.BeforeConnect), stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		if !inspected { // on the first connection, before its session changes
			if err := s.inspect(ctx, c); err != nil {
				_ = c.Close(ctx) // database/sql does not
				return err
			}
			inspected = true
		}
		// A migration may take long, but it waits only readLockTimeout for
		// another session's lock on a table, since all other sessions would wait
		// behind it.
		return s.prepareSession(ctx, c, readLockTimeout, 0)
	}))
	defer db.Close()
	first, err := s.firstConn(ctx, db)
	if err != nil {
		return s.failed(ctx, "open the log", err)
	}
	defer first.Close()
	unlock, err := s.lockMigrations(ctx, first)
	if err != nil {
		return s.failed(ctx, "wait for another node's migration", err)
	}
	defer unlock()
	if err := s.makeSchema(ctx, db); err != nil {
		return s.failed(ctx, "make the schema", err)
	}
	return s.migrateTo(ctx, db, want)
}

// lockMigrations takes the lock that keeps nodes from migrating concurrently. The
// transaction holds the lock, because a pooler hands the locks of a session on to
// its next client.
func (s *Store) lockMigrations(ctx context.Context, c *sql.Conn) (unlock func(), err error) {
	tx, err := c.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	unlock = func() { _ = tx.Rollback() }
	_, err = tx.ExecContext(ctx, `select set_config('lock_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)`)
	if err == nil {
		_, err = tx.ExecContext(ctx, `select pg_advisory_xact_lock(1195461199, hashtext('migrate ' || $1))`, s.cfg.Schema)
	}
	if err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

func (s *Store) migrateTo(ctx context.Context, db *sql.DB, want schema) error {
	files, err := fs.Sub(want.files, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName("schema_version"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return s.failed(ctx, "migrate", err)
	}
	at, err := p.GetDBVersion(ctx)
	if err != nil {
		return s.failed(ctx, "read the schema's version", err)
	}
	switch {
	case at < want.version:
		if _, err := p.Up(ctx); err != nil {
			return s.failed(ctx, "migrate the schema", err)
		}
		s.cfg.Logger.Info("the log's schema was migrated", "from", at, "to", want.version)
	case at > want.version:
		var oldest int64
		err := db.QueryRowContext(ctx, `select oldest from compatible where schema = $1`, at).Scan(&oldest)
		if err != nil && !errors.Is(err, sql.ErrNoRows) {
			return s.failed(ctx, "read the schema's version", err)
		}
		if err != nil || oldest > want.version {
			return fmt.Errorf("%w: the log has schema %d, this program knows %d: use a newer program",
				eventstore.ErrSchemaTooNew, at, want.version)
		}
	}
	return nil
}

// firstConn opens the first connection. It waits for a server that is starting or
// recovering from a crash, because machines that start together start in any
// order. It does not wait for a server that does not answer or that refuses the
// connection for another reason, because the address or the password may be
// wrong.
func (s *Store) firstConn(ctx context.Context, db *sql.DB) (*sql.Conn, error) {
	for began, logged := time.Now(), false; ; {
		c, err := db.Conn(ctx)
		var e *pgconn.PgError
		if err == nil || !errors.As(err, &e) || e.Code != codeStarting || time.Since(began) > startsWithin {
			return c, err
		}
		switch {
		case s.cfg.Waiting != nil:
			s.cfg.Waiting(s.failed(ctx, "open the log", err))
		case !logged:
			s.cfg.Logger.Warn("waiting for the database to start", "for", startsWithin, "reason", reason(err))
			logged = true
		}
		select {
		case <-time.After(startsWithin / 100):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// makeSchema creates the schema if it is missing. It looks first, because even
// "create schema if not exists" needs the right to create one.
func (s *Store) makeSchema(ctx context.Context, db *sql.DB) error {
	var exists bool
	err := db.QueryRowContext(ctx, `select exists (select from pg_namespace where nspname = $1)`, s.cfg.Schema).Scan(&exists)
	if err != nil || exists {
		return err
	}
	_, err = db.ExecContext(ctx, `create schema `+pgx.Identifier{s.cfg.Schema}.Sanitize())
	return err
}
