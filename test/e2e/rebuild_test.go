package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

// An asker asks one query again and again, until its context ends.
type asker struct {
	harness.Client
	query, data string
	asked       int
	position    uint64       // of the newest answer
	build       atomic.Int64 // of the newest answer with a further page
	answer      func(position uint64, rows []harness.Row)
}

// run asks. An error reply fails, even one that asks for a retry, and so does an
// answer that shows less than an earlier one.
func (a *asker) run(ctx context.Context) error {
	defer a.Leave()
	for ; ctx.Err() == nil; a.asked++ {
		frame := map[string]any{"op": "query", "query": a.query, "data": json.RawMessage(a.data)}
		if len(a.URLs) > 1 && a.position > 0 { // another gateway may serve another build, which may be behind
			frame["at_least"] = a.position
		}
		f, err := a.DoFrame(ctx, frame)
		if ctx.Err() != nil {
			break
		}
		if err == nil && f.Position < a.position {
			err = fmt.Errorf("position %d follows %d", f.Position, a.position)
		}
		var page struct {
			Rows []harness.Row
			Next string
		}
		if err = errors.Join(err, json.Unmarshal(f.Data, &page)); err != nil {
			return fmt.Errorf("%s, question %d: %w", a.ID, a.asked, err)
		}
		a.position = f.Position
		var token struct {
			Build int64 `json:"b"`
		} // pages of an answer are those of one build
		if text, err := base64.RawURLEncoding.DecodeString(page.Next); err == nil && json.Unmarshal(text, &token) == nil {
			a.build.Store(token.Build)
		}
		if a.answer != nil {
			a.answer(f.Position, page.Rows)
		}
	}
	if n := a.Errors.Load(); n > 0 {
		return fmt.Errorf("%s: %d of %d questions got an error", a.ID, n, a.asked)
	}
	return nil
}

