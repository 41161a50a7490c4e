package postgres_test

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
)

// pair is a primary and its standby, with a proxy between them.
type pair struct {
	primary, standby *postgrestest.Server
	between          *proxy
	url              string // names both
}

func newPair(t *testing.T) pair {
	t.Helper()
	// The log must exist before the server is copied.
	p := pair{primary: startServer(t, postgrestest.Options{})}
	if err := open(t, postgres.Config{URL: p.primary.URL("postgres")}).Close(); err != nil {
		t.Fatal(err)
	}
	p.between = newProxy(t, p.primary.Addr())
	var err error
	if p.standby, err = p.primary.StartStandby(t.Context(), "second", p.between.addr); err != nil {
		t.Fatal(err)
	}
	closeServer(t, p.standby)
	p.url = "postgres://postgres@" + p.primary.Addr() + "," + p.standby.Addr() + "/postgres?sslmode=disable&target_session_attrs=read-write"
	until(t, p.primary.URL("postgres"), `exists (select from pg_stat_replication where application_name = 'second' and state = 'streaming')`)
	return p
}

// caughtUp waits until the standby has replayed everything that the primary has
// written.
func (p pair) caughtUp(t *testing.T) {
	t.Helper()
	until(t, p.primary.URL("postgres"), `(select replay_lsn from pg_stat_replication where application_name = 'second') >= pg_current_wal_lsn()`)
}

const waitsForStandby = `exists (select from pg_stat_activity where application_name = 'ganglion' and wait_event = 'SyncRep')`

// TestFaultSynchronousStandby cuts the synchronous standby off, cancels and terminates
// the appends that wait for it, crashes the primary twice, and promotes the standby. The
// standby has all acknowledged commands.
func TestFaultSynchronousStandby(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := newPair(t)
	admin := p.primary.URL("postgres")
	exec(t, admin, `alter system set synchronous_standby_names = 'second'`, `select pg_reload_conf()`)
	until(t, admin, `exists (select from pg_stat_replication where application_name = 'second' and sync_state = 'sync')`)

	var lists [2]announcements
	stores := make([]*postgres.Store, len(lists))
	for i := range stores {
		stores[i] = openTo(t, postgres.Config{URL: p.url, Committed: lists[i].committed, Deadline: time.Second})
	}
	l := startLoad(t, 16, stores...)
	l.more(100)

	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		t.Fatal(err)
	}
	p.between.refuse(true)
	until(t, admin, waitsForStandby)
	alone := l.count()
	for last := -1; alone != last; { // the writers may not have read the last results yet
		last = alone
		until(t, admin, waitsForStandby)
		alone = l.count()
	}
	for i := range rounds(6, 60) {
		// An append that was ended while it waited is committed on the primary
		// alone. It must not be acknowledged.
		function := []string{"pg_cancel_backend", "pg_terminate_backend"}[i%2]
		if _, err := conn.Exec(ctx, `select `+function+`(pid) from pg_stat_activity where application_name = 'ganglion' and wait_event = 'SyncRep'`); err != nil {
			t.Fatal(err)
		}
		until(t, admin, waitsForStandby)
	}
	if err := conn.Close(ctx); err != nil {
		t.Fatal(err)
	}
	// The recovery commits the waiting appends on the primary alone.
	crashAndStart(t, p.primary)
	until(t, admin, waitsForStandby)
	if n := l.count(); n != alone {
		t.Errorf("%d commands were acknowledged without the standby", n-alone)
	}
	if err := errors.Join(p.primary.Crash(), p.standby.Promote(ctx)); err != nil {
		t.Fatal(err)
	}
	l.more(100)
	l.end()
	l.check(p.standby.URL("postgres"), &lists[0], &lists[1])
	t.Logf("%d commands were acknowledged, %d times without an outcome", l.count(), l.unknown)
}

