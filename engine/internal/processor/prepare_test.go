package processor

import (
	"log/slog"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
)

// The cache may have lost a row that the batch before has changed, and the table
// does not have it yet.
func TestBatchFoldsRowsOfTheBatchBeingWritten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	model := balances(t, never)
	w.pay("1", 0, paid{5, "ann"})
	w.pay("1", 1, paid{7, "ann"})
	s := &segment{
		fold:  fold{model: rowModel{model}, segment: SegmentOf("ann", model.Segments())},
		cfg:   &Config{Model: model, Log: w.store, Tail: w.tail},
		table: w.table(model), log: slog.New(slog.DiscardHandler),
	}
	if err := s.begin(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.limit = 1
	first := s.prepare(t.Context(), 0, nil)
	if _, err := s.rowsAfter(first); err != nil {
		t.Fatal(err)
	}
	s.forget()
	second := s.prepare(t.Context(), eventstore.Position(1), first.present)
	batch, err := s.rowsAfter(second)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(batch.Rows[0].Data), `{"sum":12,"events":2}`; got != want {
		t.Errorf("row is %s, want %s", got, want)
	}
}