// seeded appends auctions with bids to the log, before the nodes start.
func seeded(t *testing.T, url string, auctions, bids int) {
	t.Helper()
	store, err := node.OpenStore(t.Context(), node.StoreConfig{URL: url})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for n := range auctions {
		u := eventstore.Unit{Stream: eventstore.StreamID{Type: "auction", ID: fmt.Sprint("seed", n)}}
		add := func(event string, data map[string]any) {
			u.Commands = append(u.Commands, eventstore.Command{Key: fmt.Sprint("seed", len(u.Commands)), At: time.UnixMicro(1), Events: []eventstore.Event{{Type: event, Data: []byte(text(t, data))}}})
		}
		add("opened", map[string]any{"item": "desk", "seller": "seed", "reserve": 1000, "closes_at": "2099-01-01T00:00:00Z"})
		for i := range bids {
			add("bid_placed", map[string]any{"bidder": "ada", "amount": 1100 + i})
		}
		if _, err := store.Append(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
}

// rebuilt waits until a program's newest build of a projection is active.
func (c *cluster) rebuilt(program, projection string, builds int) {
	c.t.Helper()
	harness.Eventually(c.t, "a build of "+projection+" has caught up", func() error {
		var r struct{ Segments []node.SegmentState }
		if err := json.Unmarshal([]byte(c.operate(program, 0, "processors", "--json")), &r); err != nil {
			return err
		}
		newest, n := node.SegmentState{}, 0
		for _, s := range r.Segments {
			if s.Projection == projection {
				n++
				if s.Own && s.Build > newest.Build {
					newest = s
				}
			}
		}
		if n < builds || newest.State != "active" {
			return fmt.Errorf("there are %d builds, the newest of this program is %+v", n, newest)
		}
		return nil
	})
}

// TestRebuildUnderLoadIsSeenByNobody builds listings again under load, while
// clients ask and follow on every gateway.
func TestRebuildUnderLoadIsSeenByNobody(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), hungAfter)
	defer cancel()
	store := database(t)
	auctions, sellers := 80, 3
	if long {
		auctions, sellers = 1_000, 64
	}
	seeded(t, store, auctions, 100)
	c := startTrio(t, store)
	c.rebuilt(binary, "listings", 1)
	m := &market{sellers: sellers, each: 20, item: "lamp", failed: cancel}
	m.open(ctx, c.wsURLs(), rand.Uint64())
	began, from := time.Now(), m.count()
	var seen watching
	var all sync.WaitGroup
	asking, stop := context.WithCancel(ctx)
	defer stop()
	var askers []*asker
	var viewers []func() error
	for i, url := range c.wsURLs() {
		name, budget := fmt.Sprint("asker", i), int64(1000*i)
		a := &asker{Client: harness.Client{ID: name, URLs: []string{url}}, query: "open_auctions", data: "{}"}
		a.answer = func(position uint64, rows []harness.Row) { seen.record(offersAt(name, 0, position, rows)) }
		askers = append(askers, a)
		all.Go(func() {
			if err := a.run(asking); err != nil {
				t.Error(err)
			}
		})
		v := seen.viewer(fmt.Sprint("viewer", i), budget)
		s, err := harness.Dial(ctx, url, v.client, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if err := v.follow(ctx, s); err != nil {
			t.Fatal(err)
		}
		viewers = append(viewers, func() error { return v.await(ctx, s, func() bool { return v.has("last") }) })
	}
	var before []int64
	for _, a := range askers {
		harness.Eventually(t, a.ID+" gets a first page", func() error {
			if a.build.Load() == 0 {
				return errors.New("it has none")
			}
			return nil
		})
		before = append(before, a.build.Load())
	}
	c.operate(binary, 0, "processor", "rebuild", "listings")
	c.rebuilt(binary, "listings", 2)
	for i, a := range askers {
		first := before[i]
		harness.Eventually(t, a.ID+" gets answers of the new build", func() error {
			if a.build.Load() == first {
				return fmt.Errorf("they are of build %d", first)
			}
			return nil
		})
	}
	rate := float64(m.count()-from) / time.Since(began).Seconds()
	head := m.close(t)
	stop()
	all.Wait()
	for _, await := range viewers {
		if err := await(); err != nil {
			t.Error(err)
		}
	}
	for i, v := range seen.viewers {
		if len(v.resets) > 0 {
			t.Errorf("%s was reset: %v", v.client, v.resets)
		}
		c.answers(ctx, (i+1)%3, v, head)
	}
	seen.shows(t, store)
	c.rowsEqualLog()
	t.Logf("%.0f changes/s, %d answers", rate, len(seen.seen))
}

// TestQueriesAnswerWhileNodesChangeToAnotherRowType restarts the nodes one by one
// with a release of another row type, whose rows were built before.
func TestQueriesAnswerWhileNodesChangeToAnotherRowType(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), hungAfter)
	defer cancel()
	older, newer := programAt(t, "notes"), programAt(t, "notes-longer")
	c := startTrioOf(t, database(t), older)
	c.rebuilt(older, "notes", 1)
	writing, stopWriting := context.WithCancel(ctx)
	defer stopWriting()
	urls := c.wsURLs()
	var all sync.WaitGroup
	all.Go(func() {
		writer := &harness.Client{ID: "ada", URLs: urls}
		defer writer.Leave()
		for k := 0; writing.Err() == nil; k++ {
			_, err := writer.Do(ctx, fmt.Sprint("note/", k%150), "write", fmt.Sprint("k", k), writeNote{Text: "x", Rank: int64(k * 7 % 10)})
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	asking, stopAsking := context.WithCancel(ctx)
	defer stopAsking()
	var askers, viewers sync.WaitGroup
	var views []*viewer
	for i := range c.members {
		a := &asker{Client: harness.Client{ID: fmt.Sprint("asker", i), URLs: rotated(urls, i)}, query: "notes", data: `{}`}
		askers.Go(func() {
			if err := a.run(asking); err != nil {
				t.Error(err)
			}
		})
		v := newViewer(fmt.Sprint("viewer", i), "notes", struct{}{})
		views = append(views, v)
		viewers.Go(func() {
			for !v.has("last") && ctx.Err() == nil { // it stays on its gateway, and waits for it
				_ = v.view(ctx, urls[i], func() bool { return v.has("last") })
			}
		})
	}
	for _, v := range views {
		harness.Eventually(t, v.client+" shows rows", v.hasBegun)
	}
	builder := c.add("processors")
	c.members[builder].binary = newer
	c.start(builder)
	c.rebuilt(newer, "notes", 2)
	for i := range 3 {
		c.leave(i)
		c.members[i].binary = newer
		c.start(i)
		c.settled()
	}
	stopWriting()
	all.Wait()
	stopAsking()
	askers.Wait()
	last := &harness.Client{ID: "ada", URLs: urls}
	defer last.Leave()
	f, err := last.Do(ctx, "note/last", "write", "last", writeNote{Text: "last", Rank: -1})
	if err != nil {
		t.Fatal(err)
	}
	viewers.Wait()
	for i, v := range views {
		if err := v.err(); err != nil || strings.Join(v.resets, " ") != "rebuilt" {
			t.Errorf("%s: %v, reset %v, want once: rebuilt", v.client, err, v.resets)
		}
		for _, r := range v.rowsNow() {
			var row longerRow
			if err := json.Unmarshal(r.Data, &row); err != nil || row.Length != len(row.Text) {
				t.Fatalf("%s shows %s", v.client, r.Data)
			}
		}
		c.answers(ctx, (i+1)%3, v, f.Position)
	}
	c.operate(newer, 0, "processor", "verify", "notes")
	t.Logf("%d events", f.Position)
}
