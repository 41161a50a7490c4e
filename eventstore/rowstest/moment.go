package rowstest

import (
	"errors"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// testMoment writes to two tables while they are read.
func testMoment(t *testing.T, s rows.Store) {
	one, two := opened(t, s, spec("one")), opened(t, s, spec("two"))
	for _, table := range []rows.Table{one, two} {
		write(t, table, rows.Batch{To: 1, Rows: []rows.Row{row("a", 0, 1, 10), row("b", 0, 1, 20)}})
	}
	err := s.Read(t.Context(), func(m rows.Moment) error {
		first, err := m.Load(t.Context(), one, []string{"a", "nosuch"})
		if err != nil {
			return err
		}
		equal(t, "the rows with the keys", len(first), 1)
		for _, table := range []rows.Table{one, two} {
			write(t, table, rows.Batch{From: 1, To: 2, Rows: []rows.Row{gone("a", 0, 2), row("b", 0, 2, 30)}})
		}
		for _, table := range []rows.Table{one, two} {
			a, err := m.Ask(t.Context(), table, rows.Question{Limit: 10, Order: []rows.Order{{Column: 4}}})
			if err != nil {
				return err
			}
			equal(t, "the rows of the moment", len(a.Rows), 2)
			equal(t, "the checkpoint of the moment", a.Checkpoints[0].Position, eventstore.Position(1))
			list, err := m.Load(t.Context(), table, []string{"b"})
			if err != nil {
				return err
			}
			equal(t, "row b of the moment", string(list[0].Data), `{"price":20}`)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	mine := errors.New("mine")
	if err := s.Read(t.Context(), func(rows.Moment) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("the caller's error becomes %v", err)
	}
	if err := s.Drop(t.Context(), two.Build().ID); err != nil {
		t.Fatal(err)
	}
	err = s.Read(t.Context(), func(m rows.Moment) error {
		_, err := m.Ask(t.Context(), two, rows.Question{Limit: 10})
		return err
	})
	if !errors.Is(err, rows.ErrDropped) {
		t.Errorf("asking a dropped build: got %v, want ErrDropped", err)
	}
}
