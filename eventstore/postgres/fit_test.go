package postgres_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"net"
	"sync"
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

// TestOtherProductIsRefusedByName opens a log on a server that names itself as another
// product does.
func TestOtherProductIsRefusedByName(t *testing.T) {
	t.Parallel()
	server := startServer(t, postgrestest.Options{})
	conn, err := pgx.Connect(t.Context(), server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var actual string
	if err := conn.QueryRow(t.Context(), `select version()`).Scan(&actual); err != nil {
		t.Fatal(err)
	}
	for product, version := range map[string]string{"CockroachDB": "CockroachDB CCL", "YugabyteDB": "PostgreSQL 15.2-YB-"} {
		addr := startRewriter(t, server.Addr(), nil, map[string]string{actual[:len(version)]: version})
		openIsRefused(t, postgres.Config{URL: server.URLAt(addr, "postgres")}, product, "needs PostgreSQL")
	}
}

// TestServerWhoseAdvisoryLocksDoNothingIsRefused opens a log on a server that names itself
// PostgreSQL, but ignores advisory locks.
func TestServerWhoseAdvisoryLocksDoNothingIsRefused(t *testing.T) {
	t.Parallel()
	server := startServer(t, postgrestest.Options{})
	addr := startRewriter(t, server.Addr(), map[string]string{"pg_advisory_xact_lock(": "num_nulls(            "}, nil)
	openIsRefused(t, postgres.Config{URL: server.URLAt(addr, "postgres")}, "advisory locks do nothing")
	conn, err := pgx.Connect(t.Context(), server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var made bool
	if err := conn.QueryRow(t.Context(), `select exists (select from pg_class where relname = 'commit')`).Scan(&made); err != nil || made {
		t.Errorf("the refused server has a log: %v, %v", made, err)
	}
}

// startRewriter starts a proxy that replaces texts by others of the same length, in what a
// client sends and in what the server answers.
func startRewriter(t *testing.T, target string, sent, answered map[string]string) (addr string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	forward := func(to, from net.Conn, texts map[string]string) {
		defer to.Close()
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			part := buf[:n]
			for old, text := range texts {
				if len(old) != len(text) {
					t.Errorf("%q and %q differ in length", old, text)
				}
				part = bytes.ReplaceAll(part, []byte(old), []byte(text))
			}
			if _, err1 := to.Write(part); err != nil || err1 != nil {
				return
			}
		}
	}
	serving.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			server, err := new(net.Dialer).DialContext(context.Background(), "tcp", target)
			if err != nil {
				client.Close()
				continue
			}
			serving.Go(func() { forward(server, client, sent) })
			serving.Go(func() { forward(client, server, answered) })
		}
	})
	return l.Addr().String()
}
