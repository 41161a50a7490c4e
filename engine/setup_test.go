package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/proto/command"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// Box is an aggregate with a snapshot every ten events, commands with several events,
// and commands that fail in each possible way.
type Box struct {
	Value  int
	Events int
	Broken bool // the view panics
}

type (
	put struct { // adds By, or is rejected if it is 0
		By int `json:"by"`
	}
	repeat struct { // adds 1 in each of Times events
		Times int `json:"times"`
	}
	idle struct{} // is granted and changes nothing
	huge struct { // has an event of this size
		Bytes int `json:"bytes"`
	}
	boom struct { // panics or fails in: decide, error, nil rejection, nil error, apply, view
		In string `json:"in"`
	}
	mark struct { // has an event that only some programs know
		Text string `json:"text"`
	}
)

type (
	putEvent struct {
		By int `json:"by"`
	}
	hugeEvent struct {
		Data string `json:"data"`
	}
	boomEvent struct {
		In string `json:"in"`
	}
	markEvent struct {
		Text string `json:"text"`
	}
)

var errEmpty = aggregate.Reject("empty", "By is 0")

func (c put) Decide(_ aggregate.Call, b Box) (aggregate.Decision[Box], error) {
	if c.By == 0 {
		return nil, errEmpty.Because("the box has %d", b.Value)
	}
	return aggregate.Emit[Box](putEvent(c))
}

func (c repeat) Decide(aggregate.Call, Box) (aggregate.Decision[Box], error) {
	var d aggregate.Decision[Box]
	for range c.Times {
		d = append(d, putEvent{By: 1})
	}
	return d, nil
}

func (idle) Decide(aggregate.Call, Box) (aggregate.Decision[Box], error) {
	return aggregate.Emit[Box]()
}

func (c huge) Decide(aggregate.Call, Box) (aggregate.Decision[Box], error) {
	return aggregate.Emit[Box](hugeEvent{Data: strings.Repeat("x", c.Bytes)})
}

func (c boom) Decide(aggregate.Call, Box) (aggregate.Decision[Box], error) {
	switch c.In {
	case "decide":
		panic("boom in decide")
	case "error":
		return nil, errors.New("boom with an error")
	case "nil rejection":
		var none *aggregate.Rejection
		return nil, none
	case "nil error":
		var none *textless
		return nil, none
	}
	return aggregate.Emit[Box](boomEvent(c))
}

func (c mark) Decide(aggregate.Call, Box) (aggregate.Decision[Box], error) {
	return aggregate.Emit[Box](markEvent(c))
}

// textless is an error whose methods panic on a nil pointer.
type textless struct{ cause error }

func (e *textless) Error() string { return "boom: " + e.cause.Error() }
func (e *textless) Unwrap() error { return e.cause }

func (e putEvent) Apply(b *Box)  { b.Value += e.By; b.Events++ }
func (e hugeEvent) Apply(b *Box) { b.Events++ }
func (e markEvent) Apply(b *Box) { b.Events++ }
func (e boomEvent) Apply(b *Box) {
	b.Value = -1 // half changed
	if e.In == "apply" {
		panic("boom in apply")
	}
	b.Events++
	b.Broken = true
}

// catalog returns a catalog with the type box. change may modify its definition.
func catalog(change func(*aggregate.Type[Box])) *aggregate.Catalog {
	var c aggregate.Catalog
	t := aggregate.Type[Box]{
		Name:          "box",
		Doc:           "A box for tests.",
		Access:        aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		SnapshotEvery: 10,
		Rejections:    aggregate.Rejections{errEmpty},
		Commands: aggregate.Commands[Box]{
			"put": put{}, "repeat": repeat{}, "idle": idle{}, "huge": huge{}, "boom": boom{}, "mark": mark{},
		},
		Events: aggregate.Events[Box]{"put": putEvent{}, "huge": hugeEvent{}, "exploded": boomEvent{}, "marked": markEvent{}},
		View: func(b Box) any {
			if b.Broken {
				panic("boom in view")
			}
			return map[string]int{"value": b.Value, "events": b.Events}
		},
	}
	if change != nil {
		change(&t)
	}
	aggregate.Define(&c, t)
	return &c
}