// TestFaultStandbyReturns cuts a synchronous standby off and connects it again. The
// appends that waited for it continue.
func TestFaultStandbyReturns(t *testing.T) {
	t.Parallel()
	p := newPair(t)
	admin := p.primary.URL("postgres")
	exec(t, admin, `alter system set synchronous_standby_names = 'second'`, `select pg_reload_conf()`)
	until(t, admin, `exists (select from pg_stat_replication where application_name = 'second' and sync_state = 'sync')`)
	var list announcements
	s := openTo(t, postgres.Config{URL: p.url, Committed: list.committed, Deadline: time.Second})
	l := startLoad(t, 8, s)
	for range rounds(2, 20) {
		l.more(50)
		p.between.refuse(true)
		until(t, admin, waitsForStandby)
		// An append that was cancelled while it waited is sent again, and waits
		// again.
		exec(t, admin, `select pg_cancel_backend(pid) from pg_stat_activity where application_name = 'ganglion' and wait_event = 'SyncRep'`)
		until(t, admin, waitsForStandby)
		p.between.refuse(false)
	}
	l.more(50)
	l.end()
	l.check(admin, &list)
	p.caughtUp(t)
}

// TestFaultKnownKeyWaitsForTheStandby resends to another node a command whose
// commit is on the primary alone. That node replies only after the synchronous
// standby has the commit too.
func TestFaultKnownKeyWaitsForTheStandby(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := newPair(t)
	admin := p.primary.URL("postgres")
	exec(t, admin, `alter system set synchronous_standby_names = 'second'`, `select pg_reload_conf()`)
	until(t, admin, `exists (select from pg_stat_replication where application_name = 'second' and sync_state = 'sync')`)
	hasty := openTo(t, postgres.Config{URL: p.url + "&synchronous_commit=local"})
	other := openTo(t, postgres.Config{URL: p.url, Deadline: time.Minute}) // the standby may need long to connect again

	p.between.refuse(true)
	if _, err := hasty.Append(ctx, unit("a", 0, "k")); err != nil {
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	go func() {
		_, err := other.Append(ctx, unit("a", 0, "k"))
		answer <- err
	}()
	until(t, admin, waitsForStandby)
	select {
	case err := <-answer:
		t.Fatalf("the command got a result without the standby: %v", err)
	default:
	}
	p.between.refuse(false)
	var known *eventstore.KnownKeysError
	if err := <-answer; !errors.As(err, &known) || known.Known[0].Place != (eventstore.Place{Version: 1, Position: 1}) {
		t.Errorf("got %v, want the first outcome", err)
	}
}

// TestFaultAsynchronousStandby shows what docs/guarantees.md says about
// asynchronous standbys: promoting one that lags loses acknowledged commands. The
// store detects the loss and stops until an operator decides.
func TestFaultAsynchronousStandby(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := newPair(t)
	s := openTo(t, postgres.Config{URL: p.url})
	place := func(u eventstore.Unit) error {
		_, err := s.Append(ctx, u)
		return err
	}
	if err := place(unit("a", 0, "kept")); err != nil {
		t.Fatal(err)
	}
	p.caughtUp(t)
	p.between.refuse(true)
	if err := place(unit("a", 1, "lost")); err != nil {
		t.Fatalf("an append without the asynchronous standby: %v", err)
	}
	if err := p.primary.Crash(); err != nil {
		t.Fatal(err)
	}
	err := place(unit("a", 2, "meanwhile"))
	wantUnavailable(t, "append while there is no primary", err, "promote")
	if err := p.standby.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	if err := place(unit("b", 0, "refused")); !errors.Is(err, eventstore.ErrWentBack) {
		t.Errorf("append after the promotion: %v, want a log that went back", err)
	} else {
		safeText(t, "append", err, "accept-loss")
	}
	if err := s.Check(ctx); !errors.Is(err, eventstore.ErrWentBack) {
		t.Errorf("check: %v, want a log that went back", err)
	}
	operator := openTo(t, postgres.Config{URL: p.url})
	if got := logKeys(t, operator); got != "kept" {
		t.Errorf("the log holds %q, want only the event that the standby had", got)
	}
	if _, err := operator.AcceptLoss(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resume(ctx); err != nil {
		t.Errorf("after the loss was accepted: %v", err)
	}
	if err := place(unit("b", 0, "after")); err != nil {
		t.Errorf("after the loss was accepted: %v", err)
	}
	if got := logKeys(t, s); got != "kept after" {
		t.Errorf("the log holds %q", got)
	}
}

// TestFaultStandbyIsRefused opens a store on a standby.
func TestFaultStandbyIsRefused(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := newPair(t)
	for _, attrs := range []string{"", "?target_session_attrs=any"} {
		_, err := postgres.Open(ctx, postgres.Config{URL: "postgres://postgres@" + p.standby.Addr() + "/postgres" + attrs})
		wantUnavailable(t, "open a standby", err, "standby", "promote")
	}
	// The URL names both, and the primary is down. The store does not read from
	// the standby, which may lag.
	s := openTo(t, postgres.Config{URL: p.url})
	if _, err := s.Append(ctx, unit("a", 0, "k")); err != nil {
		t.Fatal(err)
	}
	if err := p.primary.Stop(); err != nil {
		t.Fatal(err)
	}
	_, err := s.Read(ctx, 0, 1)
	wantUnavailable(t, "read", err, "standby", "promote")
	wantUnavailable(t, "check", s.Check(ctx), "standby", "promote")
	if err := p.primary.Start(ctx); err != nil {
		t.Fatal(err)
	}
	worksAgain(t, func() error { _, err := s.Append(context.WithoutCancel(ctx), unit("a", 1, "l")); return err })
	if got := logKeys(t, s); got != "k l" {
		t.Errorf("the log holds %q", got)
	}
}

// TestFaultDatabaseThatAStandbyLacks opens a log in a database that was just created. The
// standby, which the URL names first, does not have the database yet.
func TestFaultDatabaseThatAStandbyLacks(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := newPair(t)
	p.between.refuse(true)
	exec(t, p.primary.URL("postgres"), `create database young`)
	url := "postgres://postgres@" + p.standby.Addr() + "," + p.primary.Addr() + "/young?sslmode=disable"
	s := openTo(t, postgres.Config{URL: url})
	if _, err := s.Append(ctx, unit("a", 0, "k")); err != nil {
		t.Fatal(err)
	}
	if err := p.primary.Stop(); err != nil {
		t.Fatal(err)
	}
	_, err := postgres.Open(ctx, postgres.Config{URL: url})
	wantUnavailable(t, "open while the primary is down", err, "young")
	var unavailable *eventstore.UnavailableError
	if errors.As(err, &unavailable) && unavailable.Misconfigured {
		t.Errorf("got %v, which says that waiting is useless", err)
	}
	if err := p.primary.Start(ctx); err != nil {
		t.Fatal(err)
	}
	_, err = postgres.Open(ctx, postgres.Config{URL: strings.Replace(url, "/young", "/missing", 1)})
	if !errors.As(err, &unavailable) || !unavailable.Misconfigured {
		t.Errorf("a database that no server has: %v, want a lasting error", err)
	}
}

// TestFaultSilentHostDelaysNothing names a server first that accepts connections and never
// answers, as a frozen machine does. The limit of a login is an hour, so a store that
// waits for that server does not open.
func TestFaultSilentHostDelaysNothing(t *testing.T) {
	t.Parallel()
	frozen, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts
	if err != nil {
		t.Fatal(err)
	}
	defer frozen.Close()
	p := newPair(t)
	s := openTo(t, postgres.Config{
		URL:            "postgres://postgres@" + frozen.Addr().String() + "," + p.standby.Addr() + "," + p.primary.Addr() + "/postgres?sslmode=disable",
		ConnectTimeout: time.Hour, Deadline: time.Minute,
	})
	if _, err := s.Append(t.Context(), unit("a", 0, "k")); err != nil {
		t.Fatal(err)
	}
	// The standby is promoted while the store waits for the silent server.
	p.caughtUp(t)
	if err := errors.Join(p.primary.Crash(), p.standby.Promote(t.Context())); err != nil {
		t.Fatal(err)
	}
	worksAgain(t, func() error { _, err := s.Append(context.WithoutCancel(t.Context()), unit("a", 1, "l")); return err })
	if got := logKeys(t, s); got != "k l" {
		t.Errorf("the log holds %q", got)
	}
}
