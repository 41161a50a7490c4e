package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
)

func TestFaultServerCrashes(t *testing.T) {
	t.Parallel()
	server := startServer(t, postgrestest.Options{})
	url := server.URL("postgres")
	var lists [2]announcements
	stores := make([]*postgres.Store, len(lists))
	for i := range stores {
		stores[i] = openTo(t, postgres.Config{URL: url, Committed: lists[i].committed, Deadline: 2 * time.Second})
	}
	l := startLoad(t, 16, stores...)
	for range rounds(4, 40) {
		l.more(100)
		crashAndStart(t, server)
	}
	l.more(100)
	l.end()
	l.check(url, &lists[0], &lists[1])
	t.Logf("%d commands were acknowledged, %d times without an outcome", l.count(), l.unknown)
}

func TestFaultBackendsEnded(t *testing.T) {
	t.Parallel()
	server := startServer(t, postgrestest.Options{})
	url := server.URL("postgres")
	var list announcements
	s := openTo(t, postgres.Config{URL: url, Committed: list.committed, Deadline: 2 * time.Second})
	admin, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	l := startLoad(t, 16, s, openTo(t, postgres.Config{URL: url}))
	for i := range rounds(60, 1000) {
		l.more(4) // right after a result the next batch is in flight
		function := []string{"pg_terminate_backend", "pg_cancel_backend"}[i%2]
		_, err := admin.Exec(t.Context(), strings.Replace(killOthers, "pg_terminate_backend", function, 1))
		if err != nil {
			t.Fatal(err)
		}
	}
	l.more(100)
	l.end()
	l.check(url, &list)
}

