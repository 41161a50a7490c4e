package processor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
)

// An account is the aggregate of these tests. Each deposit goes to a row of its
// own name as well.
type (
	account struct{}
	deposit struct{}
	paid    struct {
		Amount int64  `json:"amount"`
		To     string `json:"to"`
	}
	balance struct {
		Sum    int64 `json:"sum"`
		Events int64 `json:"events"`
	}
)

func (deposit) Decide(aggregate.Call, account) (aggregate.Decision[account], error) {
	return aggregate.Emit[account](paid{})
}
func (paid) Apply(*account) {}

// balances returns a projection that sums deposits by receiver. A deposit of 13
// panics while broken reports true, and an empty row is deleted.
func balances(t testing.TB, broken func() bool) *projection.Definition {
	t.Helper()
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[account]{
		Name:     "account",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[account]{"deposit": deposit{}},
		Events:   aggregate.Events[account]{"paid": paid{}},
	})
	p := projection.Define(c, projection.Table[balance]{
		Name:     "balances",
		Segments: 2,
		On: projection.Handlers[balance]{
			projection.OnKey(func(_ projection.At, e paid) string { return e.To },
				func(_ projection.At, e paid, b *balance) {
					b.Events++
					if e.Amount == 13 && broken() {
						panic("unlucky")
					}
					b.Sum += e.Amount
				}),
		},
		Gone:    func(b balance) bool { return b.Sum < 0 },
		Indexes: [][]string{{"sum"}},
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return p.Definition
}

func never() bool { return false }

type store interface {
	eventstore.Store
	Rows() rows.Store
	AcceptLoss(ctx context.Context) (string, error)
}

// A world is a log with rows beside it, and a tail.
type world struct {
	t     *testing.T
	store store
	tail  *Tail
	keys  int
	at    time.Time // of commits
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, tail: NewTail(0), at: time.Unix(1, 0)}
	store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Committed: func(_ string, batch []eventstore.Commit) { w.tail.Add(batch) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	w.store = store
	return w
}

// pay appends one commit with payments.
func (w *world) pay(stream string, version eventstore.Version, payments ...paid) {
	w.t.Helper()
	w.keys++
	c := eventstore.Command{Key: fmt.Sprint("k", w.keys), At: w.at}
	for _, p := range payments {
		data, _ := json.Marshal(p)
		c.Events = append(c.Events, eventstore.Event{Type: "paid", Data: data})
	}
	u := eventstore.Unit{Stream: eventstore.StreamID{Type: "account", ID: stream}, Expected: version, Commands: []eventstore.Command{c}}
	if _, err := w.store.Append(w.t.Context(), u); err != nil {
		w.t.Fatal(err)
	}
}

// start runs a processor until the end of the test, or until stop is called.
func (w *world) start(model *projection.Definition, owns func(int) bool) (p *Processor, stop func()) {
	w.t.Helper()
	return w.startWith(Config{Model: model, Rows: w.store.Rows(), Owns: owns})
}

// startWith adds the log to a configuration.
func (w *world) startWith(cfg Config) (p *Processor, stop func()) {
	w.t.Helper()
	cfg.Log, cfg.Tail, cfg.Logger = w.store, w.tail, slog.New(slog.DiscardHandler)
	p = New(cfg)
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.Run(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	stop = func() { cancel(); <-done }
	w.t.Cleanup(stop)
	return p, stop
}

func all(int) bool { return true }

// table opens the newest build of a projection.
func (w *world) table(model *projection.Definition) rows.Table {
	w.t.Helper()
	b, err := w.store.Rows().Ensure(w.t.Context(), SpecOf(model))
	if err != nil {
		w.t.Fatal(err)
	}
	table, err := w.store.Rows().Open(w.t.Context(), SpecOf(model), b.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return table
}

// caughtUp waits until every segment stands at the head of the log.
func (w *world) caughtUp(table rows.Table) {
	w.t.Helper()
	head, err := w.store.Head(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	w.eventually("the checkpoints reach the head", func() bool {
		list, err := table.Checkpoints(w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		return !slices.ContainsFunc(list, func(c rows.Checkpoint) bool { return c.Position < head })
	})
}

func (w *world) eventually(what string, holds func() bool) {
	w.t.Helper()
	for began := time.Now(); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			w.t.Fatalf("it never happens that %s", what)
		}
	}
}

func (w *world) row(table rows.Table, key string) string {
	w.t.Helper()
	list, err := table.Load(w.t.Context(), []string{key})
	if err != nil {
		w.t.Fatal(err)
	}
	if len(list) == 0 {
		return "none"
	}
	return string(list[0].Data)
}

func (w *world) want(table rows.Table, key, row string) {
	w.t.Helper()
	if got := w.row(table, key); got != row {
		w.t.Errorf("row %s is %s, want %s", key, got, row)
	}
}

func (w *world) state(id int64) rows.State {
	w.t.Helper()
	builds, err := w.store.Rows().Builds(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, b := range builds {
		if b.ID == id {
			return b.State
		}
	}
	return "dropped"
}

func TestRowsFollowTheLogFromItsBeginning(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 300 { // more than a batch
		w.pay("a", eventstore.Version(2*i), paid{Amount: 1, To: "x"}, paid{Amount: 2, To: "y"})
	}
	model := balances(t, never)
	w.start(model, all)
	table := w.table(model)
	w.caughtUp(table)
	w.want(table, "x", `{"sum":300,"events":300}`)
	w.want(table, "y", `{"sum":600,"events":300}`)
	w.eventually("the build is active", func() bool { return w.state(table.Build().ID) == rows.Active })
	w.pay("b", 0, paid{Amount: 5, To: "x"}, paid{Amount: -700, To: "y"}, paid{Amount: 7, To: "z"})
	w.caughtUp(table)
	w.want(table, "x", `{"sum":305,"events":301}`)
	w.want(table, "y", "none")
	w.want(table, "z", `{"sum":7,"events":1}`)
	w.pay("b", 3, paid{Amount: 1, To: "y"})
	w.caughtUp(table)
	w.want(table, "y", `{"sum":1,"events":1}`)
}

func TestRivalsOfASegmentWriteEveryEventOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	model := balances(t, never)
	for range 3 {
		w.start(model, all)
	}
	table := w.table(model)
	for i := range 200 {
		w.pay("a", eventstore.Version(i), paid{Amount: 1, To: fmt.Sprint("r", i%7)})
	}
	w.caughtUp(table)
	for i := range 7 {
		n := 200 / 7
		if i < 200%7 {
			n++
		}
		w.want(table, fmt.Sprint("r", i), fmt.Sprintf(`{"sum":%d,"events":%d}`, n, n))
	}
}

func TestSegmentMovesWithItsOwner(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	model := balances(t, never)
	var first atomic.Bool
	first.Store(true)
	w.start(model, func(int) bool { return first.Load() })
	w.start(model, func(int) bool { return !first.Load() })
	table := w.table(model)
	for i := range 60 {
		if i%20 == 19 {
			first.Store(!first.Load())
		}
		w.pay("a", eventstore.Version(i), paid{Amount: 1, To: "x"})
	}
	w.caughtUp(table)
	w.want(table, "x", `{"sum":60,"events":60}`)
}

func TestFailingEventBlocksItsRowAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	model := balances(t, func() bool { return true })
	w.start(model, all)
	table := w.table(model)
	w.pay("a", 0, paid{Amount: 1, To: "x"}, paid{Amount: 1, To: "y"}, paid{Amount: 13, To: "x"}, paid{Amount: 4, To: "x"}, paid{Amount: 1, To: "z"})
	w.pay("a", 5, paid{Amount: 8, To: "x"}, paid{Amount: 8, To: "y"})
	w.caughtUp(table)
	w.want(table, "x", `{"sum":1,"events":1}`)
	w.want(table, "y", `{"sum":9,"events":2}`)
	w.want(table, "z", `{"sum":1,"events":1}`)
	blocks, err := table.Blocks(t.Context())
	if err != nil || len(blocks) != 1 || blocks[0].Key != "x" || blocks[0].Position != 3 || blocks[0].Attempts != attempts || !strings.Contains(blocks[0].Error, "unlucky") {
		t.Errorf("the blocks are %+v, %v; want x at 3", blocks, err)
	}
}

func TestBlockedRowStaysBlockedAfterARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var broken atomic.Bool
	broken.Store(true)
	model := balances(t, broken.Load)
	_, stop := w.start(model, all)
	table := w.table(model)
	w.pay("a", 0, paid{Amount: 13, To: "x"})
	w.caughtUp(table)
	stop()
	broken.Store(false)
	w.start(model, all)
	w.pay("a", 1, paid{Amount: 1, To: "x"})
	w.caughtUp(table)
	w.want(table, "x", "none")
}

func TestRebuildReplacesTheServingBuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	model := balances(t, never)
	w.start(model, all)
	old := w.table(model)
	w.pay("a", 0, paid{Amount: 1, To: "x"})
	w.eventually("the build is active", func() bool { return w.state(old.Build().ID) == rows.Active })
	again, err := w.store.Rows().Rebuild(t.Context(), SpecOf(model))
	if err != nil {
		t.Fatal(err)
	}
	w.eventually("the rebuild is active and the old build retired", func() bool {
		return w.state(again.ID) == rows.Active && w.state(old.Build().ID) == rows.Retired
	})
	w.want(w.table(model), "x", `{"sum":1,"events":1}`)
}

