package processor

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// counted counts the queries of a Watch.
type counted struct {
	rows.Store
	overviews atomic.Int64
}

func (c *counted) Overviews(ctx context.Context) ([]rows.Overview, error) {
	c.overviews.Add(1)
	return c.Store.Overviews(ctx)
}

func TestProcessorsShareOneQueryForTheirBuilds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := &counted{Store: w.store.Rows()}
	watch := NewWatch(c)
	for range 50 {
		if _, err := watch.Overviews(t.Context()); err != nil {
			t.Fatal(err)
		}
		watch.every = time.Hour // on a busy machine the looks may take longer than checkEvery
	}
	if n := c.overviews.Load(); n != 1 {
		t.Errorf("50 looks made %d queries, want 1", n)
	}
	watch.Refresh()
	if _, err := watch.Overviews(t.Context()); err != nil || c.overviews.Load() != 2 {
		t.Errorf("after a refresh there were %d queries, %v; want 2", c.overviews.Load(), err)
	}
	if _, err := w.store.Rows().Ensure(t.Context(), SpecOf(balances(t, never))); err != nil {
		t.Fatal(err)
	}
	watch.Refresh()
	if list, err := watch.Overviews(t.Context()); err != nil || len(list) != 1 || watch.every >= checkEvery {
		t.Errorf("with a build that is not active: %d builds, %v, the next query after %v", len(list), err, watch.every)
	}
	if err := w.store.Rows().SetState(t.Context(), 1, rows.Active); err != nil {
		t.Fatal(err)
	}
	for range 9 {
		watch.Refresh()
		if _, err := watch.Overviews(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if watch.every != maxWatchEvery {
		t.Errorf("builds that stay as they are are read again after %v, want %v", watch.every, maxWatchEvery)
	}
}

func TestSegmentThatStandsStillIsTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	model := balances(t, never)
	table := w.table(model) // its owner does not run
	w.pay("a", 0, paid{Amount: 1, To: "x"}, paid{Amount: 1, To: "y"})
	for range 2 {
		w.startWith(Config{Model: model, Rows: w.store.Rows(), Owns: func(int) bool { return false }, TakeAfter: 10 * time.Millisecond})
	}
	w.caughtUp(table)
	for i := range 20 {
		w.pay("b", eventstore.Version(i), paid{Amount: 1, To: "x"})
	}
	w.caughtUp(table)
	w.want(table, "x", `{"sum":21,"events":21}`)
	w.want(table, "y", `{"sum":1,"events":1}`)
}

func TestSegmentsOfOthersAreLeftAloneByDefault(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	model := balances(t, never)
	w.table(model)
	w.pay("a", 0, paid{Amount: 1, To: "x"})
	p := New(Config{Model: model, Rows: w.store.Rows(), Log: w.store, Tail: w.tail, Owns: func(int) bool { return false }, Logger: discard})
	for range 3 {
		p.cfg.Watch.Refresh()
		if err := p.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(p.segments) != 0 {
		t.Errorf("the processor works on %v", p.segments)
	}
}

func TestOperatorsMendIsNoticedWithoutAnEvent(t *testing.T) {
	t.Parallel()
	w, on := newWorld(t), &switches{}
	on.thirteen.Store(true)
	model := histories(t, on)
	p, _ := w.start(model, all)
	table := w.table(model)
	w.pay("a", 0, paid{Amount: 13, To: "x"})
	w.caughtUp(table)
	blocked := func() (n int) {
		for _, s := range p.Stats().Segments {
			n += s.Blocked
		}
		return n
	}
	w.eventually("the figures show the blocked row", func() bool { return blocked() == 1 })
	on.thirteen.Store(false)
	if _, err := w.mender(model, table).Retry(t.Context(), w.blocks(table)[0]); err != nil {
		t.Fatal(err)
	}
	w.eventually("the figures show that it is resumed", func() bool { return blocked() == 0 })
}

func TestPausedProjectionStandsStillUntilResumed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	model := balances(t, never)
	p, _ := w.start(model, all)
	table := w.table(model)
	w.pay("a", 0, paid{Amount: 1, To: "x"})
	w.caughtUp(table)
	if err := w.store.Rows().Pause(t.Context(), "balances", true); err != nil {
		t.Fatal(err)
	}
	w.pay("a", 1, paid{Amount: 1, To: "x"})
	w.eventually("the segment says that it is paused", func() bool {
		return len(p.Stats().Segments) == 2 && p.Stats().Segments[0].Stopped == RetryPaused
	})
	w.want(table, "x", `{"sum":1,"events":1}`)
	if err := w.store.Rows().Pause(t.Context(), "balances", false); err != nil {
		t.Fatal(err)
	}
	w.caughtUp(table)
	w.want(table, "x", `{"sum":2,"events":2}`)
}

func TestOldTombstonesArePurgedUpToTheTimeOfTheirCommit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	model := balances(t, never)
	p, _ := w.start(model, all)
	table := w.table(model)
	for i := range 40 { // a day apart
		w.at = time.Unix(int64(i)*86400, 0)
		w.pay("a", eventstore.Version(2*i), paid{Amount: 1, To: fmt.Sprint("r", i)}, paid{Amount: -5, To: fmt.Sprint("r", i)})
	}
	w.caughtUp(table)
	w.eventually("the build is active", func() bool { return w.state(table.Build().ID) == rows.Active })
	purge := func(before time.Time) {
		t.Helper()
		list, err := w.store.Rows().Overviews(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := p.purge(t.Context(), list[0], before); err != nil {
			t.Fatal(err)
		}
	}
	wantTombstones := func(n int, floor eventstore.Position) {
		t.Helper()
		c, err := table.Changes(t.Context(), []eventstore.Position{0, 0}, rows.Edge{}, 100)
		if err != nil || len(c.Rows) != n || c.Checkpoints[0].Floor != floor || c.Checkpoints[1].Floor != floor {
			t.Errorf("there are %d tombstones and the floors %d, %v; want %d and %d", len(c.Rows), c.Checkpoints[0].Floor, err, n, floor)
		}
	}
	purge(time.Unix(0, 0))
	wantTombstones(40, 0)
	purge(time.Unix(10*86400, 0))
	wantTombstones(30, 20)
	purge(time.Unix(10*86400, 0))
	wantTombstones(30, 20)
	purge(time.Unix(100*86400, 0))
	wantTombstones(0, 80)
	if _, found := w.verify(model, table, 0); len(found) != 0 {
		t.Errorf("after the purges: %q", found)
	}
}

func TestBatchesAreBoundedByEventsAndBytes(t *testing.T) {
	t.Parallel()
	commits := func(n, events, bytes int) (list []eventstore.Commit) {
		for range n {
			c := eventstore.Commit{}
			for range events {
				c.Events = append(c.Events, eventstore.Event{Data: []byte(strings.Repeat("x", bytes))})
			}
			list = append(list, c)
		}
		return list
	}
	for _, test := range []struct {
		commits []eventstore.Commit
		want    int
	}{
		{commits(2000, 1, 10), 2000},
		{commits(2000, 10, 10), batchEvents / 10},
		{commits(100, 1, 1<<20), 4},
		{commits(3, 1, 5<<20), 1},
		{commits(2, 2*batchEvents, 1), 1},
		{nil, 0},
	} {
		if got := bounded(test.commits); got != test.want {
			t.Errorf("of %d commits: got %d, want %d", len(test.commits), got, test.want)
		}
	}
}
