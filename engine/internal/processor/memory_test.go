package processor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/eventstore"
)

type ledger struct {
	Sums   map[string]int64 `json:"sums"`
	Events int64            `json:"events"`
}

// ledgers returns a catalog's projections in memory: "sums" by receiver, and
// "sound", which counts events. A deposit of 13 panics in "sums" while broken
// reports true.
func ledgers(t *testing.T, broken func() bool) (sums, sound *projection.InMemory[ledger]) {
	t.Helper()
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[account]{
		Name:     "account",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[account]{"deposit": deposit{}},
		Events:   aggregate.Events[account]{"paid": paid{}},
	})
	sums = projection.DefineMemory(c, projection.Memory[ledger]{
		Name: "sums",
		New:  func() ledger { return ledger{Sums: map[string]int64{}} },
		On: projection.Handlers[ledger]{projection.On(func(at projection.At, e paid, l *ledger) {
			if e.Amount == 13 && broken() {
				panic("unlucky")
			}
			l.Sums[e.To] += e.Amount
			l.Events++
			if uint64(l.Events) != at.Position {
				panic(fmt.Sprintf("event %d is at %+v", l.Events, at))
			}
		})},
	})
	sound = projection.DefineMemory(c, projection.Memory[ledger]{
		Name: "sound",
		On:   projection.Handlers[ledger]{projection.On(func(_ projection.At, _ paid, l *ledger) { l.Events++ })},
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return sums, sound
}

// remember runs memories until the end of the test, or until stop is called.
func (w *world) remember(log MemoryLog, logger *slog.Logger, models ...*projection.MemoryDefinition) (m *Memories, stop func()) {
	w.t.Helper()
	m = NewMemories(MemoriesConfig{Models: models, Log: log, Tail: w.tail, Logger: logger})
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	w.t.Cleanup(stop)
	return m, stop
}

// shows waits until a memory shows the head of the log, and compares its state.
func (w *world) shows(m *Memories, of *projection.InMemory[ledger], want string) {
	w.t.Helper()
	head, err := w.store.Head(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	if _, err := m.Await(ctx, of.MemoryDefinition, head); err != nil {
		w.t.Fatal(err)
	}
	err = of.Read(m, func(l *ledger, position uint64) {
		if got, err := json.Marshal(l); err != nil || string(got) != want || position != uint64(head) {
			w.t.Errorf("at position %d the state is %s, %v; want %s at %d", position, got, err, want, head)
		}
	})
	if err != nil {
		w.t.Error(err)
	}
}

func settled(t *testing.T, m *Memories) {
	t.Helper()
	select {
	case <-m.Settled():
	case <-time.After(time.Minute):
		t.Fatal("the memories never settle")
	}
}

func TestMemoryFollowsTheLogFromItsBeginning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 300 { // more than a batch
		w.pay("a", eventstore.Version(2*i), paid{Amount: 1, To: "x"}, paid{Amount: 2, To: "y"})
	}
	sums, sound := ledgers(t, never)
	m, _ := w.remember(w.store, slog.New(slog.DiscardHandler), sums.MemoryDefinition, sound.MemoryDefinition)
	settled(t, m)
	w.shows(m, sums, `{"sums":{"x":300,"y":600},"events":600}`)
	for i := range 100 {
		w.pay("b", eventstore.Version(i), paid{Amount: 1, To: "x"})
		w.shows(m, sums, fmt.Sprintf(`{"sums":{"x":%d,"y":600},"events":%d}`, 301+i, 601+i))
	}
	w.shows(m, sound, `{"sums":null,"events":700}`)
}

// A gate is a log whose reads wait until it is opened.
type gate struct {
	MemoryLog
	open chan struct{}
}

func (g gate) Read(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Commit, error) {
	select {
	case <-g.open:
		return g.MemoryLog.Read(ctx, after, limit)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestMemoryCannotBeReadBeforeItHasCaughtUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pay("a", 0, paid{Amount: 1, To: "x"})
	sums, sound := ledgers(t, never)
	g := gate{w.store, make(chan struct{})}
	m, _ := w.remember(g, slog.New(slog.DiscardHandler), sums.MemoryDefinition)
	unreadable := func(of *projection.InMemory[ledger], says string) {
		t.Helper()
		err := of.Read(m, func(*ledger, uint64) { t.Error("a state that is not current was read") })
		if !errors.Is(err, projection.ErrNotCurrent) || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want ErrNotCurrent with %q", err, says)
		}
	}
	unreadable(sums, `"sums" is still being folded`)
	unreadable(sound, `this node does not keep "sound"`)
	select {
	case <-m.Settled():
		t.Error("the memories have settled without the log")
	default:
	}
	close(g.open)
	settled(t, m)
	w.shows(m, sums, `{"sums":{"x":1},"events":1}`)
}

func TestEventThatCannotBeFoldedStopsItsMemoryOnly(t *testing.T) {
	t.Parallel()
	for name, event := range map[string]eventstore.Event{
		"a handler that panics": {Type: "paid", Data: json.RawMessage(`{"amount":13,"to":"x"}`)},
		"a newer form":          {Type: "paid", Form: 2, Data: json.RawMessage(`{}`)},
		"data of another kind":  {Type: "paid", Data: json.RawMessage(`{"amount":"much"}`)},
	} {
		w := newWorld(t)
		w.pay("a", 0, paid{Amount: 1, To: "x"})
		sums, sound := ledgers(t, func() bool { return true })
		var logged bytes.Buffer
		models := []*projection.MemoryDefinition{sums.MemoryDefinition}
		if event.Form == 0 && strings.Contains(string(event.Data), "13") {
			models = append(models, sound.MemoryDefinition)
		}
		m, stop := w.remember(w.store, slog.New(slog.NewTextHandler(&logged, nil)), models...)
		w.shows(m, sums, `{"sums":{"x":1},"events":1}`)
		u := eventstore.Unit{Stream: eventstore.StreamID{Type: "account", ID: "b"}, Commands: []eventstore.Command{{Key: "bad", At: time.Unix(1, 0), Events: []eventstore.Event{event}}}}
		if _, err := w.store.Append(t.Context(), u); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		_, err := m.Await(ctx, sums.MemoryDefinition, 2)
		cancel()
		if !errors.Is(err, projection.ErrNotCurrent) || !strings.Contains(err.Error(), "position 2 cannot be folded") {
			t.Errorf("%s: got %v, want that it has stopped at position 2", name, err)
		}
		if len(models) > 1 {
			w.shows(m, sound, `{"sums":null,"events":2}`)
		}
		stop()
		if !strings.Contains(logged.String(), "projection=sums position=2") {
			t.Errorf("%s: the log does not say what has stopped:\n%s", name, &logged)
		}
		again, _ := w.remember(w.store, slog.New(slog.DiscardHandler), sums.MemoryDefinition)
		settled(t, again) // it does not keep its node from becoming ready
	}
}

func TestMemoryIsFoldedAgainForAnotherLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.pay("a", 0, paid{Amount: 1, To: "x"})
	sums, sound := ledgers(t, never)
	log := &incarnations{MemoryLog: w.store, id: "one"}
	m, _ := w.remember(log, slog.New(slog.DiscardHandler), sound.MemoryDefinition, sums.MemoryDefinition)
	w.shows(m, sums, `{"sums":{"x":1},"events":1}`)
	w.pay("a", 1, paid{Amount: 1, To: "x"})
	w.shows(m, sums, `{"sums":{"x":2},"events":2}`)
	log.set("two", 1) // the tail still has the commit that the log lacks
	w.eventually("the states show the shorter log", func() bool {
		shorter := false
		_ = sums.Read(m, func(l *ledger, position uint64) { shorter = position == 1 && l.Events == 1 && l.Sums["x"] == 1 })
		return shorter
	})
	w.tail.Reset(1)
	w.tail.Add([]eventstore.Commit{{Position: 2, Stream: eventstore.StreamID{Type: "account", ID: "a"}, Version: 2, Events: []eventstore.Event{{Type: "paid", Data: json.RawMessage(`{"amount":7,"to":"x"}`)}}}})
	w.shows(m, sums, `{"sums":{"x":8},"events":2}`)
}

// incarnations is a log that was restored to an earlier point.
type incarnations struct {
	MemoryLog
	mu   sync.Mutex
	id   string
	head eventstore.Position // 0: as it is
}

func (l *incarnations) set(id string, head eventstore.Position) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.id, l.head = id, head
}

func (l *incarnations) LogID() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id
}

func (l *incarnations) cut() eventstore.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

func (l *incarnations) Head(ctx context.Context) (eventstore.Position, error) {
	if head := l.cut(); head > 0 {
		return head, nil
	}
	return l.MemoryLog.Head(ctx)
}

func (l *incarnations) Read(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Commit, error) {
	commits, err := l.MemoryLog.Read(ctx, after, limit)
	if head := l.cut(); head > 0 {
		kept := commits[:0:0]
		for _, c := range commits {
			if c.Position <= head {
				kept = append(kept, c)
			}
		}
		commits = kept
	}
	return commits, err
}
