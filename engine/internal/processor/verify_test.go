package processor

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// verify returns the differences as "KEY: STORED / FOLDED", sorted.
func (w *world) verify(model *projection.Definition, table rows.Table, memory int) (Verified, []string) {
	w.t.Helper()
	var found []string
	v := Verifier{Model: model, Table: table, Log: w.store, Memory: memory, Report: func(d Difference) {
		found = append(found, fmt.Sprintf("%s: %s / %s", d.Key, d.Stored, d.Folded))
	}}
	done, err := v.Run(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	slices.Sort(found)
	return done, found
}

// tamper writes rows beside the processor, at the checkpoint of their segment.
func (w *world) tamper(table rows.Table, list ...rows.Row) {
	w.t.Helper()
	checkpoints, err := table.Checkpoints(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range list {
		r.Segment = SegmentOf(r.Key, len(checkpoints))
		c := checkpoints[r.Segment]
		b := rows.Batch{Segment: r.Segment, From: c.Position, To: c.Position, Key: c.Key, Mends: c.Mends, Rows: []rows.Row{r}}
		if err := table.Write(w.t.Context(), b); err != nil {
			w.t.Fatal(err)
		}
		checkpoints[r.Segment].Mends++
	}
}

func TestVerifyFindsEveryDifference(t *testing.T) {
	t.Parallel()
	for _, memory := range []int{0, 700} { // one pass; several
		t.Run(fmt.Sprint(memory), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			model := balances(t, never)
			_, stop := w.start(model, all)
			table := w.table(model)
			for i := range 40 {
				w.pay("a", eventstore.Version(i), paid{Amount: int64(i), To: fmt.Sprintf("r%02d", i%20)})
			}
			w.pay("a", 40, paid{Amount: -1000, To: "r19"}, paid{Amount: -1000, To: "r18"})
			w.caughtUp(table)
			done, found := w.verify(model, table, memory)
			if len(found) != 0 || done.Rows != 18 || done.Tombstones != 2 || done.Position != 42 || (done.Passes > 2) != (memory > 0) {
				t.Errorf("of right rows: got %+v, %q", done, found)
			}
			stop()
			w.tamper(table,
				rows.Row{Key: "r00", Position: 21, Values: []any{int64(21)}, Data: []byte(`{"sum":21,"events":2}`)},
				rows.Row{Key: "r01", Position: 21, Values: []any{int64(22)}, Data: []byte(`{"sum":22,"events":2}`)},
				rows.Row{Key: "r02", Position: 23, Gone: true},
				rows.Row{Key: "r19", Position: 41, Values: []any{int64(1)}, Data: []byte(`{"sum":1,"events":1}`)},
				rows.Row{Key: "extra", Position: 9, Values: []any{int64(1)}, Data: []byte(`{"sum":1,"events":1}`)},
				rows.Row{Key: "r03", Position: 24, Values: []any{int64(26)}, Data: []byte(`{"events":2,  "sum":26}`)}, // the same
			)
			want := []string{
				`extra: at 9: {"sum":1,"events":1} / `,
				`r00: at 21: {"sum":21,"events":2} / at 21: {"sum":20,"events":2}`,
				`r01: at 21: {"sum":22,"events":2} / at 22: {"sum":22,"events":2}`,
				`r02: deleted at 23 / at 23: {"sum":24,"events":2}`,
				`r19: at 41: {"sum":1,"events":1} / deleted at 41`,
			}
			if _, found = w.verify(model, table, memory); !slices.Equal(found, want) {
				t.Errorf("the differences are\n%s\nwant\n%s", strings.Join(found, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func TestVerifyAllowsPurgedTombstonesAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	model := balances(t, never)
	w.start(model, all)
	table := w.table(model)
	w.pay("a", 0, paid{Amount: -1, To: "x"}, paid{Amount: -1, To: "y"})
	w.caughtUp(table)
	if err := table.Purge(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if done, found := w.verify(model, table, 0); len(found) != 0 || done.Tombstones != 1 {
		t.Errorf("got %+v, %q", done, found)
	}
}

func TestVerifyKnowsBlockedAndSkippedEvents(t *testing.T) {
	t.Parallel()
	w, on := newWorld(t), &switches{}
	on.thirteen.Store(true)
	on.fifteen.Store(true)
	model := histories(t, on)
	w.start(model, all)
	table := w.table(model)
	w.pay("a", 0, paid{Amount: 1, To: "x"}, paid{Amount: 13, To: "x"}, paid{Amount: 2, To: "x"}, paid{Amount: 13, To: "x"}, paid{Amount: 2, To: "x"})
	w.pay("b", 0, paid{Amount: 3, To: "x"}, paid{Amount: 15, To: "y"}, paid{Amount: 4, To: "y"})
	w.caughtUp(table)
	if _, found := w.verify(model, table, 0); len(found) != 0 {
		t.Errorf("with blocked rows: got %q", found)
	}
	for _, b := range w.blocks(table) {
		if _, err := w.mender(model, table).Skip(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	w.want(table, "x", `{"amounts":[1,2]}`)
	w.want(table, "y", `{"amounts":[4]}`)
	if _, found := w.verify(model, table, 0); len(found) != 0 {
		t.Errorf("with skipped events: got %q", found)
	}
}

// TestVerifyWhileRowsChange verifies rows that a processor writes meanwhile.
func TestVerifyWhileRowsChange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	model := balances(t, never)
	w.start(model, all)
	table := w.table(model)
	var writing sync.WaitGroup
	var written atomic.Bool
	writing.Go(func() {
		defer written.Store(true)
		for i := range 500 {
			amount := int64(1)
			if i%7 == 0 {
				amount = -10 // deletes the row
			}
			w.pay("a", eventstore.Version(i), paid{Amount: amount, To: fmt.Sprint("r", i%50)})
		}
	})
	for n := 0; !written.Load() || n == 0; n++ {
		if done, found := w.verify(model, table, 2000); len(found) != 0 {
			t.Fatalf("verification %d, %+v: %q", n, done, found)
		}
	}
	writing.Wait()
}
