package live

import (
	"testing"

	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// rewrite stores a batch of one segment: at the checkpoint, as a mend does, or one
// event later.
func (w *world) rewrite(t *testing.T, b rows.Batch, mend bool) {
	t.Helper()
	w.mu.Lock()
	b.From, b.Mends, b.Key = w.positions[b.Segment], w.mends[b.Segment], "c"
	if mend {
		w.mends[b.Segment]++
	} else {
		w.head++
		w.positions[b.Segment] = w.head
	}
	b.To = w.positions[b.Segment]
	for _, r := range b.Rows {
		w.apply(r)
	}
	w.remember(w.now().Build().ID)
	w.mu.Unlock()
	if err := w.now().Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// TestRowMendedAtItsPositionIsSentAgain mends a row without a later event, as a
// retry of a stream does.
func TestRowMendedAtItsPositionIsSentAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteRows(t), 3, 5)
	w.fill(10)
	r := w.registry()
	c := connected(t, w.client("ada", 5, search{}, 1, r))
	old := w.rows["k1"]
	changed := w.stored("k1", old.Segment, old.Position)
	changed.Values, changed.Data = old.Values, []byte(`{"owner":"ada","price":1,"score":null,"open":true,"note":"mended"}`)
	w.rewrite(t, rows.Batch{Segment: old.Segment, Rows: []rows.Row{changed}}, true)
	w.announce(r)
	c.until(t, "the mended row", c.current)
}

func TestSyncedCarriesTheNumberOfBlockedRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteRows(t), 3, 5)
	w.fill(10)
	r := w.registry()
	c := connected(t, w.client("ada", 5, search{}, 1, r))
	segment := segmentOf("k1")
	w.rewrite(t, rows.Batch{Segment: segment, Block: []rows.Block{{Key: "k1", Segment: segment, Position: w.head + 1, Attempts: 3, Error: "x"}}}, false)
	c.until(t, "a blocked row without another change", func() bool { return c.blocked == 1 })
	w.put(t, "k2", 2, false)
	w.announce(r)
	c.until(t, "a changed row", c.current)
	if c.blocked != 1 {
		t.Errorf("synced of a changed row has %d blocked rows, want 1", c.blocked)
	}
	w.rewrite(t, rows.Batch{Segment: segment, Unblock: []string{"k1"}}, true)
	c.until(t, "no blocked row", func() bool { return c.blocked == 0 && c.current() })
}