func TestRowsOfAnotherLogAreNotContinued(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	model := balances(t, never)
	_, stop := w.start(model, all)
	table := w.table(model)
	w.pay("a", 0, paid{Amount: 1, To: "x"})
	w.caughtUp(table)
	stop()
	if _, err := w.store.AcceptLoss(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := segment{fold: fold{model: rowModel{model}}, cfg: &Config{Model: model, Rows: w.store.Rows(), Log: w.store, Tail: w.tail}, table: table, log: slog.New(slog.DiscardHandler)}
	if err := s.follow(t.Context()); !errors.Is(err, errOtherLog) {
		t.Errorf("following another log: got %v, want errOtherLog", err)
	}
}

func TestUnknownEventWithdrawsAndBlocksNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	model := balances(t, never)
	table := w.table(model)
	u := eventstore.Unit{Stream: eventstore.StreamID{Type: "account", ID: "a"}, Commands: []eventstore.Command{{
		Key: "k", At: time.Unix(1, 0), Events: []eventstore.Event{{Type: "paid", Form: 2, Data: json.RawMessage(`{}`)}},
	}}}
	if _, err := w.store.Append(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	s := segment{fold: fold{model: rowModel{model}}, cfg: &Config{Model: model, Rows: w.store.Rows(), Log: w.store, Tail: w.tail}, table: table, log: slog.New(slog.DiscardHandler)}
	if err := s.follow(t.Context()); !errors.Is(err, aggregate.ErrUnknownEvent) {
		t.Errorf("got %v, want ErrUnknownEvent", err)
	}
	if blocks, err := table.Blocks(t.Context()); err != nil || len(blocks) != 0 {
		t.Errorf("%v is blocked, %v", blocks, err)
	}
}
