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

// schema is what a program makes of a log, and what else it can work with.
type schema struct {
	files   fs.FS // its migrations
	version int64 // the newest of them

	// oldest is the oldest program, by its version, that works with this
	// schema. A migration that only adds leaves it as it is: nodes of both
	// programs may run. One that takes something away raises it, to a version
	// whose program does without; it is refused while older nodes run.
	oldest int64
}

// startsWithin is how long Open waits for a server that says that it is
// starting.
const startsWithin = 30 * time.Second

// goneWithin is how long a server may take to notice that a node has stopped.
const goneWithin = 2 * time.Second

var current = schema{files: migrations, version: 1, oldest: 1}

// inUse names the lock that every connection of a program shares which knows
// the schema up to a version, and that says so to migrations.
func (s *Store) inUse(version int64) string {
	return fmt.Sprintf("schema %d of %s", version, s.cfg.Schema)
}

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

	lock, err := s.firstConn(ctx, db)
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
	if at <= s.schema.version {
		return s.up(ctx, lock, p, at)
	}
	var oldest int64
	err = lock.QueryRowContext(ctx, `select oldest from compatible where schema = $1`, at).Scan(&oldest)
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

// keepOut keeps programs out that know the schema up to a version, until the
// connection is closed, if none runs.
func (s *Store) keepOut(ctx context.Context, lock *sql.Conn, version int64) (free bool, err error) {
	// A server takes a moment to notice that a client has gone. Waiting in line
	// for the lock would shut out running nodes that connect again.
	for deadline := time.Now().Add(goneWithin); ; time.Sleep(goneWithin / 20) {
		err = lock.QueryRowContext(ctx, `select pg_try_advisory_lock(1195461199, hashtext($1))`, s.inUse(version)).Scan(&free)
		if free || err != nil || time.Now().After(deadline) {
			return free, err
		}
	}
}

// up migrates from a version, while nodes of older programs run if those work
// with what comes out.
func (s *Store) up(ctx context.Context, lock *sql.Conn, p *goose.Provider, from int64) error {
	if from == s.schema.version {
		return nil
	}
	for v := int64(1); from > 0 && v < s.schema.oldest; v++ { // a new log has no nodes yet
		free, err := s.keepOut(ctx, lock, v)
		if err != nil {
			return s.failed(ctx, "look for older nodes", err)
		}
		if !free {
			return fmt.Errorf("%w: schema %d takes away what nodes that know only schema %d use, and some run: stop them first; nothing was changed",
				eventstore.ErrSchemaInUse, s.schema.version, v)
		}
	}
	if _, err := p.Up(ctx); err != nil {
		return s.failed(ctx, "migrate the schema", err)
	}
	_, err := lock.ExecContext(ctx, `insert into compatible values ($1, $2) on conflict do nothing`, s.schema.version, s.schema.oldest)
	if err != nil {
		return s.failed(ctx, "say which programs may use the schema", err)
	}
	s.cfg.Logger.Info("the log's schema was migrated", "from", from, "to", s.schema.version, "oldest program", s.schema.oldest)
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
