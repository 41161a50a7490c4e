package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/relay"
)

// A queue is a broker in memory, with one queue. The tests of relay/rabbitmq have a real
// one; this one can refuse, and hold confirmations back, at chosen events.
type queue struct {
	mu       sync.Mutex
	got      []relay.Message
	away     bool
	holds    bool                         // confirm nothing
	unwanted map[eventstore.Position]bool // events that cannot be taken over
	dials    int
	open     []*queueTarget
	knows    bool // Open returns the last position
}

func (q *queue) set(change func(*queue)) {
	q.mu.Lock()
	defer q.mu.Unlock()
	change(q)
}

// positions returns what the queue got, in its order.
func (q *queue) positions() (list []int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range q.got {
		list = append(list, int(m.Position))
	}
	return list
}

// release confirms what a target has published while the queue held its confirmations.
func (q *queue) release(t *queueTarget) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.holds = false
	for _, p := range t.held {
		if !t.closed { // its owner may have ended the run by itself
			t.confirmed <- p
		}
	}
	t.held = nil
}

// queueTarget implements relay.Target.
type queueTarget struct {
	q         *queue
	confirmed chan eventstore.Position
	held      []eventstore.Position
	err       error
	closed    bool
}

func (q *queue) target() relay.Target {
	return &queueTarget{q: q, confirmed: make(chan eventstore.Position, relay.MaxWindow)}
}

func (t *queueTarget) Open(context.Context, string) (last eventstore.Position, known bool, err error) {
	t.q.mu.Lock()
	defer t.q.mu.Unlock()
	t.q.dials++
	if t.q.away {
		return 0, false, errors.New("the broker is away")
	}
	t.q.open = append(t.q.open, t)
	for _, m := range t.q.got {
		last = max(last, m.Position)
	}
	return last, t.q.knows, nil
}

func (t *queueTarget) Publish(_ context.Context, m relay.Message) error {
	t.q.mu.Lock()
	defer t.q.mu.Unlock()
	switch {
	case t.closed:
		return errors.New("the connection is closed")
	case t.q.unwanted[m.Position]:
		t.end(&relay.EventError{Position: m.Position, Reason: "no queue wants it"})
		return t.err
	}
	t.q.got = append(t.q.got, m)
	if t.q.holds {
		t.held = append(t.held, m.Position)
		return nil
	}
	t.confirmed <- m.Position
	return nil
}

// end closes the connection; the caller holds the queue's lock.
func (t *queueTarget) end(err error) {
	if !t.closed {
		t.err, t.closed = err, true
		close(t.confirmed)
	}
}

func (t *queueTarget) Confirmed() <-chan eventstore.Position { return t.confirmed }

func (t *queueTarget) Err() error {
	t.q.mu.Lock()
	defer t.q.mu.Unlock()
	return t.err
}

func (t *queueTarget) Stalled() string { return "" }

func (t *queueTarget) Close() {
	t.q.mu.Lock()
	defer t.q.mu.Unlock()
	t.end(nil)
}

// leave makes the broker go away, as a crash does.
func (q *queue) leave() {
	q.set(func(q *queue) {
		q.away = true
		for _, t := range q.open {
			t.end(errors.New("the broker is away"))
		}
	})
}

type relayStore interface {
	eventstore.Store
	Rows() rows.Store
	AcceptLoss(ctx context.Context) (string, error)
}

// A relayWorld is a log, its relays, and nodes that run them.
type relayWorld struct {
	*testing.T
	store relayStore
	mu    sync.Mutex
	nodes []*Projections
	keys  int
	ops   RelayOperations
}

func eachRelayWorld(t *testing.T, test func(w *relayWorld)) {
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		w := &relayWorld{T: t}
		s, err := postgres.Open(t.Context(), postgres.Config{URL: postgrestest.URL(t), Committed: w.committed})
		w.begin(s, err, test)
	})
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		w := &relayWorld{T: t}
		s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Committed: w.committed})
		w.begin(s, err, test)
	})
}

func (w *relayWorld) begin(s relayStore, err error, test func(w *relayWorld)) {
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { s.Close() })
	w.store, w.ops = s, RelayOperations{Store: s, Rows: s.Rows()}
	test(w)
}

func (w *relayWorld) committed(_ string, batch []eventstore.Commit) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		n.Observe(batch)
	}
}

