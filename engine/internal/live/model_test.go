package live

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/proto/ask"
)

// A client applies parts as a browser does, and compares its rows with the answer
// at each live and synced.
type client struct {
	w        *world
	name     string
	asked    query.Question
	limit    int
	gateways []*Registry
	random   *rand.Rand
	room     int

	live   *Follower
	woken  chan struct{}
	cursor string

	working map[string]shown
	mu      sync.Mutex
	rows    []shown // what the user sees
	at      string
	resets  map[string]int
	closed  int
	repeats atomic.Int64
	resumed atomic.Int64 // repeats in the batch of a resume
	first   bool         // the batch of a resume
	parts   int
	keys    int // parts that were keys
	blocked int // as of the last live or synced
	staging bool
}

func (w *world) client(name string, limit int, params search, seed uint64, gateways ...*Registry) *client {
	w.t.Helper()
	data, err := json.Marshal(params)
	if err != nil {
		w.t.Fatal(err)
	}
	asked, err := w.query[limit].Question(query.Call{Client: name}, data)
	if err != nil {
		w.t.Fatal(err)
	}
	return &client{
		w: w, name: fmt.Sprintf("%s %d %s", name, limit, data), asked: asked, limit: limit, gateways: gateways,
		random: rand.New(rand.NewPCG(seed, 1)), room: 32 << 10, woken: make(chan struct{}, 1), resets: map[string]int{},
		working: map[string]shown{},
	}
}

// connect subscribes, on any gateway, with the cursor that the client has.
func (c *client) connect(ctx context.Context) error {
	g := c.gateways[c.random.IntN(len(c.gateways))]
	c.woken = make(chan struct{}, 1)
	woken := c.woken
	f, failure := g.Follow(ctx, Request{Query: c.w.query[c.limit], Asked: c.asked, Cursor: c.cursor, Wake: func() { notify(woken) }})
	if failure != nil {
		return failure
	}
	c.live, c.working, c.staging, c.at = f, map[string]shown{}, true, ""
	if c.cursor != "" {
		c.staging, c.first = false, true
		for _, r := range c.rows {
			c.working[r.Key] = r
		}
	}
	return nil
}

// take applies the next parts.
func (c *client) take() (more bool, err error) {
	parts, more := c.live.Next(c.room)
	for _, p := range parts {
		c.parts++
		if err := c.apply(p); err != nil {
			return false, fmt.Errorf("client %s, part %s {%s: %w", c.name, p.Op, p.Tail, err)
		}
	}
	return more, nil
}

func (c *client) apply(p ask.Part) error {
	var m struct {
		shown
		Gone     bool
		Rows     []shown
		More     *bool
		Keys     []string
		Cursor   string
		Reason   string
		Position uint64
		Blocked  int
	}
	if err := json.Unmarshal(append([]byte("{"), p.Tail...), &m); err != nil {
		return err
	}
	switch p.Op {
	case "reset":
		c.resets[m.Reason]++
		c.working, c.cursor, c.staging = map[string]shown{}, "", true
	case "state":
		for _, r := range m.Rows {
			c.set(r)
		}
	case "update":
		if m.Gone {
			delete(c.working, m.Key)
		} else {
			c.set(shown{m.Key, m.Rank, m.shown.Position, m.Data})
		}
	case "keys":
		c.keys++
		maps.DeleteFunc(c.working, func(key string, _ shown) bool { return !slices.Contains(m.Keys, key) })
	case "live", "synced":
		c.blocked = m.Blocked
		return c.batch(p.Op, m.Cursor, m.Position)
	default:
		return fmt.Errorf("unexpected part")
	}
	return nil
}

func (c *client) set(r shown) {
	if old, ok := c.working[r.Key]; ok && old.Position == r.Position && old.Rank == r.Rank && string(old.Data) == string(r.Data) {
		if c.repeats.Add(1); c.first {
			c.resumed.Add(1)
		}
	}
	c.working[r.Key] = r
}

