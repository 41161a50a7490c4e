package live

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/engine/internal/processor"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/proto/command"
)

type (
	thing  struct{}
	create struct{}
	made   struct {
		Owner string `json:"owner"`
	}
	thingRow struct {
		Owner string   `json:"owner"`
		Price int64    `json:"price"`
		Score *float64 `json:"score"`
		Open  bool     `json:"open"`
		Note  string   `json:"note"`
	}
	search struct {
		Owner string `json:"owner,omitzero"`
		Most  int64  `json:"most,omitzero"`
		Form  int    `json:"form,omitzero"`
	}
)

func (create) Decide(aggregate.Call, thing) (aggregate.Decision[thing], error) {
	return aggregate.Emit[thing](made{})
}
func (made) Apply(*thing) {}

// A world is a projection's rows that a test writes itself, with all states that
// they have had.
type world struct {
	t      testing.TB
	model  *projection.Definition
	spec   rows.Spec
	store  rows.Store
	query  map[int]*query.Definition // by limit
	table  atomic.Pointer[rows.Table]
	random *rand.Rand

	mu        sync.Mutex
	head      eventstore.Position
	mends     []int64 // per segment
	positions []eventstore.Position
	rows      map[string]rows.Row
	gaps      []eventstore.Position
	history   map[string]map[string]rows.Row
}

const segments = 3

func catalogOf(t testing.TB, limits ...int) (*projection.Definition, map[int]*query.Definition) {
	t.Helper()
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[thing]{
		Name: "thing", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[thing]{"make": create{}}, Events: aggregate.Events[thing]{"made": made{}},
	})
	from := projection.Define(c, projection.Table[thingRow]{
		Name: "things", Segments: segments,
		On:      projection.Handlers[thingRow]{projection.On(func(_ projection.At, e made, r *thingRow) { r.Owner = e.Owner })},
		Indexes: [][]string{{"owner", "price"}, {"open", "price"}, {"score"}, {"price"}},
	})
	queries := map[int]*query.Definition{}
	for _, limit := range limits {
		queries[limit] = query.Define(c, query.Rows[search, thingRow]{
			Name: fmt.Sprint("things", limit), Access: aggregate.Anyone, From: from, Limit: limit,
			Order: []string{"price", "-score"},
			Where: func(call query.Call, q search) query.Cond {
				owner := cmp.Or(q.Owner, call.Client)
				switch q.Form {
				case 1:
					return query.Any(query.Is("owner", owner), query.AtMost("price", q.Most))
				case 2:
					return query.All(query.In("owner", owner, "zoe"), query.AtLeast("price", q.Most), query.Is("open", true))
				case 3:
					return query.Absent("score")
				case 4:
					return query.All(query.Any(query.Is("open", true), query.Absent("score")), query.Prefix("owner", owner))
				}
				return query.All(query.Is("owner", owner).If(owner != ""), query.AtMost("price", q.Most).If(q.Most > 0))
			},
		})
	}
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	for _, q := range queries {
		return q.From(), queries
	}
	return nil, nil
}

func newWorld(t testing.TB, store rows.Store, seed uint64, limits ...int) *world {
	t.Helper()
	w := &world{
		t: t, store: store, random: rand.New(rand.NewPCG(seed, 7)), rows: map[string]rows.Row{}, history: map[string]map[string]rows.Row{},
		positions: make([]eventstore.Position, segments), mends: make([]int64, segments),
	}
	w.model, w.query = catalogOf(t, limits...)
	w.spec = processor.SpecOf(w.model)
	b, err := store.Ensure(t.Context(), w.spec)
	if err != nil {
		t.Fatal(err)
	}
	w.open(b)
	return w
}

func sqliteRows(t testing.TB) rows.Store {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s.Rows()
}