// commit stores one commit with events "1", "2", … of an aggregate.
func (w *relayWorld) commit(typ string, events int) {
	w.Helper()
	w.keys++
	c := eventstore.Command{Key: fmt.Sprint("k", w.keys), At: time.Unix(int64(w.keys), 0), Meta: eventstore.Meta{Client: "bob"}}
	for n := range events {
		c.Events = append(c.Events, eventstore.Event{Type: "noted", Data: fmt.Appendf(nil, `{"n":%d}`, n+1)})
	}
	u := eventstore.Unit{Stream: eventstore.StreamID{Type: typ, ID: fmt.Sprint(w.keys)}, Commands: []eventstore.Command{c}}
	if _, err := w.store.Append(w.Context(), u); err != nil {
		w.Fatal(err)
	}
}

// run starts a node with a relay "orders" to a queue. The node works while owns reports
// true, and until the end of the test or stop.
func (w *relayWorld) run(q *queue, owns func() bool, change ...func(*relay.Relay)) (p *Projections, stop func()) {
	w.Helper()
	r := relay.Relay{Name: "orders", Where: "a queue", New: q.target}
	for _, f := range change {
		f(&r)
	}
	if err := r.Err(); err != nil {
		w.Fatal(err)
	}
	head, err := w.store.Head(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	p = NewProjections(ProjectionsConfig{
		Catalog: new(aggregate.Catalog), Store: w.store, Rows: w.store.Rows(), Relays: []relay.Relay{r}, Closed: []string{"closed"},
		Owns: func(string, int) bool { return owns() }, Logger: slog.New(slog.DiscardHandler),
	})
	p.Begin(head)
	w.mu.Lock()
	w.nodes = append(w.nodes, p)
	w.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
	w.Cleanup(stop)
	return p, stop
}

func always() bool { return true }

func (w *relayWorld) eventually(what string, holds func() bool) {
	w.Helper()
	for began := time.Now(); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			w.Fatalf("it never happens that %s", what)
		}
	}
}

