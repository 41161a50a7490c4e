package postgres_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
)

func TestFaultServerWarnsAtEveryAppend(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	exec(t, url, `create function warn() returns trigger language plpgsql as $$ begin raise warning 'mind the step'; return null; end $$`,
		`create trigger warn after insert on commit for each statement execute function warn()`)
	var log bytes.Buffer
	s := open(t, postgres.Config{URL: url, Deadline: 4 * time.Second, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for i := range 3 {
		if _, err := s.Append(t.Context(), unit("a", eventstore.Version(i), fmt.Sprint("k", i))); err != nil {
			t.Fatalf("append %d: %v", i, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "mind the step"); n != 1 {
		t.Errorf("%d lines of the log have the warning, want 1: %s", n, log.String())
	}
}

// TestFaultFewTransactionIDsLeft starts a server that warns at every transaction id, and
// counts the ids that appends take.
func TestFaultFewTransactionIDsLeft(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := startServer(t, postgrestest.Options{Settings: map[string]string{"autovacuum_naptime": "1h"}})
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	// The server warns at the last 40 million of the 2^31 ids after the oldest one.
	if err := server.SkipTransactions(ctx, 2019<<20); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(ctx); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(ctx, server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var warned atomic.Int32
	config := conn.Config().Copy()
	config.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) { warned.Add(1) }
	admin, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	id := func() (id int64) {
		t.Helper()
		if err := admin.QueryRow(ctx, `select pg_current_xact_id()::text::bigint`).Scan(&id); err != nil {
			t.Fatal(err)
		}
		return id
	}
	s := openTo(t, postgres.Config{URL: server.URL("postgres"), Deadline: 4 * time.Second})
	const appends = 20
	before := id()
	for i := range appends {
		if _, err := s.Append(ctx, unit("a", eventstore.Version(i), fmt.Sprint("k", i))); err != nil {
			t.Fatalf("append %d: %v", i, err)
		}
	}
	if used := id() - before - 1; used != appends {
		t.Errorf("%d appends took %d transaction ids", appends, used)
	}
	if warned.Load() == 0 {
		t.Error("the server has not warned")
	}
}

// TestFaultLoginsTakeLongerThanTheirLimit makes every login take longer than
// Config.ConnectTimeout, as on a busy server, after a silent host.
func TestFaultLoginsTakeLongerThanTheirLimit(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	silent, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close() // no accept
	server := startServer(t, postgrestest.Options{})
	slow := newSlowLogins(t, server.Addr())
	for name, hosts := range map[string]string{"one host": slow.addr, "behind a silent host": silent.Addr().String() + "," + slow.addr} {
		slow.delay.Store(0)
		schema := strings.ReplaceAll(name, " ", "_")
		s := openTo(t, postgres.Config{
			URL: "postgres://postgres@" + hosts + "/postgres?sslmode=disable", Schema: schema, ConnectTimeout: time.Second, Deadline: time.Minute,
		})
		if _, err := s.Append(ctx, unit("a", 0, "before")); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		slow.delay.Store(int64(1500 * time.Millisecond))
		exec(t, server.URL("postgres"), killOthers)
		worksAgain(t, func() error { _, err := s.Append(ctx, unit("a", 1, "after")); return sentAgain(err) })
		worksAgain(t, func() error { _, err := s.Head(ctx); return err })
	}
}

// slowLogins forwards connections to a server, and delays the server's first
// bytes.
type slowLogins struct {
	addr  string
	delay atomic.Int64
}

func newSlowLogins(t *testing.T, target string) *slowLogins {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &slowLogins{addr: l.Addr().String()}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { p.serve(t, client, target) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		serving.Wait()
	})
	return p
}

func (p *slowLogins) serve(t *testing.T, client net.Conn, target string) {
	defer client.Close()
	server, err := new(net.Dialer).DialContext(context.WithoutCancel(t.Context()), "tcp", target)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, client)
		server.Close()
	}()
	first := make([]byte, 64<<10)
	n, err := server.Read(first)
	if err != nil {
		return
	}
	time.Sleep(time.Duration(p.delay.Load()))
	if _, err := client.Write(first[:n]); err == nil {
		_, _ = io.Copy(client, server)
	}
}

// indexEntries waits until no store is connected, and returns the number of index
// entries of a table that were read since the statistics were reset.
func indexEntries(t *testing.T, url, table string) (n int64) {
	t.Helper()
	until(t, url, noStore)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if err := conn.QueryRow(t.Context(), `select sum(idx_tup_read) from pg_stat_user_indexes where relname = $1`, table).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestKnownKeysAreFoundDespiteWrongStatistics makes the planner assume that every
// stream is short and every key common, and resends keys of a long stream.
func TestKnownKeysAreFoundDespiteWrongStatistics(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgrestest.URL(t)
	exec(t, url,
		`insert into commit (pos, version, at, n, hash, agg_type, agg_id, key, meta, events)
			select i, i, now(), 1, decode(repeat('00', 16), 'hex'), 'counter', 'hot', 'k' || i, '{}', '[{"t":"added","d":{"by":1}}]'
			from generate_series(1, 20000) i`,
		`alter table commit alter agg_id set (n_distinct = -1), alter key set (n_distinct = 1)`,
		`analyze commit`, `select pg_stat_reset()`)
	s := open(t, postgres.Config{URL: url})
	const resent = 20
	for i := range resent {
		var known *eventstore.KnownKeysError
		_, err := s.Append(ctx, unit("hot", 20000, fmt.Sprint("k", 10000+i), fmt.Sprint("new", i)))
		if !errors.As(err, &known) || len(known.Known) != 1 || known.Known[0].Place.Version != eventstore.Version(10000+i) {
			t.Fatalf("a known key: got %v", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if n := indexEntries(t, url, "commit"); n > 20*resent {
		t.Errorf("%d index entries were read for %d known keys", n, resent)
	}
}

// TestExpiredOutcomesDoNotSlowAppends deletes outcomes whose rows an old snapshot keeps.
func TestExpiredOutcomesDoNotSlowAppends(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgrestest.URL(t)
	const expired = 20_000
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	exec(t, url, fmt.Sprintf(`insert into outcome (agg_id, agg_type, key, hash, version, at, stored)
		select 'a', 'counter', 'old' || i, decode(repeat('00', 16), 'hex'), 0, now(), now() - interval '3 days' + i * interval '1 second'
		from generate_series(1, %d) i`, expired), `analyze outcome`)
	if _, err := conn.Exec(ctx, `begin isolation level repeatable read; select from outcome limit 1`); err != nil {
		t.Fatal(err)
	}
	exec(t, url, `select pg_stat_reset()`)
	s := open(t, postgres.Config{URL: url}) // deletes them, unless Expire does
	if _, err := s.Expire(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if n := indexEntries(t, url, "outcome"); n > 6*expired {
		t.Errorf("%d index entries were read to delete %d outcomes", n, expired)
	}

	s = open(t, postgres.Config{URL: url})
	worksAgain(t, func() error { _, err := s.Expire(ctx); return err }) // Open's housekeeping does the same
	exec(t, url, `select pg_stat_reset()`)
	for i := range 50 {
		if _, err := s.Append(ctx, unit("a", eventstore.Version(i), fmt.Sprint("k", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if n := indexEntries(t, url, "outcome"); n > 4*expired {
		t.Errorf("50 appends read %d index entries of outcomes", n)
	}
}
