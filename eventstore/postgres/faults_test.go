package postgres_test

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
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

// told collects what a store says it has committed.
type told struct {
	mu      sync.Mutex
	commits []eventstore.Commit
}

func (l *told) committed(_ string, batch []eventstore.Commit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.commits = append(l.commits, batch...)
}

func (l *told) keys() string {
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

func TestKilledBackends(t *testing.T) {
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
	killing.Go(func() {
		// At once when something was stored: the next batch is on its way.
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
	stop()
	killing.Wait()
	if killed < 20 {
		t.Errorf("only %d backends were killed", killed)
	}
}

// cut opens a store behind a proxy, and one beside it.
func cut(t *testing.T, cfg postgres.Config) (*proxy, *postgres.Store, *postgres.Store, *told) {
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
	list := new(told)
	cfg.URL, cfg.Committed = server.URLAt(p.addr, "postgres"), list.committed
	behind := open(t, cfg)
	beside := open(t, postgres.Config{URL: server.URL("postgres")})
	t.Cleanup(func() {
		if err := errors.Join(behind.Close(), beside.Close()); err != nil {
			t.Error(err)
		}
	})
	return p, behind, beside, list
}

func TestConnectionCut(t *testing.T) {
	t.Parallel()
	p, behind, beside, list := cut(t, postgres.Config{Deadline: 4 * time.Second})
	ctx := t.Context()
	version := eventstore.Version(0)
	for name, r := range map[string]rule{"the reply is lost": dropReply, "the request is lost": dropRequest, "the reply never comes": swallowReply} {
		hit := p.next(r)
		u := unit("a", version, name, name+" (2)")
		u.Commands[1].Events = nil
		u.Commands[1].Keep = true
		a, err := behind.Append(ctx, u)
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
	if got, want := list.keys(), logKeys(t, beside); got != want || version != 3 {
		t.Errorf("told of %q, and the log holds %q", got, want)
	}
}

func TestSameKeyExecutedElsewhere(t *testing.T) {
	t.Parallel()
	// The request is lost, and before it is sent again another node executes
	// the same command a little later: its events are the ones that count.
	p, behind, beside, list := cut(t, postgres.Config{Deadline: 8 * time.Second})
	hit := p.nextAndShut(dropRequest)
	answer := make(chan error, 1)
	go func() {
		_, err := behind.Append(t.Context(), unit("a", 0, "k"))
		answer <- err
	}()
	<-hit
	later := unit("a", 0, "k")
	later.Commands[0].At = at.Add(time.Second)
	if _, err := beside.Append(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	p.refuse(false)
	var known *eventstore.KnownKeysError
	if err := <-answer; !errors.As(err, &known) || known.Known[0].Place != (eventstore.Place{Version: 1, Position: 1}) {
		t.Errorf("got %v, want the other node's answer", err)
	}
	if got := list.keys(); got != "" {
		t.Errorf("%q was told as stored by this node", got)
	}
	if got := logKeys(t, beside); got != "k" {
		t.Errorf("the log holds %q", got)
	}
}

func TestUnknown(t *testing.T) {
	t.Parallel()
	// The server's own limits are parts of the deadline: it is long enough that a
	// busy machine stays below them.
	p, behind, beside, list := cut(t, postgres.Config{Deadline: 6 * time.Second})
	if _, err := behind.Append(t.Context(), unit("b", 0, "connects")); err != nil {
		t.Fatal(err)
	}
	p.nextAndShut(dropReply)
	_, err := behind.Append(t.Context(), unit("a", 0, "k"))
	if !errors.Is(err, eventstore.ErrUnknown) || errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("cut off after it was sent: got %v, want unknown", err)
	}
	p.refuse(true) // the connections for reads as well
	if _, err := behind.Append(t.Context(), unit("c", 0, "never sent")); !errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrUnknown) {
		t.Errorf("cut off before: got %v, want unavailable", err)
	}
	if _, err := behind.Head(t.Context()); !errors.Is(err, eventstore.ErrUnavailable) {
		t.Errorf("a read: got %v, want unavailable", err)
	}
	p.refuse(false)
	var known *eventstore.KnownKeysError
	if _, err := behind.Append(t.Context(), unit("a", 0, "k")); !errors.As(err, &known) || known.Known[0].Place.Version != 1 {
		t.Errorf("the same key again: got %v, want its first answer", err)
	}
	if got, told := logKeys(t, beside), list.keys(); got != "connects k" || told != "connects" {
		t.Errorf("the log holds %q, and %q was told", got, told)
	}
}

func TestPatience(t *testing.T) {
	t.Parallel()
	// Long before the deadline everybody is told, those as well who wait for
	// the batch whose fate nobody knows, and those who come later.
	p, behind, beside, list := cut(t, postgres.Config{Deadline: time.Hour, Patience: 200 * time.Millisecond, Warm: true})
	ctx := t.Context()
	hit := p.nextAndShut(dropReply)
	answers := make([]chan error, 2)
	for i, u := range []eventstore.Unit{unit("a", 0, "k"), unit("b", 0, "waits")} {
		answers[i] = make(chan error, 1)
		go func() {
			_, err := behind.Append(ctx, u)
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
	unavailable("behind it", <-answers[1])
	_, err := behind.Append(ctx, unit("c", 0, "later"))
	unavailable("later", err)

	// Another node goes on with the stream, and so does this one once it can.
	if _, err := beside.Append(ctx, unit("a", 1, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	p.refuse(false)
	for {
		if _, err = behind.Append(ctx, unit("a", 2, "back")); !errors.Is(err, eventstore.ErrUnavailable) {
			break
		}
		time.Sleep(10 * time.Millisecond) // nothing tells when it has connected again
	}
	if err != nil {
		t.Errorf("once the database is back: %v", err)
	}
	if got, want := logKeys(t, beside), "k elsewhere back"; got != want {
		t.Errorf("the log holds %q, want %q", got, want)
	}
	if got := list.keys(); got != "back" {
		t.Errorf("%q was told as stored by this node", got)
	}
}

// impatient opens a store behind a proxy that waits for nothing as long as
// for a test to be taken for stuck, but for Patience.
func impatient(t *testing.T) (*proxy, *postgres.Store, *postgrestest.Server) {
	t.Helper()
	server := startServer(t, postgrestest.Options{})
	p := newProxy(t, server.Addr())
	s := openTo(t, postgres.Config{
		URL: server.URLAt(p.addr, "postgres"), Deadline: time.Hour, ConnectTimeout: time.Hour, Patience: 200 * time.Millisecond, Warm: true,
	})
	t.Cleanup(func() { p.freeze(false) }) // before the store is closed
	return p, s, server
}

// inTime returns what do answers, if it ever does.
func inTime(t *testing.T, do func() error) error {
	t.Helper()
	answer := make(chan error, 1)
	go func() { answer <- do() }()
	select {
	case err := <-answer:
		return err
	case <-time.After(stuck):
		t.Fatal("somebody waits for ever")
		return nil
	}
}

// TestPatienceWithAnAppendThatWasRolledBack has the server refuse an append for
// a passing reason, and fall silent before it is sent again.
func TestPatienceWithAnAppendThatWasRolledBack(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p, s, server := impatient(t)
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
	// Unknown, if it was sent once more before the connection's end was seen.
	if err := inTime(t, func() error { return <-answer }); !errors.Is(err, eventstore.ErrUnavailable) && !errors.Is(err, eventstore.ErrUnknown) {
		t.Errorf("got %v, want unavailable", err)
	}
	<-hit
	p.freeze(false)
	if err := lock.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	goesOn(t, appendIt)
	if got := logKeys(t, s); got != "k" {
		t.Errorf("the log holds %q", got)
	}
}

// TestPatienceOfReads cuts off a store that appends nothing.
func TestPatienceOfReads(t *testing.T) {
	t.Parallel()
	p, s, _ := impatient(t)
	read := func() error { _, err := s.Head(context.WithoutCancel(t.Context())); return err }
	p.freeze(true)
	p.refuse(true) // ends the connections that are there
	p.refuse(false)
	unavailable(t, "read", inTime(t, read))
	p.freeze(false)
	goesOn(t, read)
}

// TestIdleConnectionIsNotPinged reads on a connection that was idle for so long
// that the pool would ask first whether it lives, and on one that does not.
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
	time.Sleep(1200 * time.Millisecond) // to be idle is to let time pass
	read()
	if pings := p.simpleQueries() - before; pings > 0 {
		t.Errorf("the server was asked %d times whether a connection lives", pings)
	}
	p.refuse(true)
	p.refuse(false)
	read()
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	server, err := postgrestest.StartServer(t.Context(), postgrestest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	u, err := url.Parse(server.URLAt(server.Addr(), "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("postgres", "s3cret")
	s := open(t, postgres.Config{URL: u.String(), Deadline: time.Second})
	defer s.Close()
	if _, err := s.Append(t.Context(), unit("a", 0, "before")); err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	unavailable := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrUnknown) {
			t.Errorf("%s: got %v, want unavailable", what, err)
		} else if text := err.Error(); strings.Contains(text, "s3cret") || strings.Contains(text, "postgres://") || strings.Contains(text, "\n") {
			t.Errorf("%s: the error says too much: %s", what, text)
		}
	}
	_, err = s.Append(t.Context(), unit("a", 1, "meanwhile"))
	unavailable("append", err)
	_, err = s.Read(t.Context(), 0, 1)
	unavailable("read", err)
	unavailable("check", s.Check(t.Context()))
	_, err = postgres.Open(t.Context(), postgres.Config{URL: u.String()})
	unavailable("open", err)
	u.Host = "no-such-host.invalid"
	_, err = postgres.Open(t.Context(), postgres.Config{URL: u.String()})
	unavailable("open at an unknown host", err)
}

func TestServerThatIsStillStarting(t *testing.T) {
	t.Parallel()
	// As long as there is a file "held" the server waits for its archive, and
	// says that it is starting.
	server := startServer(t, postgrestest.Options{Settings: map[string]string{
		"restore_command": "while [ -e ../held ]; do sleep 0.05; done; false", "recovery_target_action": "promote",
	}})
	held, data := filepath.Join(server.Dir(), "held"), filepath.Join(server.Dir(), "data")
	if err := errors.Join(server.Stop(), os.WriteFile(held, nil, 0o600), os.WriteFile(filepath.Join(data, "recovery.signal"), nil, 0o600),
		server.Own(data)); err != nil {
		t.Fatal(err)
	}
	started := make(chan error, 1)
	go func() { started <- server.Start(t.Context()) }()

	waiting, lines := make(chan struct{}), &strings.Builder{}
	log := slog.New(signalled{slog.NewTextHandler(lines, nil), "waiting for the database to start", waiting})
	url := server.URL("postgres")
	opened := make(chan error, 1)
	go func() {
		for {
			s, err := postgres.Open(t.Context(), postgres.Config{URL: url, Logger: log})
			if err == nil {
				s.Close()
			} else if !strings.Contains(err.Error(), "SQLSTATE") && t.Context().Err() == nil {
				time.Sleep(10 * time.Millisecond) // it does not even listen yet, which is not waited for, and nothing tells when it does
				continue
			}
			opened <- err
			return
		}
	}()
	select {
	case <-waiting:
	case err := <-opened:
		t.Fatalf("nobody waited: %v", err)
	}
	if err := os.Remove(held); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(lines.String(), "waiting for the database"); n != 1 || !strings.Contains(lines.String(), "57P03") {
		t.Errorf("it said so %d times:\n%s", n, lines)
	}
}

// signalled closes a channel at the first line that says something.
type signalled struct {
	slog.Handler
	message string
	said    chan struct{}
}

func (h signalled) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == h.message {
		close(h.said)
	}
	return h.Handler.Handle(ctx, r)
}

func TestSetBackToAnOlderCopy(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := postgrestest.StartServer(ctx, postgrestest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	p := newProxy(t, server.Addr()) // one address across the server's restarts
	s := open(t, postgres.Config{URL: server.URLAt(p.addr, "postgres")})
	defer s.Close()
	restart := func(while func() error) {
		t.Helper()
		if err := errors.Join(server.Stop(), while(), server.Start(ctx)); err != nil {
			t.Fatal(err)
		}
		p.mu.Lock()
		p.target = server.Addr()
		p.mu.Unlock()
	}
	place := func(u eventstore.Unit) error {
		_, err := s.Append(ctx, u)
		return err
	}
	if err := place(unit("a", 0, "old")); err != nil {
		t.Fatal(err)
	}
	older := t.TempDir()
	restart(func() error { return server.Copy(older) })
	if err := place(unit("a", 1, "newer")); err != nil {
		t.Fatalf("after an ordinary restart: %v", err)
	}
	restart(func() error { return server.Replace(older) })
	if err := place(unit("b", 0, "after")); !errors.Is(err, eventstore.ErrWentBack) {
		t.Errorf("append: %v, want a log that went back", err)
	}
	if _, err := s.Read(ctx, 0, 10); !errors.Is(err, eventstore.ErrWentBack) {
		t.Errorf("read: %v, want a log that went back", err)
	}
	operator := open(t, postgres.Config{URL: server.URL("postgres")})
	defer operator.Close()
	id, err := operator.AcceptLoss(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resume(ctx); err != nil || s.LogID() != id {
		t.Errorf("resume: %v, and the log is %s, want %s", err, s.LogID(), id)
	}
	if err := place(unit("b", 0, "after")); err != nil {
		t.Errorf("append after the loss was accepted: %v", err)
	}
	if got := logKeys(t, s); got != "old after" {
		t.Errorf("the log holds %q", got)
	}
}

func TestCrashRecovery(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := postgrestest.StartServer(ctx, postgrestest.Options{Durable: true})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	s := open(t, postgres.Config{URL: server.URL("postgres")})
	for i := range 10 {
		if _, err := s.Append(ctx, unit("a", eventstore.Version(i), string(rune('a'+i)))); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(server.Crash(), server.Start(ctx)); err != nil {
		t.Fatal(err)
	}
	s = open(t, postgres.Config{URL: server.URL("postgres")})
	defer s.Close()
	if got := logKeys(t, s); got != "a b c d e f g h i j" {
		t.Errorf("after a crash the log holds %q", got)
	}
}