func (w *relayWorld) state() RelayState {
	w.Helper()
	list, err := w.ops.List(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	if len(list) == 0 {
		return RelayState{}
	}
	return list[0]
}

// stands waits until the checkpoint is at a position.
func (w *relayWorld) stands(at eventstore.Position) {
	w.Helper()
	w.eventually(fmt.Sprint("the relay stands at ", at), func() bool { return w.state().Position == at })
}

func (w *relayWorld) want(q *queue, positions ...int) {
	w.Helper()
	w.eventually(fmt.Sprintf("the queue has %v", positions), func() bool { return len(q.positions()) >= len(positions) })
	if got := q.positions(); !slices.Equal(got, positions) {
		w.Errorf("the queue has %v, want %v", got, positions)
	}
}

func (w *relayWorld) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func TestRelayPublishesTheLogInOrder(t *testing.T) {
	t.Parallel()
	eachRelayWorld(t, func(w *relayWorld) {
		w.commit("order", 2)
		w.commit("other", 3) // of another category
		q := new(queue)
		_, stop := w.run(q, always, func(r *relay.Relay) { r.Categories = []string{"order"}; r.Window = 1 })
		w.stands(5)
		w.commit("order", 2)
		w.stands(7)
		stop()
		w.want(q, 1, 2, 6, 7)
		m := q.got[3]
		want := relay.Message{
			Log: w.store.LogID(), Position: 7, Prev: 6, Stream: eventstore.StreamID{Type: "order", ID: "3"}, Version: 2, Event: "noted", Form: 1,
			Time: time.Unix(3, 0).UTC(), Cause: "k3", By: "bob", Data: m.Data,
		}
		if fmt.Sprint(m) != fmt.Sprint(want) || string(m.Data) != `{"n":2}` || q.got[0].Prev != 0 {
			w.Errorf("got %+v, want %+v, and no prev of the first message", m, want)
		}
		w.run(q, always)
		w.commit("closed", 1)
		w.commit("order", 1)
		w.want(q, 1, 2, 6, 7, 9)
	})
}

func TestCheckpointOfRelayWaitsForConfirmations(t *testing.T) {
	t.Parallel()
	eachRelayWorld(t, func(w *relayWorld) {
		q := &queue{holds: true}
		p, stop := w.run(q, always, func(r *relay.Relay) { r.Window = 3 })
		for range 5 {
			w.commit("order", 1)
		}
		w.want(q, 1, 2, 3)
		w.eventually("the window is full", func() bool { return p.Relays()[0].Broker.Unconfirmed == 3 })
		if at := w.state().Position; at != 0 {
			w.Errorf("the checkpoint is %d although nothing was confirmed", at)
		}
		q.set(func(q *queue) { // out of order: not contiguous
			q.open[0].confirmed <- 2
			q.open[0].confirmed <- 3
		})
		w.want(q, 1, 2, 3, 4, 5)
		q.set(func(q *queue) { q.open[0].confirmed <- 1 })
		w.stands(3)
		stop()
		q.set(func(q *queue) { q.holds = false })
		w.run(q, always)
		w.want(q, 1, 2, 3, 4, 5, 4, 5)
		w.stands(5)
	})
}

func TestBrokerThatIsAwayCostsLagAlone(t *testing.T) {
	t.Parallel()
	eachRelayWorld(t, func(w *relayWorld) {
		q := new(queue)
		p, _ := w.run(q, always)
		w.commit("order", 1)
		w.stands(1)
		q.leave()
		for range 20 {
			w.commit("order", 1)
		}
		w.eventually("the node dials again", func() bool { q.mu.Lock(); defer q.mu.Unlock(); return q.dials >= 4 })
		w.eventually("the reason is shown", func() bool { return strings.Contains(p.Relays()[0].Broker.Waits, "away") })
		if s := w.state(); s.Lag != 20 || s.Describe() != "active" {
			w.Errorf("got %+v, want a lag of 20", s)
		}
		q.set(func(q *queue) { q.away = false })
		w.stands(21)
		if got := q.positions(); !slices.IsSorted(got) || len(got) != 21 {
			w.Errorf("the queue has %v", got)
		}
	})
}

// Its alert and the console's problem are about these figures.
func TestLagOfRelayGrowsIfItsBrokerIsNeverReached(t *testing.T) {
	t.Parallel()
	eachRelayWorld(t, func(w *relayWorld) {
		q := &queue{away: true}
		w.commit("order", 3)
		p, _ := w.run(q, always)
		works := func(holds func(SegmentFigures) bool) func() bool {
			return func() bool {
				list := p.Relays()[0].Segments
				return len(list) == 1 && holds(list[0])
			}
		}
		w.eventually("lag and reason are shown", works(func(f SegmentFigures) bool {
			return f.Behind == 3 && f.Stale > 0 && f.Stopped == "broker"
		}))
		q.set(func(q *queue) { q.away = false })
		w.stands(3)
		w.eventually("the lag has ended", works(func(f SegmentFigures) bool { return f.Behind == 0 && f.Stopped == "" }))
	})
}

func TestRelayStopsAtAnEventUntilAnOperatorDecides(t *testing.T) {
	t.Parallel()
	eachRelayWorld(t, func(w *relayWorld) {
		q := &queue{unwanted: map[eventstore.Position]bool{2: true, 4: true}}
		w.run(q, always)
		for range 5 {
			w.commit("order", 1)
		}
		w.eventually("it stops", func() bool { return w.state().Blocked == 2 })
		if s := w.state(); s.Position != 1 || s.Describe() != "stopped at position 2: no queue wants it" {
			w.Errorf("got %+v: %s", s, s.Describe())
		}
		q.set(func(q *queue) { delete(q.unwanted, 2) })
		w.must(w.ops.Resume(w.Context(), "orders"))
		w.eventually("it stops again", func() bool { return w.state().Blocked == 4 })
		if err := w.ops.Skip(w.Context(), "orders", 3); err == nil || !strings.Contains(err.Error(), "has published the events up to 3") {
			w.Errorf("a skip of a published event: %v", err)
		}
		w.must(w.ops.Skip(w.Context(), "orders", 4))
		w.stands(5)
		w.want(q, 1, 2, 3, 5)
		// What is skipped remains skipped.
		_, err := w.ops.Rewind(w.Context(), "orders", 2)
		w.must(err)
		w.want(q, 1, 2, 3, 5, 3, 5)
	})
}

func TestRelayRewindsWhileItRuns(t *testing.T) {
	t.Parallel()
	eachRelayWorld(t, func(w *relayWorld) {
		q := new(queue)
		w.run(q, always)
		w.commit("order", 3)
		w.commit("order", 1)
		w.stands(4)
		if _, err := w.ops.Rewind(w.Context(), "orders", 5); err == nil || err.Error() != "the log ends at 4: use a position from 0 to 4" {
			w.Errorf("a rewind beyond the end: %v", err)
		}
		at, err := w.ops.Rewind(w.Context(), "orders", 3)
		w.must(err)
		w.want(q, 1, 2, 3, 4, 4)
		if at != 3 {
			w.Errorf("the rewind ends at %d, want 3", at)
		}
		at, err = w.ops.Rewind(w.Context(), "orders", 2) // within a commit
		w.must(err)
		w.want(q, 1, 2, 3, 4, 4, 1, 2, 3, 4)
		if at != 0 {
			w.Errorf("the rewind ends at %d, want 0, the end of the commit before", at)
		}
		if _, err := w.ops.Rewind(w.Context(), "others", 0); err == nil || !strings.Contains(err.Error(), `no relay "others": use orders`) {
			w.Errorf("an unknown relay: %v", err)
		}
	})
}

func TestPausedRelayPublishesNothing(t *testing.T) {
	t.Parallel()
	eachRelayWorld(t, func(w *relayWorld) {
		q := new(queue)
		p, _ := w.run(q, always)
		w.commit("order", 1)
		w.stands(1)
		w.must(w.ops.Pause(w.Context(), "orders"))
		w.eventually("the connection is closed", func() bool { return !p.Relays()[0].Broker.Connected })
		w.commit("order", 1)
		if s := w.state(); !s.Paused || s.Lag != 1 {
			w.Errorf("got %+v, want paused", s)
		}
		w.must(w.ops.Resume(w.Context(), "orders"))
		w.stands(2)
		w.want(q, 1, 2)
	})
}

func TestStaleOwnerOfRelayMovesNoCheckpoint(t *testing.T) {
	t.Parallel()
	eachRelayWorld(t, func(w *relayWorld) {
		first, second := &queue{holds: true}, &queue{unwanted: map[eventstore.Position]bool{1: true}}
		stale, _ := w.run(first, always)
		w.commit("order", 1)
		w.commit("order", 1)
		w.want(first, 1, 2)
		w.run(second, always)
		w.eventually("the new owner stops at the first event", func() bool { return w.state().Blocked == 1 })
		first.release(first.open[0])
		w.eventually("the stale owner ends its run", func() bool { return !stale.Relays()[0].Broker.Connected })
		if s := w.state(); s.Position != 0 || s.Blocked != 1 {
			w.Errorf("got %+v, want the position 0: the stale owner was fenced before its events were confirmed", s)
		}
	})
}

func TestRelayOfRestoredLogStopsUntilRewound(t *testing.T) {
	t.Parallel()
	eachRelayWorld(t, func(w *relayWorld) {
		q := new(queue)
		_, stop := w.run(q, always)
		w.commit("order", 1)
		w.commit("order", 1)
		w.stands(2)
		stop()
		_, err := w.store.AcceptLoss(w.Context())
		w.must(err)
		_ = w.store.Check(w.Context())
		_, err = w.store.Resume(w.Context())
		w.must(err)
		p, _ := w.run(q, always)
		w.eventually("it stops", func() bool { return p.Relays()[0].Retries["other_log"] > 0 })
		if s := w.state(); !s.OtherLog || s.Describe() != "stopped: other log" {
			w.Errorf("got %+v", s)
		}
		if err := w.ops.Resume(w.Context(), "orders"); err == nil || !strings.Contains(err.Error(), "ganglion relay rewind") {
			w.Errorf("a resume: %v", err)
		}
		_, err = w.ops.Rewind(w.Context(), "orders", 1)
		w.must(err)
		w.want(q, 1, 2, 2)
		if q.got[2].Log != w.store.LogID() {
			w.Error("the message has the id of the former log")
		}
	})
}

func TestRelayBeginsAfterTheLastEventOfItsBroker(t *testing.T) {
	t.Parallel()
	eachRelayWorld(t, func(w *relayWorld) {
		w.commit("order", 3)
		w.commit("order", 1)
		q := &queue{knows: true, got: []relay.Message{{Position: 1}, {Position: 2}}}
		_, stop := w.run(q, always)
		w.stands(4)
		w.want(q, 1, 2, 3, 4)
		stop()
		q.set(func(q *queue) { q.got = append(q.got, relay.Message{Position: 9}) })
		p, _ := w.run(q, always)
		w.eventually("it stops", func() bool { return p.Relays()[0].Retries["other_log"] > 0 })
		w.commit("order", 1)
		w.want(q, 1, 2, 3, 4, 9)
	})
}

func TestDroppedRelayBeginsAgain(t *testing.T) {
	t.Parallel()
	eachRelayWorld(t, func(w *relayWorld) {
		q := new(queue)
		_, stop := w.run(q, always)
		w.commit("order", 1)
		w.stands(1)
		stop()
		w.must(w.ops.Drop(w.Context(), "orders"))
		list, err := w.ops.List(w.Context())
		w.must(err)
		if len(list) != 0 {
			w.Errorf("got %v after the drop", list)
		}
		w.run(q, always)
		w.want(q, 1, 1)
	})
}
