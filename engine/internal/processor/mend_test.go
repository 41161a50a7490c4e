package processor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// A history lists the deposits of a receiver, so its order shows.
type history struct {
	Amounts []int64 `json:"amounts"`
}

// histories returns a projection of deposits by receiver. While its switches are
// on, a deposit of 13 panics, one of 14 panics, and one of 15 has no key.
func histories(t *testing.T, on *switches) *projection.Definition {
	t.Helper()
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[account]{
		Name:     "account",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[account]{"deposit": deposit{}},
		Events:   aggregate.Events[account]{"paid": paid{}},
	})
	p := projection.Define(c, projection.Table[history]{
		Name:     "histories",
		Segments: 2,
		On: projection.Handlers[history]{
			projection.OnKey(func(_ projection.At, e paid) string {
				if e.Amount == 15 && on.fifteen.Load() {
					panic("no key")
				}
				return e.To
			}, func(_ projection.At, e paid, h *history) {
				h.Amounts = append(h.Amounts, e.Amount)
				if e.Amount == 13 && on.thirteen.Load() || e.Amount == 14 && on.fourteen.Load() {
					panic(fmt.Sprint("unlucky ", e.Amount))
				}
			}),
		},
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return p.Definition
}

type switches struct{ thirteen, fourteen, fifteen atomic.Bool }

func (w *world) mender(model *projection.Definition, table rows.Table) *Mender {
	return &Mender{Model: model, Table: table, Log: w.store}
}

func (w *world) blocks(table rows.Table) []rows.Block {
	w.t.Helper()
	blocks, err := table.Blocks(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return blocks
}

// wantBlocks compares blocks as "KEY POSITION".
func (w *world) wantBlocks(table rows.Table, want ...string) {
	w.t.Helper()
	var got []string
	for _, b := range w.blocks(table) {
		got = append(got, fmt.Sprint(b.Key, " ", b.Position))
	}
	if !slices.Equal(got, want) {
		w.t.Errorf("the blocks are %q, want %q", got, want)
	}
}

func TestRetryAppliesWaitingEventsInOrder(t *testing.T) {
	t.Parallel()
	w, on := newWorld(t), &switches{}
	on.thirteen.Store(true)
	model := histories(t, on)
	w.start(model, all)
	table := w.table(model)
	w.pay("a", 0, paid{Amount: 1, To: "x"}, paid{Amount: 13, To: "x"}, paid{Amount: 2, To: "x"}, paid{Amount: 3, To: "y"})
	w.pay("b", 0, paid{Amount: 4, To: "x"}, paid{Amount: 5, To: "y"})
	w.caughtUp(table)
	w.want(table, "x", `{"amounts":[1]}`)
	w.want(table, "y", `{"amounts":[3,5]}`)
	w.wantBlocks(table, "x 2")

	m := w.mender(model, table)
	done, err := m.Retry(t.Context(), w.blocks(table)[0])
	if err != nil || done.Events != 0 || len(done.Blocks) != 1 || !strings.Contains(done.Blocks[0].Error, "unlucky 13") {
		t.Errorf("a retry without a fix: got %+v, %v", done, err)
	}
	w.want(table, "x", `{"amounts":[1]}`)

	on.thirteen.Store(false)
	if done, err = m.Retry(t.Context(), w.blocks(table)[0]); err != nil || done.Events != 3 || len(done.Blocks) != 0 {
		t.Errorf("a retry after a fix: got %+v, %v", done, err)
	}
	w.want(table, "x", `{"amounts":[1,13,2,4]}`)
	w.wantBlocks(table)
	w.pay("b", 2, paid{Amount: 6, To: "x"})
	w.caughtUp(table)
	w.want(table, "x", `{"amounts":[1,13,2,4,6]}`)
	if _, err := m.Retry(t.Context(), rows.Block{Key: "x", Segment: SegmentOf("x", 2), Position: 2}); !errors.Is(err, ErrNotBlocked) {
		t.Errorf("a retry of a row that does not wait: got %v, want ErrNotBlocked", err)
	}
}

func TestRetryStopsAtTheNextFailure(t *testing.T) {
	t.Parallel()
	w, on := newWorld(t), &switches{}
	on.thirteen.Store(true)
	on.fourteen.Store(true)
	model := histories(t, on)
	w.start(model, all)
	table := w.table(model)
	w.pay("a", 0, paid{Amount: 13, To: "x"}, paid{Amount: 2, To: "x"}, paid{Amount: 14, To: "x"}, paid{Amount: 3, To: "x"})
	w.caughtUp(table)
	on.thirteen.Store(false)
	m := w.mender(model, table)
	done, err := m.Retry(t.Context(), w.blocks(table)[0])
	if err != nil || done.Events != 2 || len(done.Blocks) != 1 {
		t.Errorf("got %+v, %v", done, err)
	}
	w.want(table, "x", `{"amounts":[13,2]}`)
	w.wantBlocks(table, "x 3")
	on.fourteen.Store(false)
	if _, err := m.Retry(t.Context(), w.blocks(table)[0]); err != nil {
		t.Error(err)
	}
	w.want(table, "x", `{"amounts":[13,2,14,3]}`)
}

func TestSkipExcludesThatEventAlone(t *testing.T) {
	t.Parallel()
	w, on := newWorld(t), &switches{}
	on.thirteen.Store(true)
	model := histories(t, on)
	w.start(model, all)
	table := w.table(model)
	w.pay("a", 0, paid{Amount: 1, To: "x"}, paid{Amount: 13, To: "x"}, paid{Amount: 2, To: "x"}, paid{Amount: 13, To: "x"}, paid{Amount: 3, To: "x"})
	w.caughtUp(table)
	m := w.mender(model, table)
	b := w.blocks(table)[0]
	for _, wrong := range []rows.Block{{Key: "x", Segment: b.Segment, Position: 3}, {Key: "y", Segment: b.Segment, Position: 2}} {
		if _, err := m.Skip(t.Context(), wrong); !errors.Is(err, ErrNotBlocked) {
			t.Errorf("a skip of %s at %d: got %v, want ErrNotBlocked", wrong.Key, wrong.Position, err)
		}
	}
	if _, err := m.Skip(t.Context(), b); err != nil {
		t.Error(err)
	}
	w.want(table, "x", `{"amounts":[1,2]}`)
	w.wantBlocks(table, "x 4")
	if _, err := m.Skip(t.Context(), w.blocks(table)[0]); err != nil {
		t.Error(err)
	}
	w.want(table, "x", `{"amounts":[1,2,3]}`)
	w.wantBlocks(table)
	skips, err := table.Skips(t.Context())
	if err != nil || len(skips) != 2 || skips[0].Position != 2 || skips[1].Position != 4 {
		t.Errorf("the skips are %+v, %v", skips, err)
	}
}

// TestRetryWhileTheSegmentMoves resumes a row again and again, while events for
// it arrive and two processors write its segment.
func TestRetryWhileTheSegmentMoves(t *testing.T) {
	t.Parallel()
	w, on := newWorld(t), &switches{}
	model := histories(t, on)
	for range 2 {
		w.start(model, all)
	}
	table := w.table(model)
	m := w.mender(model, table)
	var amounts []string
	var writing sync.WaitGroup
	var written atomic.Bool
	writing.Go(func() {
		defer written.Store(true)
		for i := range 240 {
			amount := int64(i + 100)
			if i%30 == 29 {
				amount = 13
				on.thirteen.Store(true)
			}
			amounts = append(amounts, fmt.Sprint(amount))
			w.pay("a", eventstore.Version(i), paid{Amount: amount, To: "x"})
		}
	})
	retries := 0
	for end := false; !end; {
		end = written.Load()
		if end {
			w.caughtUp(table)
		}
		for _, b := range w.blocks(table) {
			on.thirteen.Store(false)
			if _, err := m.Retry(t.Context(), b); err != nil && !errors.Is(err, ErrNotBlocked) {
				t.Fatal(err)
			}
			retries++
		}
	}
	writing.Wait()
	on.thirteen.Store(false)
	for _, b := range w.blocks(table) {
		if _, err := m.Retry(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	w.want(table, "x", `{"amounts":[`+strings.Join(amounts, ",")+`]}`)
	t.Logf("%d retries", retries)
}

// TestRetryOfAStreamFoldsItsRowsAgain resumes a stream of which an event has no
// key. A row that it concerns has got later events of another stream.
func TestRetryOfAStreamFoldsItsRowsAgain(t *testing.T) {
	t.Parallel()
	w, on := newWorld(t), &switches{}
	on.fifteen.Store(true)
	model := histories(t, on)
	w.start(model, all)
	table := w.table(model)
	w.pay("a", 0, paid{Amount: 1, To: "x"}, paid{Amount: 15, To: "y"}, paid{Amount: 2, To: "x"})
	w.pay("b", 0, paid{Amount: 3, To: "x"}, paid{Amount: 4, To: "y"})
	w.caughtUp(table)
	w.want(table, "x", `{"amounts":[1,3]}`)
	w.wantBlocks(table, "~account/a 2", "~account/a 2") // in both segments
	on.fifteen.Store(false)
	for _, b := range w.blocks(table) {
		if done, err := w.mender(model, table).Retry(t.Context(), b); err != nil || len(done.Blocks) != 0 || done.Events != 1 {
			t.Errorf("got %+v, %v", done, err)
		}
	}
	w.want(table, "x", `{"amounts":[1,2,3]}`)
	w.want(table, "y", `{"amounts":[15,4]}`)
	w.wantBlocks(table)
}

func TestSkipOfAStreamExcludesTheEventWithoutKey(t *testing.T) {
	t.Parallel()
	w, on := newWorld(t), &switches{}
	on.fifteen.Store(true)
	model := histories(t, on)
	w.start(model, all)
	table := w.table(model)
	w.pay("a", 0, paid{Amount: 15, To: "x"}, paid{Amount: 1, To: "x"}, paid{Amount: 15, To: "x"}, paid{Amount: 2, To: "x"})
	w.caughtUp(table)
	for range 2 {
		for _, b := range w.blocks(table) {
			if _, err := w.mender(model, table).Skip(t.Context(), b); err != nil {
				t.Error(err)
			}
		}
	}
	w.want(table, "x", `{"amounts":[1,2]}`)
	w.wantBlocks(table)
}
