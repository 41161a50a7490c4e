package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
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

// rounds returns short, or long if GANGLION_FAULTS=long, which scripts/test-faults.sh
// sets. The short form of the fault tests is part of every test run.
func rounds(short, long int) int {
	if os.Getenv("GANGLION_FAULTS") == "long" {
		return long
	}
	return short
}

// stuckAfter is the time after which a test counts as stuck.
const stuckAfter = 90 * time.Second

// startServer starts a server for one test.
func startServer(t *testing.T, opts postgrestest.Options) *postgrestest.Server {
	t.Helper()
	server, err := postgrestest.StartServer(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	closeServer(t, server)
	return server
}

func closeServer(t *testing.T, server *postgrestest.Server) {
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
}

func crashAndStart(t *testing.T, server *postgrestest.Server) {
	t.Helper()
	if err := errors.Join(server.Crash(), server.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// openTo opens a store, and closes it at the end of the test, before its server.
func openTo(t *testing.T, cfg postgres.Config) *postgres.Store {
	t.Helper()
	s := open(t, cfg)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// until waits until a condition holds on the server.
func until(t *testing.T, url, condition string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	untilOn(t, conn, condition)
}

// untilOn is until on an open connection.
func untilOn(t *testing.T, conn *pgx.Conn, condition string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stuckAfter)
	defer cancel()
	for {
		var holds bool
		if err := conn.QueryRow(ctx, `select coalesce((`+condition+`), false)`).Scan(&holds); err != nil {
			t.Fatalf("waiting until %s: %v", condition, err)
		}
		if holds {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("it never became true that %s", condition)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// noStore holds if no store has a connection.
const noStore = `not exists (select from pg_stat_activity where datname = current_database() and application_name = 'ganglion')`

// wantUnavailable checks that an error is ErrUnavailable, contains the texts, has
// one line, and reveals no secret.
func wantUnavailable(t *testing.T, what string, err error, says ...string) {
	t.Helper()
	if !errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrUnknown) {
		t.Errorf("%s: got %v, want unavailable", what, err)
		return
	}
	safeText(t, what, err, says...)
}

func safeText(t *testing.T, what string, err error, says ...string) {
	t.Helper()
	text := err.Error()
	if strings.Contains(text, "\n") || strings.Contains(text, "postgres://postgres") {
		t.Errorf("%s: the error reveals too much: %s", what, text)
	}
	for _, want := range says {
		if !strings.Contains(text, want) {
			t.Errorf("%s: the error lacks %q: %s", what, want, text)
		}
	}
}

// load is a set of writers, each with its own stream. A writer appends without a
// pause, and repeats a unit with the same keys until it is acknowledged. load
// records the acknowledgements.
type load struct {
	t        *testing.T
	stop     chan struct{}
	progress chan struct{} // has a token after an acknowledgement
	writing  sync.WaitGroup

	mu           sync.Mutex
	acknowledged map[string]acknowledgement // by key
	unknown      int                        // results without an outcome
}

type acknowledgement struct {
	stream eventstore.StreamID
	place  eventstore.Place
}

// startLoad starts writers, and spreads them over stores.
func startLoad(t *testing.T, writers int, stores ...*postgres.Store) *load {
	l := &load{
		t: t, stop: make(chan struct{}), progress: make(chan struct{}, 1),
		acknowledged: make(map[string]acknowledgement),
	}
	for w := range writers {
		l.writing.Go(func() { l.write(stores[w%len(stores)], fmt.Sprint("w", w)) })
	}
	return l
}

func (l *load) write(s *postgres.Store, name string) {
	var version eventstore.Version
	for n := 0; ; n++ {
		select {
		case <-l.stop:
			return
		default:
		}
		place, ok := l.appendUntilKnown(s, unit(name, version, fmt.Sprintf("%s-%d", name, n), fmt.Sprintf("%s-%d+", name, n)))
		if !ok {
			return
		}
		version = place.Version
	}
}

// appendUntilKnown appends a unit until its outcome is known.
func (l *load) appendUntilKnown(s *postgres.Store, u eventstore.Unit) (eventstore.Place, bool) {
	end := time.Now().Add(stuckAfter)
	for {
		a, err := s.Append(context.Background(), u)
		var known *eventstore.KnownKeysError
		switch {
		case err == nil:
		case errors.As(err, &known) && len(known.Known) == len(u.Commands):
			for _, first := range known.Known {
				a.Commands = append(a.Commands, first.Place)
			}
		case errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, eventstore.ErrUnknown):
			l.mu.Lock()
			if errors.Is(err, eventstore.ErrUnknown) {
				l.unknown++
			}
			l.mu.Unlock()
			safeText(l.t, "append", err)
			if time.Now().After(end) {
				l.t.Errorf("the key %q was never acknowledged: %v", u.Commands[0].Key, err)
				return eventstore.Place{}, false
			}
			time.Sleep(5 * time.Millisecond) // like a client between two attempts
			continue
		default:
			// No other writer has this stream: even a conflict means that a unit
			// was lost or stored twice.
			l.t.Errorf("the key %q: %v", u.Commands[0].Key, err)
			return eventstore.Place{}, false
		}
		l.mu.Lock()
		for i, c := range u.Commands {
			l.acknowledged[c.Key] = acknowledgement{u.Stream, a.Commands[i]}
		}
		l.mu.Unlock()
		select {
		case l.progress <- struct{}{}:
		default:
		}
		return a.Commands[len(a.Commands)-1], true
	}
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acknowledged)
}

// more waits until n more commands are acknowledged.
func (l *load) more(n int) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), stuckAfter)
	defer cancel()
	for want := l.count() + n; l.count() < want; {
		select {
		case <-l.progress:
		case <-ctx.Done():
			l.t.Fatalf("no progress: %d commands were acknowledged, want %d", l.count(), want)
		}
	}
}

