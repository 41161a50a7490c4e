package live

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/proto/command"
)

// until takes parts until a condition holds.
func (c *client) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !holds() {
		select {
		case <-c.woken:
		case <-deadline:
			t.Fatalf("client %s waits for %s; it shows %v", c.name, what, c.rows)
		}
		for more := true; more; {
			var err error
			if more, err = c.take(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (c *client) current() bool { return c.at != "" && c.shows() == nil }

func connected(t *testing.T, c *client) *client {
	t.Helper()
	if err := c.connect(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.live.Close)
	c.until(t, "the state", c.current)
	return c
}

func TestEmptyAnswerIsAStateWithoutRows(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteRows(t), 1, 5)
	c := w.client("ada", 5, search{}, 1, w.registry())
	connected(t, c)
	if len(c.rows) != 0 || c.cursor == "" || c.parts != 2 {
		t.Errorf("got %v, cursor %q after %d parts", c.rows, c.cursor, c.parts)
	}
	if cursor, behind := c.live.Cursor(); cursor != c.cursor || behind {
		t.Errorf("got cursor %q, behind %v; want %q", cursor, behind, c.cursor)
	}
}

func TestNothingRunsWithoutLiveQueries(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteRows(t), 1, 5)
	w.write(10, 5)
	r := w.registry()
	a, b := w.client("ada", 5, search{}, 1, r), w.client("ada", 5, search{}, 1, r)
	connected(t, a)
	s := r.source("things")
	connected(t, b)
	if n := r.Stats(); n.Live != 2 || n.Questions != 1 || n.Evaluations != 1 {
		t.Errorf("two subscriptions to one question: %+v", n)
	}
	a.live.Close()
	a.live.Close()
	b.live.Close()
	<-s.ctx.Done()
	if n := r.Stats(); n.Live != 0 || n.Questions != 0 || n.Entries != 0 || r.source("things") != nil {
		t.Errorf("after the last Close: %+v", n)
	}
	if parts, more := a.live.Next(1000); len(parts) != 0 || more {
		t.Errorf("a closed follower returns %v", parts)
	}
}

func TestInvalidCursorsAreAnsweredWithAResetAndAState(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteRows(t), 3, 5)
	for range 20 {
		w.write(20, 5)
	}
	r := w.registry()
	c := connected(t, w.client("ada", 5, search{}, 1, r))
	valid, _ := parseCursor(c.cursor)
	text := func(change func(*cursor)) string {
		other := valid
		other.positions = append([]eventstore.Position(nil), valid.positions...)
		change(&other)
		return other.String()
	}
	for cursor, reason := range map[string]string{
		"":                                     "",
		"x":                                    resetExpired,
		"12345":                                resetExpired,
		strings.Repeat("A", 100_000):           resetExpired,
		text(func(c *cursor) {}):               "",
		text(func(c *cursor) { c.log++ }):      resetLog,
		text(func(c *cursor) { c.question++ }): resetAccess,
		text(func(c *cursor) { c.build++ }):    resetRebuilt,
		text(func(c *cursor) { c.mends++ }):    resetMended,
		text(func(c *cursor) { c.positions[0] += 1000 }):         resetLog,
		text(func(c *cursor) { c.positions = c.positions[:1] }):  resetExpired,
		text(func(c *cursor) { c.positions, c.edge = nil, "" }):  resetExpired,
		text(func(c *cursor) { c.count, c.keys = c.count+1, 0 }): "",
	} {
		other := w.client("ada", 5, search{}, 1, r)
		other.cursor, other.rows = cursor, c.rows
		if err := other.connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		other.until(t, "an answer", func() bool { return other.at != "" })
		want := map[string]int{}
		if reason != "" {
			want[reason] = 1
		}
		if fmt.Sprint(other.resets) != fmt.Sprint(want) {
			t.Errorf("cursor %.60q: got resets %v, want %v", cursor, other.resets, want)
		}
		other.live.Close()
	}
}

func TestCursorBelowTheFloorIsExpired(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteRows(t), 3, 5)
	w.write(20, 5)
	r := w.registry()
	c := connected(t, w.client("ada", 5, search{}, 1, r))
	c.live.Close()
	for range 20 {
		w.write(20, 5)
	}
	if err := w.now().Purge(t.Context(), w.head); err != nil {
		t.Fatal(err)
	}
	connected(t, c)
	if c.resets[resetExpired] != 1 {
		t.Errorf("got resets %v", c.resets)
	}
}

// TestResumeSendsOnlyWhatChanged resumes on another registry after one row of the
// window has changed and one left.
func TestResumeSendsOnlyWhatChanged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteRows(t), 3, 12)
	w.fill(30)
	c := connected(t, w.client("ada", 12, search{Owner: "ada"}, 1, w.registry()))
	c.live.Close()
	other := w.registry()
	c.gateways = []*Registry{other}
	c.parts = 0
	connected(t, c)
	if c.parts != 1 {
		t.Errorf("a resume without changes has %d parts, want synced alone", c.parts)
	}
	c.live.Close()
	w.put(t, "k3", 3, false)
	w.put(t, "k5", 0, true)
	c.parts = 0
	connected(t, c)
	// k3, k12 that moved in, keys, synced
	if c.parts != 4 || c.repeats.Load() != 0 {
		t.Errorf("a resume has %d parts with %d repeats, want 4 without", c.parts, c.repeats.Load())
	}
}

