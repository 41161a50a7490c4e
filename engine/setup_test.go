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

// Box is an aggregate with what the shipped ones lack: a snapshot every ten
// events, several events for a command, and ways to go wrong.
type Box struct {
	Value  int
	Events int
	Broken bool // the view panics
}

type (
	put struct { // puts, or is rejected when by is 0
		By int `json:"by"`
	}
	repeat struct { // puts 1, so often
		Times int `json:"times"`
	}
	idle struct{} // is granted and changes nothing
	huge struct { // makes an event of that size
		Bytes int `json:"bytes"`
	}
	boom struct { // panics or fails: in decide, error, nil rejection, nil error, apply, view
		In string `json:"in"`
	}
	mark struct { // makes an event that only some programs know
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

var errEmpty = aggregate.Reject("empty", "there is nothing to put")

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

// textless is an error that can't be asked for anything when it is nil.
type textless struct{ cause error }

func (e *textless) Error() string { return "boom: " + e.cause.Error() }
func (e *textless) Unwrap() error { return e.cause }

func (e putEvent) Apply(b *Box)  { b.Value += e.By; b.Events++ }
func (e hugeEvent) Apply(b *Box) { b.Events++ }
func (e markEvent) Apply(b *Box) { b.Events++ }
func (e boomEvent) Apply(b *Box) {
	b.Value = -1 // half done
	if e.In == "apply" {
		panic("boom in apply")
	}
	b.Events++
	b.Broken = true
}

// catalog returns a catalog with boxes; change changes their definition.
func catalog(change func(*aggregate.Type[Box])) *aggregate.Catalog {
	var c aggregate.Catalog
	t := aggregate.Type[Box]{
		Name:          "box",
		Doc:           "A box is for tests.",
		Access:        aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		SnapshotEvery: 10,
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
	h, _ := starting(t, config, time.Hour) // figures of a test must not depend on how busy the machine is
	return h
}

func startStopping(t testing.TB, config Config) (h *Host, stop func()) {
	t.Helper()
	return starting(t, config, pauseMost)
}

func starting(t testing.TB, config Config, pauseMost time.Duration) (h *Host, stop func()) {
	t.Helper()
	if config.Catalog == nil {
		config.Catalog = catalog(nil)
	}
	h, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	h.pauseMost = pauseMost
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

// cmd is a command as a gateway sends it for a client that gives keys.
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

// do submits a command and waits for its answer.
func do(t testing.TB, h *Host, c command.Command) command.Outcome {
	t.Helper()
	return <-submit(t, h, c)
}

// submit submits a command; the channel gets its answer. A second answer
// fails the test.
func submit(t testing.TB, h *Host, c command.Command) <-chan command.Outcome {
	t.Helper()
	answer := make(chan command.Outcome, 1)
	var once sync.Once
	h.Submit(c, func(o command.Outcome) {
		first := false
		once.Do(func() { first = true })
		if !first {
			t.Errorf("command %s was answered twice", c.Key)
			return
		}
		answer <- o
	})
	return answer
}

// granted asserts that a command was executed, and where its events are.
func granted(t testing.TB, o command.Outcome, version eventstore.Version) command.Result {
	t.Helper()
	if o.Failure != nil {
		t.Fatalf("the command failed: %v", o.Failure)
	}
	if o.Result.Version != version {
		t.Fatalf("the command ended at version %d, want %d", o.Result.Version, version)
	}
	return o.Result
}

// failed asserts that a command failed, and how.
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

// getFails asserts that a get fails, and how.
func getFails(t testing.TB, h *Host, g command.Get, code command.Code) *command.Failure {
	t.Helper()
	state, err := h.Get(t.Context(), g)
	var f *command.Failure
	if !errors.As(err, &f) || f.Code != code {
		t.Fatalf("get %s: %s, error %v; want %s", g.Stream, state.Data, err, code)
	}
	return f
}

// gate lets a test hold something up: what passes waits until it is opened,
// or the test ends.
type gate struct {
	arrived chan struct{} // one for each that waits
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

// holdFirst makes the log hold up its first append.
func holdFirst(t testing.TB, log *memlog) *gate {
	g := newGate(t)
	var first sync.Once
	log.before = func(eventstore.Unit) error { first.Do(g.pass); return nil }
	return g
}

// logged collects what a host logs.
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

// assertLog asserts what must hold of any log: dense positions, dense versions
// for each stream, and every key of a stream once.
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
				t.Errorf("%s: key %s is there twice", c.Stream, c.Key)
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

// waitIdle waits until no aggregate is being worked on: a command's answer
// leaves a moment before that.
func waitIdle(t testing.TB, h *Host) {
	t.Helper()
	for h.Stats().Active > 0 {
		select {
		case <-t.Context().Done():
			t.Fatal("the host does not come to rest")
		default:
			runtime.Gosched()
		}
	}
}

// opener opens one more handle on a log, as each node has one.
type opener func(eventstore.Committed) eventstore.Store

// eachStore runs a test on every kind of log there is.
func eachStore(t *testing.T, test func(t *testing.T, log opener)) {
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		log := newMemlog()
		test(t, func(told eventstore.Committed) eventstore.Store {
			if told != nil {
				log.mu.Lock()
				defer log.mu.Unlock()
				log.told = append(log.told, told)
			}
			return log
		})
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		test(t, func(told eventstore.Committed) eventstore.Store {
			store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir, Committed: told})
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
	return func(told eventstore.Committed) eventstore.Store {
		store, err := postgres.Open(t.Context(), postgres.Config{URL: url, Committed: told})
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

// waitSnapshot waits until the newest snapshot of a stream with a fingerprint is
// one of a version, and returns it.
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

// patience is how long a test waits for something that happens on its own.
const patience = time.Minute

// waitStats waits until the host's figures are as wanted.
func waitStats(t testing.TB, h *Host, want func(Stats) bool) {
	t.Helper()
	deadline := time.After(patience)
	for !want(h.Stats()) {
		select {
		case <-deadline:
			t.Fatalf("it does not come to that: %+v", h.Stats())
		case <-time.After(time.Millisecond):
		}
	}
}