func TestFaultConnectionLimit(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := startServer(t, postgrestest.Options{Settings: map[string]string{"max_connections": "20", "superuser_reserved_connections": "0", "max_wal_senders": "0"}})
	url := server.URL("postgres")
	s := openTo(t, postgres.Config{URL: url})
	if _, err := s.Append(ctx, unit("a", 0, "before")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Head(ctx); err != nil {
		t.Fatal(err)
	}
	var hogs []*pgx.Conn
	occupy := func() {
		t.Helper()
		for {
			c, err := pgx.Connect(ctx, url)
			if e := new(pgconn.PgError); errors.As(err, &e) && e.Code == "53300" {
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			hogs = append(hogs, c)
		}
	}
	occupy()
	// The open connections work while the server refuses more.
	answers := make(chan error)
	for range 20 {
		go func() { _, err := s.Head(ctx); answers <- err }()
	}
	for range 20 {
		if err := <-answers; err != nil {
			wantUnavailable(t, "one read of many", err, "max_connections")
		}
	}
	worksAgain(t, func() error { _, err := s.Head(ctx); return err }) // the deletion of old outcomes may still use the connection
	if _, err := s.Append(ctx, unit("a", 1, "meanwhile")); err != nil {
		t.Errorf("an append on the open connection: %v", err)
	}

	// A store deletes old outcomes when it opens, so it may connect again before the others occupy the server.
	for connected := true; connected; {
		if _, err := hogs[0].Exec(ctx, endOthers); err != nil {
			t.Fatal(err)
		}
		occupy()
		if err := hogs[0].QueryRow(ctx, `select not `+noStore).Scan(&connected); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.Append(ctx, unit("a", 2, "refused"))
	wantUnavailable(t, "append", err, "max_connections")
	_, err = s.Head(ctx)
	wantUnavailable(t, "read", err, "max_connections")
	_, err = postgres.Open(ctx, postgres.Config{URL: url})
	wantUnavailable(t, "open", err, "max_connections")

	for _, c := range hogs {
		if err := c.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
	worksAgain(t, func() error { _, err := s.Append(ctx, unit("a", 2, "refused")); return err })
	if got := logKeys(t, s); got != "before meanwhile refused" {
		t.Errorf("the log holds %q", got)
	}
}

// worksAgain checks that do succeeds soon after ErrUnavailable. A server needs a moment
// to notice that clients have left.
func worksAgain(t *testing.T, do func() error) {
	t.Helper()
	end := time.Now().Add(stuckAfter)
	for {
		err := do()
		if err == nil {
			return
		}
		if !errors.Is(err, eventstore.ErrUnavailable) || time.Now().After(end) {
			t.Fatalf("the cause is gone, but the call still fails: %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// sentAgain makes worksAgain send an append until its outcome is known.
func sentAgain(err error) error {
	switch {
	case errors.Is(err, eventstore.ErrKnownKeys):
		return nil
	case errors.Is(err, eventstore.ErrUnknown):
		return fmt.Errorf("%w: %w", eventstore.ErrUnavailable, err)
	}
	return err
}

func TestFaultReadOnlyServer(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := startServer(t, postgrestest.Options{})
	url := server.URL("postgres")
	s := openTo(t, postgres.Config{URL: url})
	appendAt := func(v int) error {
		_, err := s.Append(ctx, unit("a", eventstore.Version(v), fmt.Sprint("k", v)))
		return err
	}
	if err := appendAt(0); err != nil {
		t.Fatal(err)
	}
	exec(t, url, `alter system set default_transaction_read_only = on`, `select pg_reload_conf()`)
	v := 1
	for ; v < 1000; v++ { // the backends read the new setting after a moment
		if err := appendAt(v); err != nil {
			wantUnavailable(t, "append", err, "read-only")
			break
		}
	}
	if _, err := s.Read(ctx, 0, 1); err != nil {
		t.Errorf("stored commits cannot be read: %v", err)
	}
	wantUnavailable(t, "save a snapshot", s.SaveSnapshot(ctx, eventstore.Snapshot{
		Stream: eventstore.StreamID{Type: "counter", ID: "a"}, Version: 1, Position: 1, At: at, Fingerprint: "f", State: []byte(`1`),
	}), "read-only")
	exec(t, url, `set default_transaction_read_only = off`, `alter system reset default_transaction_read_only`, `select pg_reload_conf()`)
	worksAgain(t, func() error { return appendAt(v) })
	if head, err := s.Head(ctx); err != nil || head != eventstore.Position(v+1) {
		t.Errorf("the head is %d, %v; want %d", head, err, v+1)
	}
}

func TestFaultMissingRightsAreNamed(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server := startServer(t, postgrestest.Options{})
	admin := server.URL("postgres")
	owner := openTo(t, postgres.Config{URL: admin, Schema: "log"})
	exec(t, admin, `create role app login`, `create role stranger login`, `create database empty`)
	as := func(role, database string) string {
		return strings.Replace(server.URL(database), "postgres@", role+"@", 1)
	}
	_, err := postgres.Open(ctx, postgres.Config{URL: as("stranger", "postgres"), Schema: "log"})
	wantUnavailable(t, "open another role's log", err, "grant", "docs/postgresql.md")
	_, err = postgres.Open(ctx, postgres.Config{URL: as("stranger", "empty"), Schema: "log"})
	wantUnavailable(t, "make a log", err, "grant", "docs/postgresql.md")
	_, err = postgres.Open(ctx, postgres.Config{URL: as("stranger", "postgres")})
	wantUnavailable(t, "open as stranger", err, "role")
	if !errors.Is(err, eventstore.ErrMisconfigured) {
		t.Errorf("a missing role is not ErrMisconfigured: %v", err)
	}
	_, err = postgres.Open(ctx, postgres.Config{URL: as("app", "missing")})
	wantUnavailable(t, "open a missing database", err, "create the database")
	if !errors.Is(err, eventstore.ErrMisconfigured) {
		t.Errorf("a missing database is not ErrMisconfigured: %v", err)
	}

	// These are the rights that docs/postgresql.md lists.
	exec(t, admin,
		`grant usage on schema log to app`,
		`grant select on all tables in schema log to app`,
		`grant insert on log.commit to app`,
		`grant insert, delete, update on log.outcome to app`,
		`grant insert, update, delete on log.snapshot to app`,
		`grant update on log.log to app`)
	s := openTo(t, postgres.Config{URL: as("app", "postgres"), Schema: "log"})
	u := unit("a", 0, "k")
	u.Commands = append(u.Commands, eventstore.Command{Key: "kept", At: at, Keep: true})
	if _, err := s.Append(ctx, u); err != nil {
		t.Fatal(err)
	}
	snapshot := eventstore.Snapshot{Stream: u.Stream, Version: 1, Position: 1, At: at, Fingerprint: "f", State: []byte(`1`)}
	if err := errors.Join(s.SaveSnapshot(ctx, snapshot), s.SaveSnapshot(ctx, snapshot), s.Check(ctx)); err != nil {
		t.Error(err)
	}
	if _, err := s.Expire(ctx); err != nil {
		t.Error(err)
	}
	if _, err := s.AcceptLoss(ctx); err != nil {
		t.Error(err)
	}

	for right, lacks := range map[string]func() error{
		"insert on log.commit":  func() error { _, err := s.Append(ctx, unit("b", 0, "b")); return err },
		"select on log.commit":  func() error { _, err := s.Read(ctx, 0, 1); return err },
		"update on log.outcome": func() error { _, err := s.Expire(ctx); return err },
		"insert on log.outcome": func() error {
			_, err := s.Append(ctx, eventstore.Unit{
				Stream:   eventstore.StreamID{Type: "counter", ID: "c"},
				Commands: []eventstore.Command{{Key: "c", At: at, Keep: true}},
			})
			return err
		},
	} {
		exec(t, admin, `revoke `+right+` from app`)
		wantUnavailable(t, "without "+right, lacks(), "grant", "docs/postgresql.md")
		exec(t, admin, `grant `+right+` to app`)
		if err := lacks(); err != nil {
			t.Errorf("%s was granted again: %v", right, err)
		}
	}
	if got := logKeys(t, owner); got != "k b" {
		t.Errorf("the log holds %q", got)
	}
}

func TestFaultNewerSchemaStopsAppends(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgrestest.URL(t)
	s := openTo(t, postgres.Config{URL: url})
	if _, err := s.Append(ctx, unit("a", 0, "before")); err != nil {
		t.Fatal(err)
	}
	// A newer node migrates the log to a schema that the running node cannot use.
	exec(t, url, `insert into schema_version (version_id, is_applied) values (99, true)`,
		`alter function append rename to append_99`, endOthers)
	_, err := s.Append(ctx, unit("a", 1, "meanwhile"))
	wantUnavailable(t, "append", err, "schema")
	_, err = postgres.Open(ctx, postgres.Config{URL: url})
	if !errors.Is(err, eventstore.ErrSchemaTooNew) {
		t.Errorf("open: %v, want a schema that is too new", err)
	} else {
		safeText(t, "open", err, "99", "use a newer")
	}
	// The migration is undone.
	exec(t, url, `delete from schema_version where version_id = 99`, `alter function append_99 rename to append`)
	worksAgain(t, func() error { _, err := s.Append(ctx, unit("a", 1, "meanwhile")); return err })
	if got := logKeys(t, s); got != "before meanwhile" {
		t.Errorf("the log holds %q", got)
	}
}

// The order of commits depends on no clock, and deadlines use the monotonic
// clock. Two clocks remain: those of the hosts, which stamp commits, and that of
// the server, by which outcomes expire.
func TestFaultClocksJumpWithoutEffect(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	url := postgrestest.URL(t)
	s := openTo(t, postgres.Config{URL: url})
	var want []string
	for i, clock := range []time.Time{
		at, at.AddDate(70, 0, 0), at.AddDate(-56, 0, 0), time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC),
		time.Date(9999, 12, 31, 23, 59, 59, 999999000, time.UTC), at,
	} {
		key := fmt.Sprint("k", i)
		u := unit("a", eventstore.Version(i), key)
		u.Commands[0].At = clock
		a, err := s.Append(ctx, u)
		if err != nil {
			t.Fatalf("at %s: %v", clock, err)
		}
		if want := (eventstore.Place{Version: eventstore.Version(i + 1), Position: eventstore.Position(i + 1)}); a.Commands[0] != want {
			t.Errorf("at %s: placed at %v, want %v", clock, a.Commands[0], want)
		}
		page, err := s.Read(ctx, eventstore.Position(i), 1)
		if err != nil || len(page) != 1 || !page[0].At.Equal(clock) {
			t.Errorf("read %v, %v; want the commit of %s", page, err, clock)
		}
		want = append(want, key)
	}
	if got := logKeys(t, s); got != strings.Join(want, " ") {
		t.Errorf("the log holds %q", got)
	}
	// Another node with another clock resends a key.
	again := unit("a", 6, "k1")
	var known *eventstore.KnownKeysError
	if _, err := s.Append(ctx, again); !errors.As(err, &known) || known.Known[0].Place.Version != 2 {
		t.Errorf("a key at another time: %v, want its first outcome", err)
	}
	// Outcomes expire by the server's clock. If that clock goes back by a year,
	// they are in the future, and stay final.
	u := eventstore.Unit{Stream: again.Stream, Expected: 6, Commands: []eventstore.Command{{Key: "no", At: at, Keep: true, Answer: []byte(`"no"`)}}}
	if _, err := s.Append(ctx, u); err != nil {
		t.Fatal(err)
	}
	exec(t, url, `update outcome set stored = now() + interval '1 year'`)
	if n, err := s.Expire(ctx); err != nil || n != 0 {
		t.Errorf("%d outcomes expired, %v", n, err)
	}
	u.Commands[0].At = at.AddDate(1, 0, 0)
	if _, err := s.Append(ctx, u); !errors.As(err, &known) || string(known.Known[0].Answer) != `"no"` {
		t.Errorf("an outcome in the future: %v, want its answer", err)
	}
}
