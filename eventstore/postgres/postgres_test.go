package postgres_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/storetest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// open opens a store. Unless the test sets ConnectTimeout, it is long enough for a
// busy machine; if the test does, open tries again.
func open(t *testing.T, cfg postgres.Config) *postgres.Store {
	t.Helper()
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, stuckAfter/6)
	for end := time.Now().Add(stuckAfter); ; {
		s, err := postgres.Open(t.Context(), cfg)
		if err == nil {
			return s
		}
		if !errors.Is(err, eventstore.ErrUnavailable) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// appendFirst appends a unit through a store whose Deadline a busy machine may exceed.
func appendFirst(t *testing.T, s *postgres.Store, u eventstore.Unit) {
	t.Helper()
	worksAgain(t, func() error {
		_, err := s.Append(context.Background(), u)
		return sentAgain(err)
	})
}

// exec runs SQL on a new connection.
func exec(t *testing.T, url string, statements ...string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// spoil changes tables without the store, in spite of the trigger and the revoked
// rights.
func spoil(t *testing.T, url string, statements ...string) {
	t.Helper()
	exec(t, url, append([]string{`alter table commit disable trigger user`, `grant all on commit to current_user`}, statements...)...)
}

const killOthers = `select pg_terminate_backend(pid) from pg_stat_activity
	where datname = current_database() and pid <> pg_backend_pid() and application_name = 'ganglion'`

// endOthers is killOthers, and waits until the connections that it found have ended.
var endOthers = strings.Replace(killOthers, "(pid)", "(pid, 60000)", 1)

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Log {
		url := postgrestest.URL(t)
		return storetest.Log{
			Open: func(t *testing.T, committed eventstore.Committed) storetest.Store {
				return open(t, postgres.Config{URL: url, Committed: committed})
			},
			Exec: func(t *testing.T, sql string) { spoil(t, url, sql) },
			Poison: func(t *testing.T) {
				exec(t, url, `alter table commit add constraint poison check (agg_id <> 'poison')`)
			},
			Unconstrain: func(t *testing.T) {
				exec(t, url, `alter table commit drop constraint commit_pos, drop constraint commit_version, drop constraint commit_key`)
			},
			SetBack: func(t *testing.T, to eventstore.Position) {
				// A restored server has no connections.
				spoil(t, url, fmt.Sprintf(`delete from commit where pos > %d`, to), killOthers)
			},
		}
	})
}

func TestTwoSchemasAreTwoLogs(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgrestest.EmptyURL(t)
	odd := open(t, postgres.Config{URL: url, Schema: `Odd "name"`})
	defer odd.Close()
	plain := open(t, postgres.Config{URL: url, Schema: "plain"})
	defer plain.Close()
	if odd.LogID() == plain.LogID() {
		t.Error("two logs have the same id")
	}
	// A session holds the lock of one log. The other log works.
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, `select "Odd ""name""".lock_log()`); err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Append(ctx, unit("a", 0, "k")); err != nil {
		t.Fatal(err)
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if got := logKeys(t, plain) + "|" + logKeys(t, odd); got != "k|" {
		t.Errorf("the logs hold %q", got)
	}
	if _, err := odd.Append(ctx, unit("a", 0, "k")); err != nil {
		t.Error(err)
	}
}

func TestNodesStartingTogetherMakeOneLog(t *testing.T) {
	t.Parallel()
	url := postgrestest.EmptyURL(t)
	var (
		starting sync.WaitGroup
		ids      = make([]string, 4)
	)
	for i := range ids {
		starting.Go(func() {
			s, err := postgres.Open(t.Context(), postgres.Config{URL: url, ConnectTimeout: stuckAfter / 6})
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = s.LogID()
			s.Close()
		})
	}
	starting.Wait()
	for _, id := range ids {
		if id != ids[0] {
			t.Errorf("the nodes see the logs %q", ids)
		}
	}
}

