package live

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// brokenTable is a table whose database goes away.
type brokenTable struct {
	rows.Table
	away *atomic.Bool
}

var errAway = errors.Join(eventstore.ErrUnavailable)

func (b brokenTable) Changes(ctx context.Context, after []eventstore.Position, next rows.Edge, limit int) (rows.Changed, error) {
	if b.away.Load() {
		return rows.Changed{}, errAway
	}
	return b.Table.Changes(ctx, after, next, limit)
}

func (b brokenTable) Load(ctx context.Context, keys []string) ([]rows.Row, error) {
	if b.away.Load() {
		return nil, errAway
	}
	return b.Table.Load(ctx, keys)
}

func (b brokenTable) Ask(ctx context.Context, q rows.Question) (rows.Answer, error) {
	if b.away.Load() {
		return rows.Answer{}, errAway
	}
	return b.Table.Ask(ctx, q)
}

// breakable makes a registry's database go away while away is set.
func (w *world) breakable(r *Registry, away *atomic.Bool) {
	table := rows.Table(brokenTable{w.now(), away})
	r.cfg.Serving = func(context.Context, *projection.Definition) (rows.Table, error) {
		if away.Load() {
			return nil, errAway
		}
		return table, nil
	}
}

// TestPurgedTombstonesAreNotMissed deletes a row and its tombstone while the source
// cannot read.
func TestPurgedTombstonesAreNotMissed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteRows(t), 3, 5)
	w.fill(30)
	r := w.registry()
	var away atomic.Bool
	w.breakable(r, &away)
	c := connected(t, w.client("", 5, search{}, 1, r))
	away.Store(true)
	w.put(t, "k2", 0, true)
	if err := w.now().Purge(t.Context(), w.head); err != nil {
		t.Fatal(err)
	}
	away.Store(false)
	w.announce(r)
	c.until(t, "the departure", c.current)
}

func TestFollowersSurviveTheDatabasesAbsence(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteRows(t), 3, 5)
	w.fill(30)
	r := w.registry()
	var away atomic.Bool
	w.breakable(r, &away)
	c := connected(t, w.client("", 5, search{}, 1, r))
	away.Store(true)
	for i := range 20 {
		w.put(t, fmt.Sprint("k", i%10), int64(i), i%4 == 0)
		w.announce(r)
	}
	if _, failure := r.Follow(t.Context(), Request{Query: w.query[5], Wake: func() {}}); failure == nil {
		t.Error("Follow succeeds without the database")
	}
	away.Store(false)
	c.until(t, "the rows after the absence", c.current)
	if len(c.resets) != 0 {
		t.Errorf("got resets %v", c.resets)
	}
}

// crashedTable shows earlier checkpoints and no later rows, as after a crash of the
// database that took the newest ones back.
type crashedTable struct {
	rows.Table
	back *atomic.Pointer[[]rows.Checkpoint]
	read chan struct{} // receives after each read while back is set
}

func (c crashedTable) Changes(ctx context.Context, after []eventstore.Position, next rows.Edge, limit int) (rows.Changed, error) {
	found, err := c.Table.Changes(ctx, after, next, limit)
	if back := c.back.Load(); back != nil {
		found.Checkpoints, found.Rows = *back, upTo(*back, found.Rows)
		notify(c.read)
	}
	return found, err
}

func (c crashedTable) Checkpoints(ctx context.Context) ([]rows.Checkpoint, error) {
	if back := c.back.Load(); back != nil {
		return *back, nil
	}
	return c.Table.Checkpoints(ctx)
}

func (c crashedTable) Ask(ctx context.Context, q rows.Question) (rows.Answer, error) {
	a, err := c.Table.Ask(ctx, q)
	if back := c.back.Load(); back != nil {
		a.Checkpoints, a.Rows = *back, upTo(*back, a.Rows)
	}
	return a, err
}

func upTo(list []rows.Checkpoint, all []rows.Row) []rows.Row {
	return slices.DeleteFunc(all, func(r rows.Row) bool { return r.Position > list[r.Segment].Position })
}

// TestCursorWaitsForRowsThatACrashTookBack resumes on a gateway that reads the rows
// before the fold has made them again.
func TestCursorWaitsForRowsThatACrashTookBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteRows(t), 3, 5)
	w.fill(30)
	before, err := w.now().Checkpoints(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.put(t, "k2", 0, false)
	c := connected(t, w.client("", 5, search{}, 1, w.registry()))
	c.live.Close()

	r := w.registry()
	r.Head(w.head)
	table := crashedTable{w.now(), new(atomic.Pointer[[]rows.Checkpoint]), make(chan struct{}, 1)}
	r.cfg.Serving = func(context.Context, *projection.Definition) (rows.Table, error) { return table, nil }
	table.back.Store(&before)
	c.gateways = []*Registry{r}
	connecting := make(chan error, 1)
	go func() { connecting <- c.connect(t.Context()) }()
	<-r.question(c.asked).ready
	for range 5 {
		select {
		case <-table.read:
		case err := <-connecting:
			t.Fatalf("the subscription begins before the rows are as new as its cursor: %v", err)
		}
	}
	table.back.Store(nil)
	if err := <-connecting; err != nil {
		t.Fatal(err)
	}
	defer c.live.Close()
	c.until(t, "synced", c.current)
	if len(c.resets) != 0 {
		t.Errorf("got resets %v", c.resets)
	}
}
