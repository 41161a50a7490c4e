package rowstest

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

func testMendFence(t *testing.T, s rows.Store) {
	table := opened(t, s, spec("one"))
	write(t, table, rows.Batch{From: 0, To: 5, Block: []rows.Block{{Key: "b", Position: 2}}})
	mend := rows.Batch{From: 5, To: 5, Key: "key-5", Rows: []rows.Row{row("b", 0, 4, 40)}, Unblock: []string{"b"}}
	write(t, table, mend)
	for name, b := range map[string]rows.Batch{
		"the segment's writer": {From: 5, To: 9, Key: "k", Rows: []rows.Row{row("a", 0, 9, 90)}},
		"a second operator":    mend,
	} {
		if err := table.Write(t.Context(), b); !errors.Is(err, rows.ErrFenced) {
			t.Errorf("%s that has not seen the mend: got %v, want ErrFenced", name, err)
		}
	}
	write(t, table, rows.Batch{From: 5, To: 6, Mends: 1})
	if err := table.Interrupt(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := table.Write(t.Context(), rows.Batch{From: 6, To: 7, Key: "k", Mends: 1}); !errors.Is(err, rows.ErrFenced) {
		t.Errorf("a writer that was interrupted: got %v, want ErrFenced", err)
	}
	list := checkpoints(t, table)
	equal(t, "position and mends", []any{list[0].Position, list[0].Mends, list[1].Mends}, []any{eventstore.Position(6), int64(2), int64(0)})
}

// testMendRivals lets a writer move the checkpoint event by event, while an
// operator resumes a row. Each event adds its position to the row, unless the row
// waits: then the operator must add it. So none may be lost, and none added twice.
func testMendRivals(t *testing.T, s rows.Store) {
	const last = 300
	table, operators := opened(t, s, spec("one")), opened(t, s, spec("one"))
	write(t, table, rows.Batch{From: 0, To: 1, Block: []rows.Block{{Key: "sum", Position: 1}}})
	var all sync.WaitGroup
	all.Go(func() {
		for follow(t, table, last) {
		}
	})
	all.Go(func() {
		for !resume(t, operators) && !t.Failed() {
			if err := operators.Interrupt(t.Context(), 0); err != nil {
				t.Error(err)
				return
			}
		}
	})
	all.Wait()
	equal(t, "the sum", load(t, table, "sum"), map[string]string{"sum": fmt.Sprintf(`0 %d {"price":%d}`, last, last*(last+1)/2)})
}

// sum returns the row that the test adds to.
func sum(t *testing.T, table rows.Table) (n int64) {
	found, err := table.Load(t.Context(), []string{"sum"})
	if err == nil && len(found) > 0 {
		_, err = fmt.Sscanf(string(found[0].Data), `{"price":%d}`, &n)
	}
	if err != nil {
		t.Error(err)
	}
	return n
}

// follow reads the checkpoint and moves it from there until it is fenced. It
// returns false at the last event.
func follow(t *testing.T, table rows.Table, last eventstore.Position) bool {
	list, err := table.Checkpoints(t.Context())
	if err != nil {
		t.Error(err)
		return false
	}
	blocks, err := table.Blocks(t.Context())
	if err != nil {
		t.Error(err)
		return false
	}
	n := sum(t, table)
	for at := list[0].Position; at < last; at++ {
		b := rows.Batch{From: at, To: at + 1, Mends: list[0].Mends, Key: "k"}
		if len(blocks) == 0 {
			n += int64(at) + 1
			b.Rows = []rows.Row{row("sum", 0, at+1, n)}
		}
		if err := table.Write(t.Context(), b); errors.Is(err, rows.ErrFenced) {
			return true
		} else if err != nil {
			t.Error(err)
			return false
		}
	}
	return len(blocks) > 0 // the operator is not done
}

// resume adds what has waited, and reports whether that was in time.
func resume(t *testing.T, table rows.Table) bool {
	list, err := table.Checkpoints(t.Context())
	if err != nil {
		t.Error(err)
		return false
	}
	c := list[0]
	n := int64(c.Position) * (int64(c.Position) + 1) / 2
	err = table.Write(t.Context(), rows.Batch{
		From: c.Position, To: c.Position, Mends: c.Mends, Key: c.Key, Rows: []rows.Row{row("sum", 0, c.Position, n)}, Unblock: []string{"sum"},
	})
	if err != nil && !errors.Is(err, rows.ErrFenced) {
		t.Error(err)
	}
	return err == nil
}

func testTry(t *testing.T, s rows.Store) {
	table := opened(t, s, spec("one"))
	write(t, table, rows.Batch{From: 0, To: 5, Rows: []rows.Row{row("a", 0, 5, 50)}})
	b := rows.Batch{From: 5, To: 6, Key: "k", Rows: []rows.Row{row("a", 0, 6, 60), gone("b", 0, 6)}, Block: []rows.Block{{Key: "c", Position: 6}}}
	if err := table.Try(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	equal(t, "the rows", load(t, table, "a", "b"), map[string]string{"a": `0 5 {"price":50}`})
	equal(t, "the checkpoint", checkpoints(t, table)[0].Position, eventstore.Position(5))
	b.From = 4
	if err := table.Try(t.Context(), b); !errors.Is(err, rows.ErrFenced) {
		t.Errorf("a batch from elsewhere: got %v, want ErrFenced", err)
	}
	write(t, table, rows.Batch{From: 5, To: 6, Rows: []rows.Row{row("a", 0, 6, 60)}})
}

func testSkips(t *testing.T, s rows.Store) {
	table := opened(t, s, spec("one"))
	write(t, table, rows.Batch{Segment: 1, From: 0, To: 9, Block: []rows.Block{{Key: "b", Position: 4}, {Key: "a", Position: 4}}})
	write(t, table, rows.Batch{Segment: 1, From: 9, To: 9, Key: "key-9", Unblock: []string{"b"}, Skip: []rows.Skip{{Key: "b", Position: 4}}})
	write(t, table, rows.Batch{
		Segment: 1, From: 9, To: 9, Mends: 1, Key: "key-9",
		Block: []rows.Block{{Key: "a", Position: 7}}, Skip: []rows.Skip{{Key: "a", Position: 4}},
	})
	skips, err := table.Skips(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range skips {
		if skips[i].At.IsZero() {
			t.Errorf("skip %d has no time", i)
		}
		skips[i].At = time.Time{}
	}
	equal(t, "the skips", skips, []rows.Skip{{Key: "a", Segment: 1, Position: 4}, {Key: "b", Segment: 1, Position: 4}})
	blocks, err := table.Blocks(t.Context())
	if err != nil || len(blocks) != 1 || blocks[0].Key != "a" || blocks[0].Position != 7 {
		t.Errorf("the blocks are %v, %v; want a at 7", blocks, err)
	}
}

func testOverviews(t *testing.T, s rows.Store) {
	if list, err := s.Overviews(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("without builds: got %v, %v", list, err)
	}
	first, second := opened(t, s, spec("one")), opened(t, s, spec("two"))
	other := opened(t, s, rows.Spec{Projection: "other", Fingerprint: "one", Segments: 1})
	write(t, second, rows.Batch{Segment: 1, To: 4, Block: []rows.Block{{Key: "a", Position: 2}, {Key: "b", Position: 3}}})
	if err := s.Pause(t.Context(), "other", true); err != nil {
		t.Fatal(err)
	}
	list, err := s.Overviews(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var want []rows.Overview
	for i, table := range []rows.Table{first, second, other} {
		want = append(want, rows.Overview{Build: table.Build(), Checkpoints: checkpoints(t, table), Blocked: [][]int{{0, 0}, {0, 2}, {0}}[i]})
	}
	equal(t, "the overviews", list, want)
	if !list[2].Checkpoints[0].Paused || list[0].Checkpoints[0].Paused {
		t.Error("the wrong projection is paused")
	}
}

func testBlocked(t *testing.T, s rows.Store) {
	one, other := opened(t, s, spec("one")), opened(t, s, rows.Spec{Projection: "other", Fingerprint: "one", Segments: 1})
	write(t, other, rows.Batch{To: 9, Block: []rows.Block{{Key: "a", Position: 1, Attempts: 3, Error: "no"}}})
	write(t, one, rows.Batch{Segment: 1, To: 9, Block: []rows.Block{{Key: "b", Segment: 1, Position: 7, Attempts: 3, Error: "boom"}}})
	write(t, one, rows.Batch{To: 9, Block: []rows.Block{{Key: "d", Position: 8}, {Key: "c", Position: 2}}})
	found := func(limit int, builds ...int64) (list []string) {
		t.Helper()
		waiting, err := s.Blocked(t.Context(), builds, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range waiting {
			if w.At.IsZero() {
				t.Errorf("%+v has no time", w)
			}
			list = append(list, fmt.Sprintf("%v %s %d %d %d %s", w.Build == one.Build().ID, w.Key, w.Segment, w.Position, w.Attempts, w.Error))
		}
		return list
	}
	all := []string{"true c 0 2 0 ", "true b 1 7 3 boom", "true d 0 8 0 ", "false a 0 1 3 no"}
	equal(t, "all blocked rows", found(10, other.Build().ID, one.Build().ID, 1<<40), all)
	equal(t, "the first two", found(2, one.Build().ID, other.Build().ID), all[:2])
	equal(t, "those of a build", found(10, other.Build().ID), all[3:])
	equal(t, "those of no build", len(found(10)), 0)
}

func testExpire(t *testing.T, s rows.Store) {
	old, current := opened(t, s, spec("one")), opened(t, s, spec("two"))
	other := opened(t, s, rows.Spec{Projection: "other", Fingerprint: "one", Segments: 1})
	expire := func(unused time.Duration, want ...int64) {
		t.Helper()
		got, err := s.Expire(t.Context(), "list-ings", unused)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("unused for %v: expired %v, %v; want %v", unused, got, err, want)
		}
	}
	expire(0) // the later build is not active
	if err := s.SetState(t.Context(), current.Build().ID, rows.Active); err != nil {
		t.Fatal(err)
	}
	expire(time.Hour) // too early
	if err := s.Use(t.Context(), []int64{old.Build().ID, 1 << 40}); err != nil {
		t.Fatal(err)
	}
	expire(0) // the old one was used later
	if err := s.Use(t.Context(), []int64{current.Build().ID}); err != nil {
		t.Fatal(err)
	}
	expire(0, old.Build().ID)
	if _, err := old.Checkpoints(t.Context()); !errors.Is(err, rows.ErrDropped) {
		t.Errorf("the expired build: got %v, want ErrDropped", err)
	}
	for _, table := range []rows.Table{current, other} {
		if _, err := table.Checkpoints(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
