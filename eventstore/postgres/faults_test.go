package postgres_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/storetest"
)

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func unit(id string, expected eventstore.Version, keys ...string) eventstore.Unit {
	u := eventstore.Unit{Stream: eventstore.StreamID{Type: "counter", ID: id}, Expected: expected}
	for _, key := range keys {
		u.Commands = append(u.Commands, eventstore.Command{
			Key: key, At: at, Events: []eventstore.Event{{Type: "added", Data: []byte(`{"by":1}`)}},
		})
	}
	return u
}

// announcements collects the commits that a store has announced.
type announcements struct {
	mu      sync.Mutex
	commits []eventstore.Commit
}

func (l *announcements) committed(_ string, batch []eventstore.Commit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commits = append(l.commits, batch...)
}

func (l *announcements) keys() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return keysOf(l.commits)
}

func keysOf(commits []eventstore.Commit) string {
	var keys []string
	for _, c := range commits {
		keys = append(keys, c.Key)
	}
	return strings.Join(keys, " ")
}

func logKeys(t *testing.T, s *postgres.Store) string {
	t.Helper()
	page, err := s.Read(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return keysOf(page)
}

func TestKilledBackendsLoseAndDuplicateNothing(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	committed := make(chan struct{}, 1)
	stores := make([]storetest.Store, 3)
	for i := range stores {
		s := open(t, postgres.Config{URL: url, Committed: func(string, []eventstore.Commit) {
			select {
			case committed <- struct{}{}:
			default:
			}
		}})
		defer s.Close()
		stores[i] = s
	}
	admin, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	ctx, stop := context.WithCancel(t.Context())
	var (
		killing sync.WaitGroup
		killed  int
	)
	end := func() { stop(); killing.Wait() }
	defer end()
	killing.Go(func() {
		// Right after a commit the next batch is in flight.
		for {
			select {
			case <-committed:
			case <-ctx.Done():
				return
			}
			tag, err := admin.Exec(context.WithoutCancel(ctx), killOthers)
			if err != nil {
				t.Errorf("kill: %v", err)
				return
			}
			killed += int(tag.RowsAffected())
		}
	})
	storetest.Fight(t, stores, 8, 50, 25)
	end() // the audit reads each part once
	storetest.Clean(t, stores[0])
	if killed < 20 {
		t.Errorf("only %d backends were killed", killed)
	}
}

// openBehindProxy opens a store behind a proxy, and one that connects directly.
func openBehindProxy(t *testing.T, cfg postgres.Config) (*proxy, *postgres.Store, *postgres.Store, *announcements) {
	t.Helper()
	server, err := postgrestest.StartServer(t.Context(), postgrestest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	p := newProxy(t, server.Addr())
	list := new(announcements)
	cfg.URL, cfg.Committed = server.URLAt(p.addr, "postgres"), list.committed
	proxied := open(t, cfg)
	direct := open(t, postgres.Config{URL: server.URL("postgres")})
	t.Cleanup(func() {
		if err := errors.Join(proxied.Close(), direct.Close()); err != nil {
			t.Error(err)
		}
	})
	return p, proxied, direct, list
}

func TestCutConnectionGivesTheTrueOutcome(t *testing.T) {
	t.Parallel()
	p, proxied, direct, list := openBehindProxy(t, postgres.Config{Deadline: 4 * time.Second})
	ctx := t.Context()
	version := eventstore.Version(0)
	for name, r := range map[string]rule{"the reply is lost": dropReply, "the request is lost": dropRequest, "the reply never comes": swallowReply} {
		hit := p.next(r)
		u := unit("a", version, name, name+" (2)")
		u.Commands[1].Events = nil
		u.Commands[1].Keep = true
		a, err := proxied.Append(ctx, u)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		<-hit
		version++
		want := eventstore.Place{Version: version, Position: eventstore.Position(version)}
		if a.Commands[0] != want || a.Commands[1] != want {
			t.Errorf("%s: placed at %v, want both at %v", name, a.Commands, want)
		}
	}
	if got, want := list.keys(), logKeys(t, direct); got != want || version != 3 {
		t.Errorf("announced %q, and the log holds %q", got, want)
	}
}

func TestKeyExecutedElsewhereKeepsThatOutcome(t *testing.T) {
	t.Parallel()
	// The request is lost. Before it is sent again, another node executes the same
	// command at a later time. The log keeps that node's events.
	p, proxied, direct, list := openBehindProxy(t, postgres.Config{Deadline: 8 * time.Second})
	hit := p.nextAndShut(dropRequest)
	answer := make(chan error, 1)
	go func() {
		_, err := proxied.Append(t.Context(), unit("a", 0, "k"))
		answer <- err
	}()
	<-hit
	later := unit("a", 0, "k")
	later.Commands[0].At = at.Add(time.Second)
	if _, err := direct.Append(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	p.refuse(false)
	var known *eventstore.KnownKeysError
	if err := <-answer; !errors.As(err, &known) || known.Known[0].Place != (eventstore.Place{Version: 1, Position: 1}) {
		t.Errorf("got %v, want the other node's outcome", err)
	}
	if got := list.keys(); got != "" {
		t.Errorf("%q was announced by this node", got)
	}
	if got := logKeys(t, direct); got != "k" {
		t.Errorf("the log holds %q", got)
	}
}

func TestUndecidedAppendIsUnknown(t *testing.T) {
	t.Parallel()
	// The server's timeouts are fractions of the deadline, which must suffice on
	// a busy machine.
	p, proxied, direct, list := openBehindProxy(t, postgres.Config{Deadline: 6 * time.Second})
	if _, err := proxied.Append(t.Context(), unit("b", 0, "connects")); err != nil {
		t.Fatal(err)
	}
	p.nextAndShut(dropReply)
	_, err := proxied.Append(t.Context(), unit("a", 0, "k"))
	if !errors.Is(err, eventstore.ErrUnknown) || errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("unreachable after it was sent: got %v, want unknown", err)
	}
	p.refuse(true) // also the connections for reads
	if _, err := proxied.Append(t.Context(), unit("c", 0, "never sent")); !errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrUnknown) {
		t.Errorf("unreachable before it was sent: got %v, want unavailable", err)
	}
	if _, err := proxied.Head(t.Context()); !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("a read: got %v, want unavailable", err)
	}
	p.refuse(false)
	var known *eventstore.KnownKeysError
	if _, err := proxied.Append(t.Context(), unit("a", 0, "k")); !errors.As(err, &known) || known.Known[0].Place.Version != 1 {
		t.Errorf("the same key again: got %v, want its first outcome", err)
	}
	if got, announced := logKeys(t, direct), list.keys(); got != "connects k" || announced != "connects" {
		t.Errorf("the log holds %q, and %q was announced", got, announced)
	}
}