// batch compares the rows with the answer at the cursor's moment.
func (c *client) batch(op, text string, position uint64) error {
	cur, ok := parseCursor(text)
	if !ok || len(text) > maxCursor {
		return fmt.Errorf("the cursor %q is invalid", text)
	}
	if (op == "live") != c.staging {
		return fmt.Errorf("the state is complete: %v", !c.staging)
	}
	c.staging, c.first = false, false
	at := moments(cur.build, cur.mends, cur.positions)
	want, err := c.w.answer(c.asked, at)
	if err != nil {
		return err
	}
	got := slices.SortedFunc(maps.Values(c.working), func(a, b shown) int { return strings.Compare(a.Rank, b.Rank) })
	if err := sameRows(got, want); err != nil {
		return fmt.Errorf("at %s: %w", at, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rows, c.at, c.cursor = got, at, text
	return nil
}

func sameRows(got, want []shown) error {
	if len(got) != len(want) {
		return fmt.Errorf("got %d rows %v, want %d %v", len(got), names(got), len(want), names(want))
	}
	for i := range got {
		if got[i].Key != want[i].Key || got[i].Rank != want[i].Rank || got[i].Position != want[i].Position || string(got[i].Data) != string(want[i].Data) {
			return fmt.Errorf("row %d is %s at %d %s, want %s at %d %s", i, got[i].Key, got[i].Position, got[i].Data, want[i].Key, want[i].Position, want[i].Data)
		}
	}
	return nil
}

func names(list []shown) (keys []string) {
	for _, r := range list {
		keys = append(keys, fmt.Sprint(r.Key, "@", r.Position))
	}
	return keys
}

// run follows until ctx ends, and reconnects with a probability of 1 to hops.
func (c *client) run(ctx context.Context, hops int) error {
	if err := c.connect(ctx); err != nil {
		return err
	}
	defer func() { c.live.Close() }()
	for {
		select {
		case <-c.woken:
		case <-ctx.Done():
			return nil
		}
		for more := true; more; {
			var err error
			if more, err = c.take(); err != nil {
				return err
			}
			if hops > 0 && c.random.IntN(hops) == 0 {
				c.live.Close()
				c.closed++
				if err := c.connect(ctx); err != nil {
					if ctx.Err() != nil {
						return nil
					}
					return err
				}
			}
		}
	}
}

// shows reports whether the client's rows are the answer of now.
func (c *client) shows() error {
	c.w.mu.Lock()
	now := moments(c.w.now().Build().ID, c.w.mended(), c.w.positions)
	c.w.mu.Unlock()
	want, err := c.w.answer(c.asked, now)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return sameRows(c.rows, want)
}

// settled waits until all clients show the answer of now.
func settled(t *testing.T, failed <-chan error, clients ...*client) {
	t.Helper()
	deadline := time.After(5 * time.Minute) // a busy machine needs more than one
	for _, c := range clients {
		for c.shows() != nil {
			select {
			case err := <-failed:
				t.Fatal(err)
			case <-time.After(5 * time.Millisecond):
			case <-deadline:
				t.Fatalf("client %s: %v", c.name, c.shows())
			}
		}
	}
}

func testModel(t *testing.T, store rows.Store, writes, cached int) {
	t.Helper()
	w := newWorld(t, store, 11, 5, 12)
	a, b := w.registry(), w.registry()
	a.cache, b.cache = newCache(cached), newCache(cached)
	var clients []*client
	for i, name := range []string{"ada", "bob", "eve", ""} {
		for form := range 5 {
			limit := []int{5, 12}[(i+form)%2]
			c := w.client(name, limit, search{Most: int64(form), Form: form}, uint64(100+i*10+form), a, b)
			c.room = []int{1, 200, 32 << 10}[(i+form)%3]
			clients = append(clients, c)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	failed := make(chan error, len(clients))
	var all sync.WaitGroup
	for i, c := range clients {
		hops := []int{0, 10, 40}[i%3]
		all.Go(func() {
			if err := c.run(ctx, hops); err != nil {
				failed <- err
			}
		})
	}
	for i := range writes {
		select {
		case err := <-failed:
			t.Fatal(err)
		default:
		}
		switch n := w.random.IntN(1000); {
		case n < 5:
			w.mend()
		case n < 8:
			if err := w.now().Purge(t.Context(), w.head); err != nil {
				t.Fatal(err)
			}
		case n == 8 && i > 100:
			w.rebuild(w.random.IntN(2) == 0)
		default:
			w.write(40, 4)
		}
		if w.random.IntN(10) > 0 {
			w.announce(a, b)
		}
	}
	settled(t, failed, clients...)
	stop()
	all.Wait()
	repeats, resumed, parts, keys, resumes, resets := int64(0), int64(0), 0, 0, 0, map[string]int{}
	for _, c := range clients {
		repeats += c.repeats.Load()
		resumed += c.resumed.Load()
		parts += c.parts
		keys += c.keys
		resumes += c.closed
		for reason, n := range c.resets {
			resets[reason] += n
		}
	}
	t.Logf("%d writes, %d parts, %d of them keys, %d resumes, %d repeats (%d of resumes), resets %v, %+v", writes, parts, keys, resumes, repeats, resumed, resets, a.Stats())
	// A resume that begins while changes are being read may get one of them again.
	if int(resumed) > 2+resumes/20 {
		t.Errorf("%d rows were repeated by %d resumes", resumed, resumes)
	}
	if n := a.Stats(); n.Live != 0 || n.Questions != 0 || n.Entries != 0 {
		t.Errorf("without clients the figures are %+v", n)
	}
	select {
	case err := <-failed:
		t.Fatal(err)
	default:
	}
}

// protocol: rule Before live, rows change too.
func TestRowsOfClientsEqualTheAnswerAtEveryBatch(t *testing.T) {
	t.Parallel()
	testModel(t, sqliteRows(t), 1000, maxCache)
}

// TestRowsAreLoadedForClientsWhenTheCacheIsFull has a cache of some rows, so that
// almost every row is read from the table when a client has room.
func TestRowsAreLoadedForClientsWhenTheCacheIsFull(t *testing.T) {
	t.Parallel()
	testModel(t, sqliteRows(t), 300, 2000)
}
