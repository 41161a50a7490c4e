package postgres_test

import (
	"cmp"
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
)

// openIsRefused checks that Open fails with an error that names the remedy and is
// not ErrUnavailable.
func openIsRefused(t *testing.T, cfg postgres.Config, says ...string) {
	t.Helper()
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, stuckAfter/6)
	s, err := postgres.Open(t.Context(), cfg)
	switch {
	case err == nil:
		s.Close()
		t.Errorf("opened, want an error with %q", says)
	case errors.Is(err, eventstore.ErrUnavailable):
		t.Errorf("got %v, want an error that is not ErrUnavailable, because waiting does not help", err)
	default:
		safeText(t, "open", err, says...)
	}
}

func TestDatabaseOfAnotherEncodingIsRefused(t *testing.T) {
	t.Parallel()
	server := startServer(t, postgrestest.Options{})
	for _, encoding := range []string{"LATIN1", "SQL_ASCII"} {
		exec(t, server.URL("postgres"), `create database "`+encoding+`" encoding '`+encoding+`' template template0`)
		openIsRefused(t, postgres.Config{URL: server.URL(encoding)}, encoding, "encoding 'UTF8' template template0")
	}
}

func TestTransactionPoolerIsRefusedAndLeftClean(t *testing.T) {
	t.Parallel()
	server := startServer(t, postgrestest.Options{})
	for _, size := range []string{"1", "20"} {
		pooler := startPooler(t, server, map[string]string{"pool_mode": "transaction", "default_pool_size": size})
		openIsRefused(t, postgres.Config{URL: server.URLAt(pooler, "postgres")}, "pool_mode = session")
		cleanSession(t, server.URLAt(pooler, "postgres"))
	}
}

func TestSessionPoolerServesAndIsLeftClean(t *testing.T) {
	t.Parallel()
	server := startServer(t, postgrestest.Options{})
	pooler := startPooler(t, server, map[string]string{"pool_mode": "session"})
	s := open(t, postgres.Config{URL: server.URLAt(pooler, "postgres")})
	if _, err := s.Append(t.Context(), unit("a", 0, "k")); err != nil {
		t.Error(err)
	}
	if got := logKeys(t, s); got != "k" {
		t.Errorf("the log holds %q", got)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	until(t, server.URL("postgres"), `not exists (select from pg_stat_activity where application_name = 'ganglion' and state <> 'idle')`)
	cleanSession(t, server.URLAt(pooler, "postgres"))
}

// cleanSession checks that the next client of a pooler gets a session like a new one.
func cleanSession(t *testing.T, url string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var settings []string
	var locks int
	if err := conn.QueryRow(t.Context(), `select (select array_agg(name || ' = ' || setting) from pg_settings where source = 'session'
			and name not in ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings')),
		(select count(*) from pg_locks where locktype = 'advisory')`, pgx.QueryExecModeExec).Scan(&settings, &locks); err != nil {
		t.Fatal(err)
	}
	if len(settings) > 0 || locks > 0 {
		t.Errorf("the settings %q and %d locks were left", settings, locks)
	}
}

func startPooler(t *testing.T, server *postgrestest.Server, settings map[string]string) (addr string) {
	t.Helper()
	pooler, err := postgrestest.StartPooler(t.Context(), server, settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := pooler.Close(); err != nil {
			t.Error(err)
		}
	})
	return pooler.Addr()
}