// start runs a host until the test ends.
func start(t testing.TB, config Config) *Host {
	t.Helper()
	h, _ := startWith(t, config, time.Hour) // on a busy machine a test may look paused
	return h
}

// startStopping runs a host until stop is called.
func startStopping(t testing.TB, config Config) (h *Host, stop func()) {
	t.Helper()
	return startWith(t, config, pauseLimit)
}

func startWith(t testing.TB, config Config, pauseLimit time.Duration) (h *Host, stop func()) {
	t.Helper()
	if config.Catalog == nil {
		config.Catalog = catalog(nil)
	}
	h, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	h.pauses.limit = pauseLimit
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := h.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	stop = func() { cancel(); <-ended }
	t.Cleanup(stop)
	return h, stop
}

func box(id string) eventstore.StreamID { return eventstore.StreamID{Type: "box", ID: id} }

// cmd returns a command with a client's key, as a gateway sends it.
func cmd(id, key, name string, data any) command.Command {
	raw, err := json.Marshal(data)
	if err != nil {
		panic(err)
	}
	return command.Command{
		Stream: box(id), Name: name, Data: raw, Key: key, ClientKey: true, Client: "ada", Session: "s", Attempt: 1,
	}
}

type m map[string]any

// do submits a command and waits for its outcome.
func do(t testing.TB, h *Host, c command.Command) command.Outcome {
	t.Helper()
	return <-submit(t, h, c)
}

// submit submits a command and returns a channel for its outcome. A second reply fails
// the test.
func submit(t testing.TB, h *Host, c command.Command) <-chan command.Outcome {
	t.Helper()
	outcome := make(chan command.Outcome, 1)
	var once sync.Once
	h.Submit(c, func(o command.Outcome) {
		first := false
		once.Do(func() { first = true })
		if !first {
			t.Errorf("command %s got two replies", c.Key)
			return
		}
		outcome <- o
	})
	return outcome
}

// granted asserts that a command was executed at a version.
func granted(t testing.TB, o command.Outcome, version eventstore.Version) command.Result {
	t.Helper()
	if o.Failure != nil {
		t.Fatalf("the command failed: %v", o.Failure)
	}
	if o.Result.Version != version {
		t.Fatalf("the command is at version %d, want %d", o.Result.Version, version)
	}
	return o.Result
}

// failed asserts that a command failed with a code and retry.
func failed(t testing.TB, o command.Outcome, code command.Code, retry command.Retry) *command.Failure {
	t.Helper()
	if o.Failure == nil {
		t.Fatalf("the command succeeded with %+v, want %s", o.Result, code)
	}
	if o.Failure.Code != code || o.Failure.Retry != retry {
		t.Fatalf("the command failed with %s (retry %s): %s; want %s (retry %s)",
			o.Failure.Code, o.Failure.Retry, o.Failure.Message, code, retry)
	}
	return o.Failure
}

// get reads a box's value.
func get(t testing.TB, h *Host, g command.Get) (value int, version eventstore.Version) {
	t.Helper()
	state, err := h.Get(t.Context(), g)
	if err != nil {
		t.Fatalf("get %s: %v", g.Stream, err)
	}
	var shown struct{ Value int }
	if err := json.Unmarshal(state.Data, &shown); err != nil {
		t.Fatal(err)
	}
	return shown.Value, state.Version
}

// getFails asserts that a get fails with a code.
func getFails(t testing.TB, h *Host, g command.Get, code command.Code) *command.Failure {
	t.Helper()
	state, err := h.Get(t.Context(), g)
	var f *command.Failure
	if !errors.As(err, &f) || f.Code != code {
		t.Fatalf("get %s: %s, error %v; want %s", g.Stream, state.Data, err, code)
	}
	return f
}

// gate blocks each call of pass until open is called or the test ends.
type gate struct {
	arrived chan struct{} // one element for each call of pass
	opened  chan struct{}
	end     <-chan struct{}
}

func newGate(t testing.TB) *gate {
	return &gate{arrived: make(chan struct{}, 1024), opened: make(chan struct{}), end: t.Context().Done()}
}

func (g *gate) open() { close(g.opened) }

