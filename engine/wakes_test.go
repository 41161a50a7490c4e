package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/engine/internal/waker"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/eventstore/wakes"
	"github.com/ganglion-es/ganglion/eventstore/wakestest"
	"github.com/ganglion-es/ganglion/proto/command"
)

// wakeWorld is a log with a host and the wake-ups of one node or several.
type wakeWorld struct {
	testing.TB
	store   wakestest.Log
	host    *Host
	catalog *aggregate.Catalog

	mu          sync.Mutex
	projections []*Projections
	rung        map[string]bool
	twice       string        // an alarm that has rung twice
	changed     chan struct{} // has an element after a commit
	asked       atomic.Int64
	// instead, if set, answers a question, unless it returns nil.
	instead func(c command.Command) *command.Failure
}

func newWakeWorld(t *testing.T) *wakeWorld {
	return wakeWorldOn(t, func(committed eventstore.Committed) (wakestest.Log, error) {
		return sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Committed: committed})
	})
}

func wakeWorldOn(t testing.TB, open func(eventstore.Committed) (wakestest.Log, error)) *wakeWorld {
	w := &wakeWorld{TB: t, catalog: alarms(t), rung: map[string]bool{}, changed: make(chan struct{}, 1)}
	store, err := open(w.committed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	w.store = store
	w.host = start(t, Config{Store: store, Catalog: w.catalog})
	return w
}

// BenchmarkBurst wakes alarms on PostgreSQL that were all due before the node started.
// The fold of their commits into the table is part of it.
func BenchmarkBurst(b *testing.B) {
	w := wakeWorldOn(b, func(committed eventstore.Committed) (wakestest.Log, error) {
		return postgres.Open(b.Context(), postgres.Config{URL: postgrestest.URL(b), Committed: committed})
	})
	const setters = 256
	var setting sync.WaitGroup
	for s := range setters {
		setting.Go(func() {
			for i := s; i < b.N; i += setters {
				w.set(fmt.Sprint(i), six, "")
			}
		})
	}
	setting.Wait()
	b.ResetTimer()
	w.node()
	w.rings(b.N)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "wakes/s")
}