// put writes one row.
func (w *world) put(t *testing.T, key string, price int64, gone bool) {
	t.Helper()
	w.mu.Lock()
	segment := segmentOf(key)
	w.head++
	r := w.priced(key, segment, w.head, price)
	if gone {
		r = rows.Row{Key: key, Segment: segment, Position: w.head, Gone: true}
	}
	b := rows.Batch{Segment: segment, From: w.positions[segment], To: w.head, Key: "c", Rows: []rows.Row{r}}
	w.positions[segment] = w.head
	w.apply(r)
	w.remember(w.now().Build().ID)
	w.mu.Unlock()
	if err := w.now().Write(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func TestSlowReaderGetsTheNewestFormAndKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteRows(t), 3, 12)
	r := w.registry()
	slow := connected(t, w.client("", 12, search{Most: 6}, 1, r))
	quick := connected(t, w.client("", 12, search{Most: 6}, 1, r))
	before := slow.parts
	var entered []string
	for i := range 40 {
		left := entered
		entered = nil
		for n := range 10 {
			entered = append(entered, fmt.Sprint("k", 10*i+n))
		}
		w.exchange(t, entered, left)
		w.announce(r)
		quick.until(t, "the newest rows", quick.current)
	}
	quick.until(t, "the newest rows", quick.current)
	slow.room = 1
	slow.until(t, "the newest rows", slow.current)
	// 12 rows, keys and synced, instead of some hundred departures
	if n := slow.parts - before; n > 14 || slow.keys != 1 {
		t.Errorf("a reader that returns gets %d parts with %d times keys, want at most 14 with one", n, slow.keys)
	}
}

// exchange writes some rows and deletes others.
func (w *world) exchange(t *testing.T, enter, leave []string) {
	t.Helper()
	w.mu.Lock()
	batches := make([]rows.Batch, segments)
	for segment := range batches {
		batches[segment].From = w.positions[segment]
	}
	for i, key := range append(slices.Clone(enter), leave...) {
		b := &batches[segmentOf(key)]
		w.head++
		r := w.priced(key, segmentOf(key), w.head, 1)
		if i >= len(enter) {
			r = rows.Row{Key: key, Segment: segmentOf(key), Position: w.head, Gone: true}
		}
		b.Rows = append(b.Rows, r)
	}
	w.mu.Unlock()
	for segment, b := range batches {
		w.mu.Lock()
		b.Segment, b.To, b.Key = segment, w.head, "c"
		w.positions[segment] = w.head
		for _, r := range b.Rows {
			w.apply(r)
		}
		w.remember(w.now().Build().ID)
		w.mu.Unlock()
		if err := w.now().Write(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAccessChangeDropsTheRowsImmediately(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteRows(t), 3, 12)
	w.fill(10)
	r := w.registry()
	c := connected(t, w.client("ada", 12, search{}, 1, r))
	request := func(client string) Request {
		asked, err := w.query[12].Question(query.Call{Client: client}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return Request{Query: w.query[12], Asked: asked}
	}
	if f := c.live.Ask(t.Context(), request("ada")); f != nil {
		t.Fatal(f)
	}
	if parts, _ := c.live.Next(1000); len(parts) != 0 {
		t.Errorf("equal rights: got %v", parts)
	}
	w.put(t, "k1", 3, false) // a pending update must not follow the reset
	if f := c.live.Ask(t.Context(), request("bob")); f != nil {
		t.Fatal(f)
	}
	c.asked = request("bob").Asked
	c.until(t, "the rows of bob", func() bool { return c.resets[resetAccess] == 1 && c.current() })
	if len(c.rows) != 0 {
		t.Errorf("bob sees %v", c.rows)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if f := c.live.Ask(ctx, request("eve")); f == nil {
		t.Error("Ask does not end with its context")
	}
	c.live.Halt()
	if parts, more := c.live.Next(1000); len(parts) != 0 || more {
		t.Errorf("after Halt: got %v", parts)
	}
}

// question waits until a follower asks, and returns the question.
func (r *Registry) question(asked query.Question) *question {
	for r.Stats().Questions == 0 {
		runtime.Gosched()
	}
	s := r.source("things")
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.questions[identity(asked)]
}

func TestFirstStateShowsAtLeast(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteRows(t), 3, 12)
	w.fill(10)
	r := w.registry()
	request := Request{Query: w.query[12], Asked: query.Question{Limit: 12}, AtLeast: w.head + 1, Wake: func() {}}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-r.question(request.Asked).ready
		cancel()
	}()
	_, failure := r.Follow(ctx, request)
	if failure == nil || failure.Code != command.CodeUnavailable || !strings.Contains(failure.Message, fmt.Sprintf("not yet %d", w.head+1)) {
		t.Fatalf("got %v", failure)
	}
	if n := r.Stats(); n.Questions != 0 || n.Live != 0 {
		t.Errorf("a failed Follow leaves %+v", n)
	}
	var writing sync.WaitGroup
	defer writing.Wait()
	writing.Go(func() {
		for segment := range segments {
			b := rows.Batch{Segment: segment, From: w.positions[segment], To: request.AtLeast, Key: "c"}
			if err := w.now().Write(t.Context(), b); err != nil {
				t.Error(err)
			}
		}
	})
	f, failure := r.Follow(t.Context(), request)
	if failure != nil {
		t.Fatal(failure)
	}
	defer f.Close()
	if f.q.at().lowest() < request.AtLeast {
		t.Error("the state shows less than the caller asked for")
	}
}
