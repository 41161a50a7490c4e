package processor

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/eventstore"
)

// meter counts the commits that a log returns.
type meter struct {
	MendLog
	commits int
}

func (m *meter) Read(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Commit, error) {
	list, err := m.MendLog.Read(ctx, after, limit)
	m.commits += len(list)
	return list, err
}

func (m *meter) ReadStream(ctx context.Context, s eventstore.StreamID, after eventstore.Version, limit int) ([]eventstore.Commit, error) {
	list, err := m.MendLog.ReadStream(ctx, s, after, limit)
	m.commits += len(list)
	return list, err
}

// passbooks returns a projection whose rows are the accounts. A deposit of 13 panics
// while on.thirteen is set.
func passbooks(t *testing.T, on *switches) *projection.Definition {
	t.Helper()
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[account]{
		Name:     "account",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[account]{"deposit": deposit{}},
		Events:   aggregate.Events[account]{"paid": paid{}},
	})
	p := projection.Define(c, projection.Table[history]{
		Name: "passbooks", Segments: 2,
		On: projection.Handlers[history]{projection.On(func(_ projection.At, e paid, h *history) {
			if h.Amounts = append(h.Amounts, e.Amount); e.Amount == 13 && on.thirteen.Load() {
				panic("unlucky")
			}
		})},
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return p.Definition
}

// spoil appends an event that cannot be decoded.
func (w *world) spoil(stream string, version eventstore.Version) {
	w.t.Helper()
	w.keys++
	u := eventstore.Unit{
		Stream: eventstore.StreamID{Type: "account", ID: stream}, Expected: version,
		Commands: []eventstore.Command{{Key: fmt.Sprint("k", w.keys), At: time.Unix(1, 0), Events: []eventstore.Event{{Type: "paid", Data: []byte(`{"amount":"much"}`)}}}},
	}
	if _, err := w.store.Append(w.t.Context(), u); err != nil {
		w.t.Fatal(err)
	}
}

func TestMendReadsOneStreamIfItsIDIsTheRowsKey(t *testing.T) {
	t.Parallel()
	w, on := newWorld(t), &switches{}
	on.thirteen.Store(true)
	model := passbooks(t, on)
	w.start(model, all)
	table := w.table(model)
	const others = 100
	bystanders := func() {
		for i := range others {
			w.pay(fmt.Sprint("other", w.keys), 0, paid{Amount: int64(i + 100)})
		}
	}
	w.pay("a", 0, paid{Amount: 1}, paid{Amount: 13}, paid{Amount: 2})
	w.pay("b", 0, paid{Amount: 3})
	w.spoil("b", 1)
	bystanders()
	w.pay("a", 3, paid{Amount: 4}, paid{Amount: 5})
	w.pay("b", 2, paid{Amount: 6})
	bystanders()
	w.caughtUp(table)
	w.want(table, "a", `{"amounts":[1]}`)
	w.wantBlocks(table, "a 2", "~account/b 5", "~account/b 5") // a stream in both segments

	log := &meter{MendLog: w.store}
	m := &Mender{Model: model, Table: table, Log: log}
	on.thirteen.Store(false)
	skipped := 0
	for _, b := range w.blocks(table) {
		if b.Key == "a" {
			if done, err := m.Retry(t.Context(), b); err != nil || done.Events != 4 || len(done.Blocks) != 0 {
				t.Errorf("the retry: %+v, %v", done, err)
			}
			continue
		}
		if done, err := m.Retry(t.Context(), b); err != nil || done.Events != 0 || len(done.Blocks) != 1 || done.Blocks[0].Position != b.Position {
			t.Errorf("the retry of a stream whose event is still bad: %+v, %v", done, err)
		}
		done, err := m.Skip(t.Context(), b)
		if err != nil || len(done.Blocks) != 0 {
			t.Errorf("the skip: %+v, %v", done, err)
		}
		skipped += done.Events
	}
	if skipped != 1 {
		t.Errorf("after the skips %d events were folded, want the one that waited", skipped)
	}
	w.want(table, "a", `{"amounts":[1,13,2,4,5]}`)
	w.want(table, "b", `{"amounts":[3,6]}`)
	w.wantBlocks(table)
	w.pay("b", 3, paid{Amount: 7})
	w.caughtUp(table)
	w.want(table, "b", `{"amounts":[3,6,7]}`)
	if log.commits > 40 {
		t.Errorf("%d commits of %d were read", log.commits, 2*others+5)
	}
	t.Logf("%d commits were read", log.commits)
}

// TestMendOfOneStreamContinuesWhereTheCheckpointMoved folds a stream up to one
// checkpoint, and then the events that have arrived since.
func TestMendOfOneStreamContinuesWhereTheCheckpointMoved(t *testing.T) {
	t.Parallel()
	w, on := newWorld(t), &switches{}
	on.thirteen.Store(true)
	model := passbooks(t, on)
	w.start(model, all)
	table := w.table(model)
	w.pay("a", 0, paid{Amount: 13}, paid{Amount: 1})
	w.caughtUp(table)
	on.thirteen.Store(false)
	b := w.blocks(table)[0]
	one := &mend{Mender: w.mender(model, table), fold: fold{model: rowModel{model}, segment: b.Segment}, target: b}
	if err := one.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := one.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := one.eachPage(t.Context(), one.at, one.foldPage); err != nil {
		t.Fatal(err)
	}
	one.at = one.checkpoint.Position // as far as an attempt comes that is fenced
	w.pay("c", 0, paid{Amount: 9})
	w.pay("a", 2, paid{Amount: 2}, paid{Amount: 3})
	w.caughtUp(table)
	if err := one.attempt(t.Context()); err != nil || one.done.Events != 4 {
		t.Errorf("got %+v, %v", one.done, err)
	}
	w.want(table, "a", `{"amounts":[13,1,2,3]}`)
}