func (g *gate) pass() {
	g.arrived <- struct{}{}
	select {
	case <-g.opened:
	case <-g.end:
	}
}

// holdFirst makes the first append of the log wait for the returned gate.
func holdFirst(t testing.TB, log *memlog) *gate {
	g := newGate(t)
	var first sync.Once
	log.before = func(eventstore.Unit) error { first.Do(g.pass); return nil }
	return g
}

// logged collects a host's log lines.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// assertLog asserts that positions have no gaps, that the versions of each stream have
// none, and that no key of a stream is repeated. It returns all commits.
func assertLog(t testing.TB, store eventstore.Store) (commits []eventstore.Commit) {
	t.Helper()
	var position eventstore.Position
	versions := map[eventstore.StreamID]eventstore.Version{}
	keys := map[string]bool{}
	for {
		batch, err := store.Read(t.Context(), position, 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range batch {
			if c.First() != position+1 {
				t.Errorf("position %d follows %d", c.First(), position)
			}
			if c.FirstVersion() != versions[c.Stream]+1 {
				t.Errorf("%s: version %d follows %d", c.Stream, c.FirstVersion(), versions[c.Stream])
			}
			key := fmt.Sprint(c.Stream, " ", c.Key)
			if keys[key] {
				t.Errorf("%s: key %s is repeated", c.Stream, c.Key)
			}
			keys[key], versions[c.Stream], position = true, c.Version, c.Position
		}
		commits = append(commits, batch...)
		if len(batch) < 1000 {
			return commits
		}
	}
}

func contextEnded(t testing.TB) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx, cancel
}

// waitIdle waits until the host has no worker. A worker ends a moment after it has
// replied.
func waitIdle(t testing.TB, h *Host) {
	t.Helper()
	for h.Stats().Active > 0 {
		select {
		case <-t.Context().Done():
			t.Fatal("the host still has workers")
		default:
			runtime.Gosched()
		}
	}
}

// opener opens another store on the same log, as each node does.
type opener func(eventstore.Committed) eventstore.Store

// eachStore runs a test on a log in memory, on SQLite and on PostgreSQL.
func eachStore(t *testing.T, test func(t *testing.T, log opener)) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		log := newMemlog()
		test(t, func(committed eventstore.Committed) eventstore.Store {
			if committed != nil {
				log.mu.Lock()
				defer log.mu.Unlock()
				log.listeners = append(log.listeners, committed)
			}
			return log
		})
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		test(t, func(committed eventstore.Committed) eventstore.Store {
			store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir, Committed: committed})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := store.Close(); err != nil {
					t.Errorf("close the store: %v", err)
				}
			})
			return store
		})
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		test(t, onPostgres(t, postgrestest.URL(t)))
	})
}

func onPostgres(t *testing.T, url string) opener {
	return func(committed eventstore.Committed) eventstore.Store {
		store, err := postgres.Open(t.Context(), postgres.Config{URL: url, Committed: committed})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := store.Close(); err != nil {
				t.Errorf("close the store: %v", err)
			}
		})
		return store
	}
}

// waitSnapshot waits for a stream's snapshot at a version and with a fingerprint, and
// returns it.
func waitSnapshot(t *testing.T, store eventstore.Store, s eventstore.StreamID, fingerprint string, version eventstore.Version) *eventstore.Snapshot {
	t.Helper()
	var newest *eventstore.Snapshot
	for end := time.Now().Add(patience); newest == nil || newest.Version < version; time.Sleep(time.Millisecond) {
		loaded, err := store.Load(t.Context(), eventstore.LoadRequest{Stream: s, Fingerprint: fingerprint, Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		newest = loaded.Snapshot
		if time.Now().After(end) {
			t.Fatalf("the newest snapshot is %+v, want one of version %d", newest, version)
		}
	}
	return newest
}

// patience is how long a test waits for background work.
const patience = time.Minute

// waitStats waits until want accepts the host's figures.
func waitStats(t testing.TB, h *Host, want func(Stats) bool) {
	t.Helper()
	deadline := time.After(patience)
	for !want(h.Stats()) {
		select {
		case <-deadline:
			t.Fatalf("after a minute the figures are %+v", h.Stats())
		case <-time.After(time.Millisecond):
		}
	}
}