// end stops each writer after its last outcome is known.
func (l *load) end() {
	close(l.stop)
	l.writing.Wait()
}

// check checks that the log has exactly the acknowledged commands, each once and
// at its place. It also checks the announcements of the stores.
func (l *load) check(url string, announced ...*announcements) {
	l.t.Helper()
	s := open(l.t, postgres.Config{URL: url})
	defer s.Close()
	storetest.Clean(l.t, s)
	missing := make(map[string]acknowledgement, len(l.acknowledged))
	for key, a := range l.acknowledged {
		missing[key] = a
	}
	byPosition := make(map[eventstore.Position]string)
	for _, c := range readAll(l.t, s) {
		a, ok := missing[c.Key]
		if !ok {
			l.t.Errorf("the log holds the key %q, which was not acknowledged, or holds it twice", c.Key)
		} else if want := (eventstore.Place{Version: c.Version, Position: c.Position}); a.stream != c.Stream || a.place != want {
			l.t.Errorf("the key %q is in %s at %v, and was acknowledged in %s at %v", c.Key, c.Stream, want, a.stream, a.place)
		}
		delete(missing, c.Key)
		byPosition[c.Position] = c.Key
	}
	for key := range missing {
		l.t.Errorf("the key %q was acknowledged but is not in the log", key)
	}
	for _, list := range announced {
		if !slices.IsSortedFunc(list.commits, func(a, b eventstore.Commit) int { return int(int64(a.Position) - int64(b.Position)) }) {
			l.t.Error("a store announced its commits out of order")
		}
		seen := make(map[eventstore.Position]bool)
		for _, c := range list.commits {
			if seen[c.Position] || byPosition[c.Position] != c.Key {
				l.t.Errorf("a store announced the key %q at position %d, twice or wrongly", c.Key, c.Position)
			}
			seen[c.Position] = true
		}
	}
}

func readAll(t *testing.T, s *postgres.Store) []eventstore.Commit {
	t.Helper()
	var (
		all   []eventstore.Commit
		after eventstore.Position
	)
	for {
		page, err := s.Read(t.Context(), after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			return all
		}
		all = append(all, page...)
		after = page[len(page)-1].Position
	}
}