// open makes a build active and the one that serves.
func (w *world) open(b rows.Build) {
	w.t.Helper()
	if err := w.store.SetState(w.t.Context(), b.ID, rows.Active); err != nil {
		w.t.Fatal(err)
	}
	table, err := w.store.Open(w.t.Context(), w.spec, b.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	w.remember(b.ID)
	w.table.Store(&table)
}

func (w *world) now() rows.Table { return *w.table.Load() }

// registry returns a registry of its own, as another gateway has.
func (w *world) registry() *Registry {
	return New(Config{
		Serving: func(context.Context, *projection.Definition) (rows.Table, error) { return w.now(), nil },
		Forget:  func(string) {},
		Failure: func(_ *query.Definition, err error) *command.Failure { return command.Unavailable("%v", err) },
		Logger:  slog.New(slog.DiscardHandler),
	})
}

func (w *world) announce(rs ...*Registry) {
	w.mu.Lock()
	positions, head := slices.Clone(w.positions), w.head
	w.mu.Unlock()
	for _, r := range rs {
		r.Head(head)
		for segment, p := range positions {
			r.Announce("things", w.now().Build().ID, segment, p)
		}
	}
}

func moments(build, mends int64, positions []eventstore.Position) string {
	return fmt.Sprint(build, mends, positions)
}

// remember keeps the rows as those of the present moment. It is called before a
// write, so that no reader is earlier.
func (w *world) remember(build int64) {
	w.history[moments(build, w.mended(), w.positions)] = maps.Clone(w.rows)
}

// mended is what cursors have of mends.
func (w *world) mended() (sum int64) {
	for _, n := range w.mends {
		sum += n
	}
	return sum
}

func (w *world) key(i int) (string, int) {
	key := fmt.Sprint("k", i)
	return key, segmentOf(key)
}

func segmentOf(key string) int { return processor.SegmentOf(key, segments) }

// stored returns a random row.
func (w *world) stored(key string, segment int, p eventstore.Position) rows.Row {
	owners := []string{"", "ada", "bob", "eve", "zoe"}
	r := thingRow{Owner: owners[w.random.IntN(len(owners))], Price: w.random.Int64N(8), Open: w.random.IntN(2) == 0, Note: strings.Repeat("x", w.random.IntN(80)) + fmt.Sprint(p)}
	if w.random.IntN(3) > 0 {
		r.Score = new(float64(w.random.IntN(3)))
	}
	data, err := json.Marshal(r)
	if err != nil {
		w.t.Fatal(err)
	}
	values, err := w.model.Values(&r)
	if err != nil {
		w.t.Fatal(err)
	}
	return rows.Row{Key: key, Segment: segment, Position: p, Data: data, Values: values}
}

func (w *world) apply(r rows.Row) {
	if r.Gone {
		delete(w.rows, r.Key)
	} else {
		w.rows[r.Key] = r
	}
}

// write changes rows of one segment, among keys.
func (w *world) write(keys, most int) {
	w.t.Helper()
	w.mu.Lock()
	b := rows.Batch{Segment: w.random.IntN(segments)}
	b.From, b.Mends = w.positions[b.Segment], w.mends[b.Segment]
	batch := map[string]rows.Row{}
	for range 1 + w.random.IntN(most) {
		w.head++
		if w.random.IntN(20) == 0 {
			w.gaps = append(w.gaps, w.head)
			w.head++
		}
		key, segment := w.key(w.random.IntN(keys))
		if segment != b.Segment {
			continue
		}
		r := w.stored(key, segment, w.head)
		if w.random.IntN(4) == 0 {
			r = rows.Row{Key: key, Segment: segment, Position: w.head, Gone: true}
		}
		batch[key] = r
	}
	for _, r := range batch {
		b.Rows = append(b.Rows, r)
		w.apply(r)
	}
	b.To, b.Key = w.head, "c"
	w.positions[b.Segment] = w.head
	w.remember(w.now().Build().ID)
	w.mu.Unlock()
	if err := w.now().Write(w.t.Context(), b); err != nil {
		w.t.Fatal(err)
	}
}

// mend writes a row at a position that the checkpoint has passed.
func (w *world) mend() {
	w.t.Helper()
	w.mu.Lock()
	var r rows.Row
	for _, key := range slices.Sorted(maps.Keys(w.rows)) {
		old := w.rows[key]
		for _, gap := range w.gaps {
			if gap > old.Position && gap <= w.positions[old.Segment] {
				r = w.stored(key, old.Segment, gap)
			}
		}
	}
	if r.Key == "" {
		w.mu.Unlock()
		return
	}
	w.apply(r)
	mends := w.mends[r.Segment]
	w.mends[r.Segment]++
	w.remember(w.now().Build().ID)
	at := w.positions[r.Segment]
	w.mu.Unlock()
	if err := w.now().Write(w.t.Context(), rows.Batch{Segment: r.Segment, From: at, To: at, Mends: mends, Key: "c", Rows: []rows.Row{r}}); err != nil {
		w.t.Fatal(err)
	}
}

// rebuild makes another build serve, some of whose rows differ.
func (w *world) rebuild(drop bool) {
	w.t.Helper()
	old := w.now().Build().ID
	b, err := w.store.Rebuild(w.t.Context(), w.spec)
	if err != nil {
		w.t.Fatal(err)
	}
	table, err := w.store.Open(w.t.Context(), w.spec, b.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	clear(w.mends)
	batches := make([]rows.Batch, segments)
	for _, key := range slices.Sorted(maps.Keys(w.rows)) {
		r := w.rows[key]
		if w.random.IntN(5) == 0 {
			r = w.stored(key, r.Segment, r.Position)
			w.rows[key] = r
		}
		batches[r.Segment].Rows = append(batches[r.Segment].Rows, r)
	}
	w.mu.Unlock()
	for segment, batch := range batches {
		batch.Segment, batch.To, batch.Key = segment, w.positions[segment], "c"
		if batch.To == 0 {
			continue
		}
		if err := table.Write(w.t.Context(), batch); err != nil {
			w.t.Fatal(err)
		}
	}
	w.mu.Lock()
	w.open(b)
	w.mu.Unlock()
	if drop {
		if err := w.store.Drop(w.t.Context(), old); err != nil {
			w.t.Fatal(err)
		}
	}
}

// A shown is a row as a client has it.
type shown struct {
	Key      string              `json:"key"`
	Rank     string              `json:"rank"`
	Position eventstore.Position `json:"position"`
	Data     json.RawMessage     `json:"data"`
}

// answer returns what a question's answer was at a moment.
func (w *world) answer(q query.Question, at string) ([]shown, error) {
	w.mu.Lock()
	state, ok := w.history[at]
	w.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("the rows were never at %s", at)
	}
	var list []shown
	for key, r := range state {
		if q.Filter.Matches(key, r.Values) {
			list = append(list, shown{key, query.Rank(q.Order, key, r.Values), r.Position, r.Data})
		}
	}
	slices.SortFunc(list, func(a, b shown) int { return strings.Compare(a.Rank, b.Rank) })
	return list[:min(len(list), q.Limit)], nil
}
