package load

import (
	"cmp"
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/test/chaos/check"
	"github.com/ganglion-es/ganglion/test/harness"
)

// A watcher stays on a gateway for watchMin to watchMax.
const watchMin, watchMax = 300 * time.Millisecond, 8 * time.Second

// watcher has one live query, which it resumes on several gateways.
type watcher struct {
	load   *Load
	index  int
	random *rand.Rand

	mu       sync.Mutex
	live     check.Live
	cursor   string // to resume from
	view     view
	progress chan struct{} // capacity 1
}

// A view is what the client of a live query has of its answer. Frames apply in their
// order to a copy of the rows, which is shown when the batch is complete.
type view struct {
	rows  map[string]ranked
	batch map[string]ranked // nil outside of a batch
	// isNew is set while the batch is a new state and not a change of rows.
	isNew bool
	// updates counts those of the batch, and repeats the ones that changed nothing.
	updates, repeats int
	// resumed is set until the first batch after a reconnect with a cursor.
	resumed bool
}

type ranked struct {
	rank string
	check.Row
}

// run watches until all ends.
func (w *watcher) run(all context.Context) {
	w.mu.Lock()
	w.live = check.Live{Name: "watcher " + strconv.Itoa(w.index), Budget: budgets[w.index%len(budgets)]}
	w.view.rows = map[string]ranked{}
	w.mu.Unlock()
	for at := w.index; all.Err() == nil; at++ {
		if err := w.once(all, w.load.cfg.Gateways[at%len(w.load.cfg.Gateways)].URL); err != nil && all.Err() == nil {
			w.load.record(nil, "live query: "+err.Error())
		}
		pause(all, 5*time.Millisecond)
	}
}

func (w *watcher) once(ctx context.Context, url string) error {
	attempt, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	s, err := harness.Dial(attempt, url, "l"+strconv.Itoa(w.index), nil)
	if err != nil {
		return errLost
	}
	defer s.Close()
	frame := map[string]any{"query": "open_auctions", "data": map[string]any{"budget": w.live.Budget}}
	w.mu.Lock()
	w.view.batch, w.view.updates, w.view.repeats, w.view.resumed = nil, 0, 0, w.cursor != ""
	if w.cursor != "" {
		frame["cursor"] = w.cursor
	} else {
		w.view.begin()
	}
	w.mu.Unlock()
	ended := make(chan harness.Frame, 1)
	answer, err := s.Subscribe(attempt, "s", frame, func(e harness.Frame) {
		if e.Op == "unsubscribed" {
			select {
			case ended <- e:
			default:
			}
			return
		}
		w.receive(e)
	})
	if err != nil {
		return errLost
	}
	if answer.Op != "subscribed" {
		return refusal{answer}
	}
	return stay(ctx, s, ended, watchMin+time.Duration(w.random.Int64N(int64(watchMax-watchMin))))
}

// receive handles a frame of the subscription, on the reader of the session.
func (w *watcher) receive(e harness.Frame) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := &w.view
	switch e.Op {
	case "reset":
		w.load.record(nil, "live query: reset, "+e.Reason)
		v.begin()
		v.resumed = false
	case "state":
		for _, r := range e.Rows {
			v.set(r)
		}
	case "update":
		if e.Gone {
			delete(v.changing(), e.Key)
		} else {
			v.set(harness.Row{Key: e.Key, Rank: e.Rank, Position: e.Position, Data: e.Data})
		}
	case "keys":
		for key := range v.changing() {
			if !slices.Contains(e.Keys, key) {
				delete(v.batch, key)
			}
		}
	case "live", "synced":
		w.live.Updates, w.live.Repeats = w.live.Updates+v.updates, w.live.Repeats+v.repeats
		v.complete()
		w.live.Snapshots = append(w.live.Snapshots, check.Snapshot{Position: e.Position, Resumed: v.resumed, Rows: v.ordered()})
		v.resumed = false
		w.cursor = e.Cursor
	default:
		return
	}
	select {
	case w.progress <- struct{}{}:
	default:
	}
}

// begin begins a new state.
func (v *view) begin() { v.batch, v.isNew, v.updates, v.repeats = map[string]ranked{}, true, 0, 0 }

// changing returns the rows of the batch, and begins a batch if there is none.
func (v *view) changing() map[string]ranked {
	if v.batch == nil {
		v.batch, v.isNew = maps.Clone(v.rows), false
	}
	return v.batch
}

func (v *view) set(r harness.Row) {
	rows, row := v.changing(), ranked{r.Rank, rowOf(r)}
	if !v.isNew {
		v.updates++
		if rows[r.Key] == row {
			v.repeats++
		}
	}
	rows[r.Key] = row
}

// complete shows the batch.
func (v *view) complete() {
	if v.batch != nil {
		v.rows, v.batch = v.batch, nil
	}
	v.updates, v.repeats = 0, 0
}

// ordered returns the rows in the order of their ranks.
func (v *view) ordered() []check.Row {
	all := make([]ranked, 0, len(v.rows))
	for _, r := range v.rows {
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b ranked) int { return cmp.Compare(a.rank, b.rank) })
	rows := make([]check.Row, len(all))
	for i, r := range all {
		rows[i] = r.Row
	}
	return rows
}

// await waits until the watcher has been told of the last auction's event.
func (w *watcher) await(ctx context.Context, last map[string]uint64) {
	for {
		w.mu.Lock()
		n := len(w.live.Snapshots)
		done := n > 0 && w.live.Snapshots[n-1].Position >= last["auction"]
		w.mu.Unlock()
		if done {
			return
		}
		select {
		case <-w.progress:
		case <-time.After(100 * time.Millisecond): // a batch may have been lost with its connection
		case <-ctx.Done():
			return
		}
	}
}
