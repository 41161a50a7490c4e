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

// The fault tests have a short form, which is part of every test run, and a
// long one: GANGLION_FAULTS=long, which scripts/test-faults.sh sets. rounds is
// the one place that reads it.
func rounds(short, long int) int {
	if os.Getenv("GANGLION_FAULTS") == "long" {
		return long
	}
	return short
}

// stuck is when something that should have happened is taken for stuck.
const stuck = 90 * time.Second

// startServer starts a server of the test's own.
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

// openTo opens a store that is closed at the test's end, before its server.
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

// untilOn is until on a connection that is there.
func untilOn(t *testing.T, conn *pgx.Conn, condition string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), stuck)
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

// noStore holds when no store has a connection left.
const noStore = `not exists (select from pg_stat_activity where datname = current_database() and application_name = 'ganglion')`

// unavailable checks that an error is the one for a database that can't serve,
// and that it says what to do, in one line and without secrets.
func unavailable(t *testing.T, what string, err error, says ...string) {
	t.Helper()
	if !errors.Is(err, eventstore.ErrUnavailable) || errors.Is(err, eventstore.ErrUnknown) {
		t.Errorf("%s: got %v, want unavailable", what, err)
		return
	}
	sentence(t, what, err, says...)
}

func sentence(t *testing.T, what string, err error, says ...string) {
	t.Helper()
	text := err.Error()
	if strings.Contains(text, "\n") || strings.Contains(text, "postgres://postgres") {
		t.Errorf("%s: the error says too much: %s", what, text)
	}
	for _, want := range says {
		if !strings.Contains(text, want) {
			t.Errorf("%s: the error does not say %q: %s", what, want, text)
		}
	}
}

// load is many writers, each of which appends to a stream of its own as
// fast as it is answered, and repeats what was not acknowledged under the same
// key until it is. All that was acknowledged is remembered.
type load struct {
	t       *testing.T
	stop    chan struct{}
	news    chan struct{} // something was acknowledged
	writing sync.WaitGroup

	mu           sync.Mutex
	acknowledged map[string]acknowledgement // by key
	unknown      int                        // answers that left the outcome open
}

type acknowledgement struct {
	stream eventstore.StreamID
	place  eventstore.Place
}

// startLoad spreads writers over stores.
func startLoad(t *testing.T, writers int, stores ...*postgres.Store) *load {
	l := &load{
		t: t, stop: make(chan struct{}), news: make(chan struct{}, 1),
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
		place, ok := l.settle(s, unit(name, version, fmt.Sprintf("%s-%d", name, n), fmt.Sprintf("%s-%d+", name, n)))
		if !ok {
			return
		}
		version = place.Version
	}
}

// settle appends a unit until its outcome is known.
func (l *load) settle(s *postgres.Store, u eventstore.Unit) (eventstore.Place, bool) {
	end := time.Now().Add(stuck)
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
			sentence(l.t, "append", err)
			if time.Now().After(end) {
				l.t.Errorf("the key %q was never acknowledged: %v", u.Commands[0].Key, err)
				return eventstore.Place{}, false
			}
			time.Sleep(5 * time.Millisecond) // a client's pause between two attempts
			continue
		default:
			// The stream is this writer's own: even a conflict would mean
			// that something of it was lost or doubled.
			l.t.Errorf("the key %q: %v", u.Commands[0].Key, err)
			return eventstore.Place{}, false
		}
		l.mu.Lock()
		for i, c := range u.Commands {
			l.acknowledged[c.Key] = acknowledgement{u.Stream, a.Commands[i]}
		}
		l.mu.Unlock()
		select {
		case l.news <- struct{}{}:
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

// more waits until n more commands were acknowledged: work goes on.
func (l *load) more(n int) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.t.Context(), stuck)
	defer cancel()
	for want := l.count() + n; l.count() < want; {
		select {
		case <-l.news:
		case <-ctx.Done():
			l.t.Fatalf("work does not go on: %d commands were acknowledged, want %d", l.count(), want)
		}
	}
}

// end stops the writers, each after its outcome is known.
func (l *load) end() {
	close(l.stop)
	l.writing.Wait()
}

// check compares the log with what was acknowledged: all of it is there, once
// and at the place that was told, and nothing else. It also checks what stores
// announced as committed by them.
func (l *load) check(url string, announced ...*told) {
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
			l.t.Errorf("the log holds the key %q, which nobody was told of, or holds it twice", c.Key)
		} else if want := (eventstore.Place{Version: c.Version, Position: c.Position}); a.stream != c.Stream || a.place != want {
			l.t.Errorf("the key %q is in %s at %v, and its writer was told %s at %v", c.Key, c.Stream, want, a.stream, a.place)
		}
		delete(missing, c.Key)
		byPosition[c.Position] = c.Key
	}
	for key := range missing {
		l.t.Errorf("the key %q was acknowledged and is not in the log", key)
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
