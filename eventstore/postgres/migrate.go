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
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"github.com/ganglion-es/ganglion/eventstore"
)

// schemaVersion is the newest migration below.
const schemaVersion = 1

//go:embed migrations/*.sql
var migrations embed.FS

// migrate brings the schema up to date, or reports that it is newer than this
// program. Nodes that start together wait for each other.
func (s *Store) migrate(ctx context.Context) error {
	db := stdlib.OpenDB(*s.conns.ConnConfig, stdlib.OptionAfterConnect(func(ctx context.Context, c *pgx.Conn) error {
		// A migration takes its time; only a lock that an application holds on
		// a table is not waited for, since everybody else would wait behind.
		return s.prepareSession(ctx, c, 5*time.Second, 0)
	}))
	defer db.Close()
	failed := func(op string, err error) error { return s.failed(ctx, op, err) }

	lock, err := db.Conn(ctx)
	if err != nil {
		return failed("open the log", err)
	}
	defer lock.Close() // the lock is the session's, and ends with it
	var version int
	if err := lock.QueryRowContext(ctx, `select current_setting('server_version_num')::int`).Scan(&version); err != nil {
		return failed("ask for the server's version", err)
	}
	if version < 140000 {
		return fmt.Errorf("postgres: the server is PostgreSQL %d: version 14 or newer is needed", version/10000)
	}
	if _, err := lock.ExecContext(ctx, `set lock_timeout = 0`); err != nil {
		return failed("wait for another node's migration", err)
	}
	if _, err := lock.ExecContext(ctx, `select pg_advisory_lock(1195461199, hashtext('migrate ' || $1))`, s.cfg.Schema); err != nil {
		return failed("wait for another node's migration", err)
	}
	defer func() {
		_, _ = lock.ExecContext(context.WithoutCancel(ctx), `select pg_advisory_unlock(1195461199, hashtext('migrate ' || $1))`, s.cfg.Schema)
	}()
	if s.cfg.Schema != "" {
		if err := s.makeSchema(ctx, lock); err != nil {
			return failed("make the schema", err)
		}
	}

	files, err := fs.Sub(migrations, "migrations")
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
	if at <= schemaVersion {
		if _, err := p.Up(ctx); err != nil {
			return failed("migrate the schema", err)
		}
		return nil
	}
	var oldest int64
	err = lock.QueryRowContext(ctx, `select oldest from compatible where schema = $1`, at).Scan(&oldest)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return failed("read the schema's version", err)
	}
	if err != nil || oldest > schemaVersion {
		return fmt.Errorf("%w: it has schema %d, this program knows %d: use a newer one",
			eventstore.ErrSchemaTooNew, at, schemaVersion)
	}
	return nil
}

// makeSchema makes the schema if it is missing. It looks first: even «create
// schema if not exists» needs the right to create one.
func (s *Store) makeSchema(ctx context.Context, c *sql.Conn) error {
	var exists bool
	err := c.QueryRowContext(ctx, `select exists (select from pg_namespace where nspname = $1)`, s.cfg.Schema).Scan(&exists)
	if err != nil || exists {
		return err
	}
	_, err = c.ExecContext(ctx, `create schema `+pgx.Identifier{s.cfg.Schema}.Sanitize())
	return err
}