func TestPatienceEndsAppendsToUnreachableServer(t *testing.T) {
	t.Parallel()
	// All callers get a result long before the deadline: callers in the batch
	// whose outcome is unknown, callers in the queue, and later ones.
	p, proxied, direct, list := openBehindProxy(t, postgres.Config{Deadline: time.Hour, Patience: 200 * time.Millisecond, Warm: true})
	ctx := t.Context()
	hit := p.nextAndShut(dropReply)
	answers := make([]chan error, 2)
	for i, u := range []eventstore.Unit{unit("a", 0, "k"), unit("b", 0, "waits")} {
		answers[i] = make(chan error, 1)
		go func() {
			_, err := proxied.Append(ctx, u)
			answers[i] <- err
		}()
		if i == 0 {
			<-hit
		}
	}
	if err := <-answers[0]; !errors.Is(err, eventstore.ErrUnknown) || errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("in the batch that was sent: got %v, want unknown", err)
	}
	unavailable := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrUnknown) {
			t.Errorf("%s: got %v, want unavailable", what, err)
		}
	}
	unavailable("in the queue", <-answers[1])
	_, err := proxied.Append(ctx, unit("c", 0, "later"))
	unavailable("later", err)

	// Another node continues the stream. This node does so after it has
	// reconnected.
	if _, err := direct.Append(ctx, unit("a", 1, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	p.refuse(false)
	for {
		if _, err = proxied.Append(ctx, unit("a", 2, "back")); !errors.Is(err, eventstore.ErrUnavailable) {
			break
		}
		time.Sleep(10 * time.Millisecond) // the store has no signal for this
	}
	if err != nil {
		t.Errorf("after the database is back: %v", err)
	}
	if got, want := logKeys(t, direct), "k elsewhere back"; got != want {
		t.Errorf("the log holds %q, want %q", got, want)
	}
	if got := list.keys(); got != "back" {
		t.Errorf("%q was announced by this node", got)
	}
}

// openImpatient opens a store behind a proxy. All its time limits except Patience are
// longer than the test.
func openImpatient(t *testing.T) (*proxy, *postgres.Store, *postgrestest.Server) {
	t.Helper()
	server := startServer(t, postgrestest.Options{})
	p := newProxy(t, server.Addr())
	s := openTo(t, postgres.Config{
		URL: server.URLAt(p.addr, "postgres"), Deadline: time.Hour, ConnectTimeout: time.Hour, Patience: 200 * time.Millisecond, Warm: true,
	})
	t.Cleanup(func() { p.freeze(false) }) // before the store is closed
	return p, s, server
}

// inTime returns the result of do. The test fails if do does not return.
func inTime(t *testing.T, do func() error) error {
	t.Helper()
	answer := make(chan error, 1)
	go func() { answer <- do() }()
	select {
	case err := <-answer:
		return err
	case <-time.After(stuckAfter):
		t.Fatal("a call does not return")
		return nil
	}
}

// TestPatienceEndsWaitAfterRollback makes the server roll an append back for a
// temporary reason, and then fall silent before the append is sent again.
func TestPatienceEndsWaitAfterRollback(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p, s, server := openImpatient(t)
	admin, err := pgx.Connect(ctx, server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.Background())
	lock, err := admin.Begin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Exec(ctx, `select lock_log()`); err != nil {
		t.Fatal(err)
	}
	hit := p.next(lastReply)
	appendIt := func() error { _, err := s.Append(context.WithoutCancel(ctx), unit("a", 0, "k")); return err }
	answer := make(chan error, 1)
	go func() { answer <- appendIt() }()
	const waiting = `from pg_locks where locktype = 'advisory' and not granted`
	untilOn(t, admin, `exists (select `+waiting+`)`)
	if _, err := lock.Exec(ctx, `select pg_cancel_backend(pid) `+waiting); err != nil {
		t.Fatal(err)
	}
	// The outcome is unknown if the store sent the append again before it noticed
	// the broken connection.
	if err := inTime(t, func() error { return <-answer }); !errors.Is(err, eventstore.ErrUnavailable) && !errors.Is(err, eventstore.ErrUnknown) {
		t.Errorf("got %v, want unavailable", err)
	}
	<-hit
	p.freeze(false)
	if err := lock.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	worksAgain(t, appendIt)
	if got := logKeys(t, s); got != "k" {
		t.Errorf("the log holds %q", got)
	}
}

// TestPatienceEndsReadsOfSilentServer cuts off a store that appends nothing.
func TestPatienceEndsReadsOfSilentServer(t *testing.T) {
	t.Parallel()
	p, s, _ := openImpatient(t)
	read := func() error { _, err := s.Head(context.WithoutCancel(t.Context())); return err }
	p.freeze(true)
	p.refuse(true) // ends the open connections
	p.refuse(false)
	wantUnavailable(t, "read", inTime(t, read))
	p.freeze(false)
	worksAgain(t, read)
}

// TestIdleConnectionIsNotPinged reads on a connection that was idle for longer
// than the pool's own limit for a ping, and then on a dead one.
func TestIdleConnectionIsNotPinged(t *testing.T) {
	t.Parallel()
	server := startServer(t, postgrestest.Options{})
	p := newProxy(t, server.Addr())
	s := openTo(t, postgres.Config{URL: server.URLAt(p.addr, "postgres"), ReadConns: 1, Warm: true})
	read := func() {
		t.Helper()
		if _, err := s.Head(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	read()
	before := p.simpleQueries()
	time.Sleep(1200 * time.Millisecond) // time must pass for the connection to be idle
	read()
	if pings := p.simpleQueries() - before; pings > 0 {
		t.Errorf("the server got %d pings", pings)
	}
	p.refuse(true)
	p.refuse(false)
	read()
}
