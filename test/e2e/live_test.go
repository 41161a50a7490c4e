package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

// window is the limit of open_auctions.
const window = 100

// offered is a row of open_auctions.
type offered struct {
	key      string
	price    int64
	position uint64
}

// offers are the rows that a client of open_auctions shows at a position.
type offers struct {
	name     string
	budget   int64
	position uint64
	rows     []offered
}

// market changes auctions, of which many have the same price. Bids move rows within
// the window, out of it and above budgets, and others into it.
type market struct {
	sellers int
	each    int    // auctions that each seller opens at first
	item    string // of each auction

	running sync.WaitGroup
	stop    context.CancelFunc
	failed  func()        // called after an error
	opened  chan struct{} // gets a value from each seller that has opened its first auctions
	mu      sync.Mutex
	err     error
	urls    []string
	done    int
}

func (m *market) open(ctx context.Context, urls []string, seed uint64) {
	ctx, m.stop = context.WithCancel(ctx)
	m.urls = urls
	m.opened = make(chan struct{}, m.sellers)
	for i := range m.sellers {
		m.running.Go(func() {
			if err := m.sell(ctx, i, rotated(urls, i), rand.New(rand.NewPCG(seed, uint64(i)))); err != nil && ctx.Err() == nil {
				m.mu.Lock()
				defer m.mu.Unlock()
				m.err = errors.Join(m.err, err)
				m.opened <- struct{}{}
				m.failed()
			}
		})
	}
	for range m.sellers {
		<-m.opened
	}
}

// close ends the changes with an auction that is first in each answer, and returns
// its position.
func (m *market) close(t *testing.T) uint64 {
	t.Helper()
	m.stop()
	m.running.Wait()
	if m.err != nil {
		t.Fatal(m.err)
	}
	owner := &harness.Client{ID: "seller", URLs: m.urls}
	defer owner.Leave()
	f, err := owner.Do(t.Context(), "auction/last", "open", "last", map[string]any{"item": m.item, "reserve": 1, "closes_at": "2099-01-01T00:00:00Z"})
	if err != nil {
		t.Fatal(err)
	}
	return f.Position
}

// count returns how many changes were made.
func (m *market) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.done
}

func (m *market) sell(ctx context.Context, seller int, urls []string, random *rand.Rand) error {
	owner := &harness.Client{ID: "seller", URLs: urls}
	defer owner.Leave()
	bidder := &harness.Client{ID: fmt.Sprint("bidder", seller), URLs: urls}
	defer bidder.Leave()
	var prices []int64
	var open []int
	for k := 0; ; k++ {
		by, n, command, data := owner, len(prices), "open", any(struct{}{})
		dice := random.IntN(100)
		switch {
		case k < m.each || dice < 6 || len(open) == 0:
			price := int64(1000 + 100*random.IntN(5))
			prices, open = append(prices, price), append(open, n)
			data = map[string]any{"item": m.item, "reserve": price, "closes_at": "2099-01-01T00:00:00Z"}
		case dice < 9:
			i := random.IntN(len(open))
			n, command = open[i], "close"
			open = slices.Delete(open, i, i+1)
		default:
			n, by, command = open[random.IntN(len(open))], bidder, "bid"
			prices[n] += int64(100 * (1 + random.IntN(3)))
			data = map[string]any{"amount": prices[n]}
		}
		_, err := by.Do(ctx, auction(seller, n), command, fmt.Sprint("k", k), data)
		if err != nil {
			return fmt.Errorf("%s %s: %w", command, auction(seller, n), err)
		}
		m.mu.Lock()
		m.done++
		m.mu.Unlock()
		if k == m.each-1 {
			m.opened <- struct{}{}
		}
	}
}

// An offering is the projection listings, folded without its code.
type offering struct {
	log  []offered // what follows
	rows map[string]offered
}

// advance folds the log up to a position.
func (o *offering) advance(to uint64) {
	for ; len(o.log) > 0 && o.log[0].position <= to; o.log = o.log[1:] {
		o.rows[o.log[0].key] = o.log[0]
	}
}

// open returns the answer to open_auctions.
func (o *offering) open(budget int64) (rows []offered) {
	for _, r := range o.rows {
		if r.price > 0 && (budget == 0 || r.price <= budget) {
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b offered) int { return cmp.Or(cmp.Compare(a.price, b.price), cmp.Compare(a.key, b.key)) })
	return rows[:min(window, len(rows))]
}