func (w *wakeWorld) committed(_ string, list []eventstore.Commit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range list {
		for _, e := range list[i].Events {
			if e.Type == "rung" {
				if id := list[i].Stream.ID; w.rung[id] {
					w.twice = id
				} else {
					w.rung[id] = true
				}
			}
		}
	}
	for _, p := range w.projections {
		p.Observe(list)
	}
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// node runs wake-ups until the test ends, or stop is called.
func (w *wakeWorld) node() (stop func()) {
	_, stop = w.nodeOf(WakesConfig{})
	return stop
}

// nodeOf runs wake-ups with a configuration whose missing parts are those of a node that
// owns all segments.
func (w *wakeWorld) nodeOf(cfg WakesConfig) (n *Wakes, stop func()) {
	head, err := w.store.Head(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	p := NewProjections(ProjectionsConfig{Catalog: w.catalog, Store: w.store, Rows: w.store.Rows(), Logger: slog.New(slog.DiscardHandler)})
	cfg.Catalog, cfg.Store, cfg.Projections, cfg.Logger = w.catalog, w.store, p, slog.New(slog.DiscardHandler)
	if cfg.Wakes == nil {
		cfg.Wakes = w.store.Wakes()
	}
	if cfg.Owns == nil {
		cfg.Owns = func(int) bool { return true }
	}
	if cfg.Send == nil {
		cfg.Send = w.send
	}
	n = NewWakes(cfg)
	w.mu.Lock()
	p.Begin(head)
	w.projections = append(w.projections, p)
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := n.Run(ctx); err != nil {
			w.Error(err)
		}
	}()
	stop = func() { cancel(); <-ended }
	w.Cleanup(stop)
	return n, stop
}

func (w *wakeWorld) send(ctx context.Context, c command.Command) command.Outcome {
	w.asked.Add(1)
	if w.instead != nil {
		if f := w.instead(c); f != nil {
			return command.Failed(f)
		}
	}
	c.System, c.ClientKey, c.Attempt = true, true, 1
	outcome := make(chan command.Outcome, 1)
	w.host.Submit(c, func(o command.Outcome) { outcome <- o })
	select {
	case o := <-outcome:
		return o
	case <-ctx.Done():
		return command.Failed(command.Timeout(command.RetrySameKey, "it ended"))
	}
}

func (w *wakeWorld) set(id string, rings time.Time, mood string) {
	c := setting("set "+id, rings, mood)
	c.Stream.ID = id
	if o := do(w, w.host, c); o.Failure != nil {
		w.Fatal(o.Failure)
	}
}

// old stores an event as a program does that knows no wake-ups, or another revision.
func (w *wakeWorld) old(id string, rings time.Time, wake eventstore.Wake) {
	data, err := json.Marshal(alarmSet{Rings: rings})
	if err != nil {
		w.Fatal(err)
	}
	if _, err := w.store.Append(w.Context(), eventstore.Unit{Stream: eventstore.StreamID{Type: "alarm", ID: id}, Commands: []eventstore.Command{{
		Key: "old", At: six, Meta: eventstore.Meta{Client: "ada", Wake: wake}, Events: []eventstore.Event{{Type: "set", Data: data}},
	}}}); err != nil {
		w.Fatal(err)
	}
}

// rings waits until n alarms have rung, and fails if one has rung twice.
func (w *wakeWorld) rings(n int) {
	w.Helper()
	for {
		w.mu.Lock()
		got := len(w.rung)
		if w.twice != "" {
			w.Errorf("%s has rung twice", w.twice)
		}
		w.mu.Unlock()
		if got >= n {
			return
		}
		select {
		case <-w.changed:
		case <-w.Context().Done():
			w.Fatalf("%d alarms have rung, want %d", got, n)
		}
	}
}

// shows waits until the table has these rows.
func (w *wakeWorld) shows(want string) {
	w.Helper()
	var got string
	for {
		list, _, err := w.store.Wakes().List(w.Context(), nil, 100)
		if err != nil {
			w.Fatalf("%v; the rows are %s, want %s", err, got, want)
		}
		got = ""
		for _, r := range list {
			state := r.Due.UTC().Format(time.DateTime)
			if r.Due.IsZero() {
				state = "refused"
			}
			got += fmt.Sprintf("%s@%d %s; ", r.Stream.ID, r.Version, state)
		}
		if got == want {
			return
		}
	}
}

var nextCentury = time.Date(2126, 1, 1, 0, 0, 0, 0, time.UTC)

func TestAlarmsRingOnceWhicheverNodeAsks(t *testing.T) {
	t.Parallel()
	w := newWakeWorld(t)
	w.node()
	w.node() // which believes to own the same segments
	const n = 50
	for i := range n {
		w.set(fmt.Sprint(i), six, "")
	}
	w.set("later", nextCentury, "")
	w.rings(n)
	w.shows("later@1 2126-01-01 00:00:00; ")
	w.rings(n)
}

func TestOldCommitsAreAskedImmediately(t *testing.T) {
	t.Parallel()
	w := newWakeWorld(t)
	w.old("without", six, eventstore.Wake{})
	w.old("revision", six, eventstore.Wake{Known: true, Micros: nextCentury.UnixMicro(), Revision: 2})
	w.old("later", nextCentury, eventstore.Wake{})
	w.old("wrong", nextCentury, eventstore.Wake{Known: true, Micros: six.UnixMicro(), Revision: 3})
	w.node()
	w.rings(2)
	w.shows("later@1 2126-01-01 00:00:00; wrong@1 2126-01-01 00:00:00; ")
}

func TestRowsOfWakeUpsOutliveTheirNode(t *testing.T) {
	t.Parallel()
	w := newWakeWorld(t)
	stop := w.node()
	w.set("a", nextCentury, "")
	w.shows("a@1 2126-01-01 00:00:00; ")
	stop()
	w.set("b", six, "") // while no node runs
	w.node()
	w.rings(1)
}

func TestRefusedWakeUpWaitsForAnotherStateOrAnOperator(t *testing.T) {
	t.Parallel()
	w := newWakeWorld(t)
	w.node()
	w.set("a", six, "quiet")
	w.set("b", six, "lazy")
	w.shows("a@1 refused; b@1 refused; ")
	asked := w.asked.Load()
	operations := WakeOperations{Wakes: w.store.Wakes(), Rows: w.store.Rows()}
	if n, err := operations.Retry(t.Context(), "alarm/a"); err != nil || n != 1 {
		t.Fatalf("retry: %d, %v", n, err)
	}
	w.shows("a@1 refused; b@1 refused; ") // again
	for w.asked.Load() == asked {
		w.shows("a@1 refused; b@1 refused; ")
	}
	if _, err := operations.Retry(t.Context(), "alarm/none"); err == nil {
		t.Error("an alarm without a row was retried")
	}
	c := setting("again", six, "")
	if o := do(t, w.host, c); o.Failure != nil { // alarm/a in another mood
		t.Fatal(o.Failure)
	}
	w.rings(1)
	w.shows("b@1 refused; ")
}

func TestQuestionsAreRepeatedAfterFailures(t *testing.T) {
	t.Parallel()
	w := newWakeWorld(t)
	var mu sync.Mutex
	failures := map[string][]*command.Failure{
		"internal": {command.Internal(command.RetryNo), command.Internal(command.RetryNo)},
		"away":     {command.Unavailable("away")},
		"older":    {command.UnknownCommand("alarm", waker.Name)},
	}
	w.instead = func(c command.Command) *command.Failure {
		mu.Lock()
		defer mu.Unlock()
		next := failures[c.Stream.ID]
		if len(next) == 0 {
			return nil
		}
		failures[c.Stream.ID] = next[1:]
		return next[0]
	}
	w.node()
	for _, id := range []string{"internal", "away", "older"} {
		w.set(id, six, "")
	}
	w.rings(3)
}

// The rows show a history that the log does not have.
func TestRowsOfAnotherLogAreMadeAgain(t *testing.T) {
	t.Parallel()
	w := newWakeWorld(t)
	w.set("a", six, "")
	fingerprint := WakeFingerprint(w.catalog)
	for segment := range waker.Segments {
		if _, err := w.store.Wakes().Begin(t.Context(), fingerprint, segment); err != nil {
			t.Fatal(err)
		}
		if err := w.store.Wakes().Write(t.Context(), wakes.Batch{
			Fingerprint: fingerprint, Segment: segment, To: 1, Key: "lost",
			Asks: []wakes.Ask{{Stream: eventstore.StreamID{Type: "alarm", ID: fmt.Sprint("lost ", segment)}, Version: 9, At: nextCentury}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	w.node()
	w.rings(1)
	w.shows("")
}

func TestPausedWakeUpsRingAfterTheResume(t *testing.T) {
	t.Parallel()
	w := newWakeWorld(t)
	operations := WakeOperations{Wakes: w.store.Wakes(), Rows: w.store.Rows()}
	if err := operations.Pause(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	w.node()
	w.set("a", six, "")
	w.shows("a@1 " + six.Format(time.DateTime) + "; ")
	if n := w.asked.Load(); n > 0 {
		t.Errorf("%d questions were asked while paused", n)
	}
	if err := operations.Pause(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	w.rings(1)
}