func TestNewerSchemaIsRefusedUnlessCompatible(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	exec(t, url, `insert into schema_version (version_id, is_applied) values (99, true)`)
	_, err := postgres.Open(t.Context(), postgres.Config{URL: url, ConnectTimeout: stuckAfter / 6})
	if !errors.Is(err, eventstore.ErrSchemaTooNew) || !strings.Contains(err.Error(), "99") {
		t.Errorf("got %v, want a schema that is too new", err)
	}
	exec(t, url, `insert into compatible values (99, 1)`)
	s := open(t, postgres.Config{URL: url})
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestCommitsAreNeverChanged(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	s := open(t, postgres.Config{URL: url})
	defer s.Close()
	if _, err := s.Append(t.Context(), unit("a", 0, "k")); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range []string{`update commit set key = 'x'`, `delete from commit`, `truncate commit`} {
		if _, err := conn.Exec(t.Context(), sql); err == nil {
			t.Errorf("%s: succeeded, want a refusal", sql)
		}
	}
	if _, err := conn.Exec(t.Context(), `begin isolation level repeatable read`); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Exec(t.Context(), `select append(null, 0, '', '', 0, '', null, false, false`+strings.Repeat(`, '{}'`, 23)+`)`)
	if err == nil || !strings.Contains(err.Error(), "read committed") {
		t.Errorf("an append under another isolation level: %v, want a refusal", err)
	}
}

func TestLockedLogIsUnavailable(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgrestest.URL(t)
	s := open(t, postgres.Config{URL: url, Deadline: 500 * time.Millisecond})
	defer s.Close()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(ctx, `select lock_log()`); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(ctx, unit("a", 0, "k")); !errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrUnknown) {
		t.Errorf("a locked log: got %v, want unavailable", err)
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	appendFirst(t, s, unit("a", 0, "k"))
}

func TestOutcomesExpire(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgrestest.URL(t)
	s := open(t, postgres.Config{URL: url})
	defer s.Close()
	u := unit("a", 0)
	for i := range 700 { // more than one step
		u.Commands = append(u.Commands, eventstore.Command{Key: fmt.Sprint(i), At: at, Keep: true})
	}
	if _, err := s.Append(ctx, u); err != nil {
		t.Fatal(err)
	}
	exec(t, url, `update outcome set stored = now() - interval '25 hours' where key <> '0'`)
	if _, err := s.Expire(ctx); err != nil { // concurrently with the housekeeping of Open
		t.Fatal(err)
	}
	until(t, url, `(select count(*) from outcome) = 1`)
	var known *eventstore.KnownKeysError
	if _, err := s.Append(ctx, u); !errors.As(err, &known) || len(known.Known) != 1 || known.Known[0].Index != 0 {
		t.Errorf("got %v, want the one key that did not expire", err)
	}
}

func TestConfigReportsEveryProblem(t *testing.T) {
	t.Parallel()
	_, err := postgres.Open(t.Context(), postgres.Config{Deadline: -1, ReadConns: -1})
	for _, want := range []string{"URL is required", "negative", "ReadConns"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want all problems together, with %q", err, want)
		}
	}
	_, err = postgres.Open(t.Context(), postgres.Config{URL: "postgres://ada:s3cret@host:port/db"})
	if err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v, want an error without the password", err)
	}
}

// TestWarmStoreOpensNoMoreConnections compares the connections before and after the first commands.
func TestWarmStoreOpensNoMoreConnections(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	s := openTo(t, postgres.Config{URL: url, Warm: true, ReadConns: 3})
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var open []int32
	pids := `select array_agg(pid order by pid) from pg_stat_activity where datname = current_database() and application_name = 'ganglion'`
	if err := conn.QueryRow(t.Context(), pids).Scan(&open); err != nil || len(open) != 4 {
		t.Fatalf("%d connections are open after Open, want 4: %v", len(open), err)
	}
	var all errgroup.Group
	for i := range 20 {
		all.Go(func() error {
			id := fmt.Sprint(i)
			if _, err := s.Append(t.Context(), unit(id, 0, "k"+id)); err != nil {
				return err
			}
			_, err := s.ReadStream(t.Context(), eventstore.StreamID{Type: "counter", ID: id}, 0, 10)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	var after []int32
	if err := conn.QueryRow(t.Context(), pids).Scan(&after); err != nil || !slices.Equal(open, after) {
		t.Errorf("the connections were %v, and are %v: %v", open, after, err)
	}
}