// left reports whether a row was absent from the answer at a position between two.
func (o *offering) left(r repeat, budget int64) bool {
	for p := r.from; p <= r.to; p++ {
		o.advance(p)
		if !slices.ContainsFunc(o.open(budget), func(row offered) bool { return row.key == r.key }) {
			return true
		}
	}
	return false
}

// shows compares what clients were shown with a fold of the log up to each
// position.
func (w *watching) shows(t *testing.T, store string) {
	t.Helper()
	log := offersOf(t, store)
	slices.SortStableFunc(w.seen, func(a, b offers) int { return cmp.Compare(a.position, b.position) })
	fold := offering{log, map[string]offered{}}
	for _, s := range w.seen {
		fold.advance(s.position)
		if want := fold.open(s.budget); !slices.Equal(s.rows, want) {
			t.Fatalf("%s, budget %d, position %d shows %d rows\n%v\nand not the %d rows of the log\n%v", s.name, s.budget, s.position, len(s.rows), s.rows, len(want), want)
		}
	}
	for _, v := range w.viewers {
		if err := v.err(); err != nil {
			t.Error(err)
		}
		budget := v.frame["data"].(map[string]any)["budget"].(int64)
		stayed := 0
		for _, r := range v.repeats {
			fold := offering{log, map[string]offered{}}
			if !fold.left(r, budget) {
				stayed++
			}
		}
		if stayed*20 > v.frames {
			t.Errorf("%s got %d rows again that had stayed, in %d frames", v.client, stayed, v.frames)
		}
		t.Logf("%s: %d batches, reset %v, %d rows came again unchanged, %d of which had stayed", v.client, v.batches, v.resets, len(v.repeats), stayed)
	}
}

