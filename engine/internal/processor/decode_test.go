package processor

import (
	"encoding/json"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// replace stores other data of a row at the checkpoint, as a mend does.
func (w *world) replace(table rows.Table, key string, data string) {
	w.t.Helper()
	list, err := table.Checkpoints(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	segment := SegmentOf(key, len(list))
	c := list[segment]
	err = table.Write(w.t.Context(), rows.Batch{
		Segment: segment, From: c.Position, To: c.Position, Key: c.Key, Mends: c.Mends,
		Rows: []rows.Row{{Key: key, Segment: segment, Position: 1, Data: json.RawMessage(data)}},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// TestRowThatCannotBeDecodedWaitsFromTheNextEvent mends such a row: the event that
// it shows must not be folded again.
func TestRowThatCannotBeDecodedWaitsFromTheNextEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	model := histories(t, &switches{})
	_, stop := w.start(model, all)
	table := w.table(model)
	w.pay("a", 0, paid{Amount: 1, To: "x"})
	w.caughtUp(table)
	stop()
	w.replace(table, "x", `{"amounts":"none"}`)

	_, stop = w.start(model, all)
	w.pay("a", 1, paid{Amount: 2, To: "x"})
	w.caughtUp(table)
	stop()
	w.wantBlocks(table, "x 2")
	w.replace(table, "x", `{"amounts":[1]}`)
	if done, err := w.mender(model, table).Retry(t.Context(), w.blocks(table)[0]); err != nil || done.Events != 1 {
		t.Errorf("got %+v, %v", done, err)
	}
	w.want(table, "x", `{"amounts":[1,2]}`)
}