// offersOf returns the changes of auctions in a log. A closed one has the price 0.
func offersOf(t *testing.T, url string) (all []offered) {
	t.Helper()
	store, err := node.OpenStore(t.Context(), node.StoreConfig{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for after := eventstore.Position(0); ; {
		commits, err := store.Read(t.Context(), after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(commits) == 0 {
			return all
		}
		for _, commit := range commits {
			after = commit.Position
			for i, e := range commit.Events {
				var event struct{ Reserve, Amount int64 }
				if err := json.Unmarshal(e.Data, &event); err != nil {
					t.Fatal(err)
				}
				price := event.Reserve + event.Amount
				if e.Type == "closed" {
					price = 0
				}
				all = append(all, offered{commit.Stream.ID, price, uint64(commit.First()) + uint64(i)})
			}
		}
	}
}

// offersAt reads rows of open_auctions.
func offersAt(name string, budget int64, position uint64, rows []harness.Row) offers {
	o := offers{name: name, budget: budget, position: position, rows: []offered{}}
	for _, r := range rows {
		var data struct{ Price int64 }
		if err := json.Unmarshal(r.Data, &data); err != nil {
			data.Price = -1 // never equal
		}
		o.rows = append(o.rows, offered{r.Key, data.Price, r.Position})
	}
	return o
}

// watching is a group of viewers of open_auctions, who record what they are shown.
type watching struct {
	viewers []*viewer

	mu   sync.Mutex
	seen []offers
}

func (w *watching) viewer(name string, budget int64) *viewer {
	v := newViewer(name, "open_auctions", map[string]any{"budget": budget})
	v.batch = func(position uint64, rows []harness.Row) {
		w.record(offersAt(name, budget, position, rows))
	}
	w.viewers = append(w.viewers, v)
	return v
}

func (w *watching) record(o offers) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, o)
}

// TestReconnectingLiveQueriesShowTheQueryAtEachBatch reconnects live queries to
// random gateways, in the middle of batches, while rows move in and out of windows.
func TestReconnectingLiveQueriesShowTheQueryAtEachBatch(t *testing.T) {
	t.Parallel()
	within := hungAfter
	if long {
		within *= 3
	}
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	c := startTrio(t, database(t))
	reconnects, seed := 100, rand.Uint64()
	if long {
		reconnects = 1000
	}
	t.Logf("seed %d", seed)
	m := &market{sellers: 3, each: 55, item: "lamp", failed: cancel}
	m.open(ctx, c.wsURLs(), seed)
	var seen watching
	var all sync.WaitGroup
	for i, budget := range []int64{0, 0, 1300, 1700} {
		v := seen.viewer(fmt.Sprint("viewer", i), budget)
		random := rand.New(rand.NewPCG(seed, uint64(100+i)))
		all.Go(func() {
			for range reconnects / 4 {
				last := v.frames + 1 + random.IntN(30)
				if err := v.view(ctx, c.wsURLs()[random.IntN(3)], func() bool { return v.frames >= last }); err != nil {
					t.Errorf("%s: %v", v.client, err)
					return
				}
			}
		})
	}
	all.Wait()
	head := m.close(t)
	for i, v := range seen.viewers {
		if err := v.view(ctx, c.wsURLs()[i%3], func() bool { return v.has("last") }); err != nil {
			t.Error(err)
		}
		if len(v.resets) > 0 {
			t.Errorf("%s was reset: %v", v.client, v.resets)
		}
		c.answers(ctx, (i+1)%3, v, head)
	}
	seen.shows(t, c.store)
	t.Logf("%d changes, %d batches", m.done, len(seen.seen))
}

// answers compares the rows of a viewer with the answer of a gateway.
func (c *cluster) answers(ctx context.Context, gateway int, v *viewer, atLeast uint64) {
	t := c.t
	t.Helper()
	s, err := harness.Dial(ctx, c.wsURLs()[gateway], v.client, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	f, err := s.Call(ctx, map[string]any{"op": "query", "query": v.frame["query"], "data": v.frame["data"], "at_least": atLeast, "timeout_ms": 30000})
	if err != nil || f.Op != "result" {
		t.Fatalf("query: %+v, %v", f, err)
	}
	var page struct{ Rows []harness.Row }
	if err := json.Unmarshal(f.Data, &page); err != nil {
		t.Fatal(err)
	}
	same := func(a, b harness.Row) bool {
		return a.Key == b.Key && a.Rank == b.Rank && a.Position == b.Position && string(a.Data) == string(b.Data)
	}
	if rows := v.rowsNow(); !slices.EqualFunc(rows, page.Rows, same) {
		t.Errorf("%s shows %d rows\n%v\nand the query\n%v", v.client, len(rows), rows, page.Rows)
	}
}

// TestSlowReaderOfAHotTableIsNeverCutAndEndsEqual reads a live query at 64 KiB/s,
// while its rows change several times as fast.
func TestSlowReaderOfAHotTableIsNeverCutAndEndsEqual(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), hungAfter)
	defer cancel()
	c := startTrio(t, database(t))
	m := &market{sellers: 4, each: 28, item: strings.Repeat("a lamp ", 200), failed: cancel}
	m.open(ctx, c.wsURLs(), rand.Uint64())
	var seen watching
	link := harness.WS("http://" + throttle(t, strings.TrimPrefix(c.members[0].URLs[0], "http://"), 64<<10))
	sessions := map[*viewer]*harness.Session{}
	for name, url := range map[string]string{"slow": link, "fast": c.wsURLs()[1]} {
		v := seen.viewer(name, 0)
		s, err := harness.Dial(ctx, url, name, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := v.follow(ctx, s); err != nil {
			t.Fatal(err)
		}
		sessions[v] = s
	}
	frames := 30
	if long {
		frames = 2_000
	}
	var head uint64
	for _, enough := range []func(v *viewer) bool{
		func(v *viewer) bool { return v.frames >= frames },
		func(v *viewer) bool { return v.has("last") },
	} {
		for v, s := range sessions {
			if err := v.await(ctx, s, func() bool { return enough(v) }); err != nil {
				t.Fatalf("the %s reader was cut after %d frames and %d batches: %v", v.client, v.frames, v.batches, err)
			}
		}
		if head == 0 {
			head = m.close(t)
		}
	}
	for v := range sessions {
		if len(v.resets) > 0 {
			t.Errorf("%s was reset: %v", v.client, v.resets)
		}
		c.answers(ctx, 2, v, head)
	}
	seen.shows(t, c.store)
	t.Logf("%d changes", m.done)
}

// throttle forwards connections to a gateway, whose answers it reads at a rate in
// bytes per second, and returns its address.
func throttle(t *testing.T, target string, rate int) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer client.Close()
				var d net.Dialer
				server, err := d.DialContext(context.Background(), "tcp", target)
				if err != nil {
					return
				}
				_ = server.(*net.TCPConn).SetReadBuffer(16 << 10)
				serving.Go(func() { _, _ = io.Copy(server, client); server.Close() })
				piece := make([]byte, rate/16)
				for err == nil {
					var n int
					n, err = server.Read(piece)
					_, _ = client.Write(piece[:n])
					time.Sleep(time.Second * time.Duration(n) / time.Duration(rate))
				}
			})
		}
	})
	return l.Addr().String()
}
