package engine

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/proto/ask"
)

// heavyParcels returns a program that knows the heaviest weight of each parcel.
// Programs of different revisions have builds of their own.
func heavyParcels(t *testing.T, revision int) *aggregate.Catalog {
	t.Helper()
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[parcel]{
		Name:     "parcel",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[parcel]{"ship": ship{}},
		Events:   aggregate.Events[parcel]{"shipped": shipped{}},
	})
	from := projection.Define(c, projection.Table[parcelRow]{
		Name: "heavy", Revision: revision,
		On: projection.Handlers[parcelRow]{projection.On(func(_ projection.At, e shipped, r *parcelRow) {
			r.Owner, r.Weight = e.Owner, max(r.Weight, e.Weight)
		})},
		Indexes: [][]string{{"weight"}},
	})
	query.Define(c, query.Rows[parcels, parcelRow]{
		Name: "heavy", Access: aggregate.Anyone, From: from, Limit: 1, Order: []string{"-weight"},
		Where: func(query.Call, parcels) query.Cond { return query.All() },
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return c
}

// A buildsWorld is a log on PostgreSQL that several programs follow.
type buildsWorld struct {
	t        *testing.T
	store    *postgres.Store
	mu       sync.Mutex
	programs []*Projections
	head     eventstore.Position
	version  eventstore.Version
}

func newBuildsWorld(t *testing.T) *buildsWorld {
	t.Helper()
	w := &buildsWorld{t: t}
	store, err := postgres.Open(t.Context(), postgres.Config{URL: postgrestest.URL(t), Committed: func(_ string, batch []eventstore.Commit) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.head = batch[len(batch)-1].Position
		for _, p := range w.programs {
			p.Observe(batch)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	w.store = store
	return w
}

// run starts a program.
func (w *buildsWorld) run(catalog *aggregate.Catalog) *Queries {
	w.t.Helper()
	logger := slog.New(slog.DiscardHandler)
	p := NewProjections(ProjectionsConfig{Catalog: catalog, Store: w.store, Rows: w.store.Rows(), Owns: func(string, int) bool { return true }, Logger: logger})
	w.mu.Lock()
	p.Begin(w.head)
	w.programs = append(w.programs, p)
	w.mu.Unlock()
	ctx, stop := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	w.t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	return NewQueries(QueriesConfig{Catalog: catalog, Rows: w.store.Rows(), LogID: w.store.LogID, Logger: logger})
}

// ship appends commits of ten events, each heavier than the one before.
func (w *buildsWorld) ship(commits int) {
	w.t.Helper()
	for range commits {
		c := eventstore.Command{Key: fmt.Sprint("k", w.version), At: time.Unix(1, 0)}
		for n := range 10 {
			c.Events = append(c.Events, eventstore.Event{Type: "shipped", Data: fmt.Appendf(nil, `{"owner":"ann","weight":%d,"score":null,"fast":false}`, int(w.version)+n+1)})
		}
		u := eventstore.Unit{Stream: eventstore.StreamID{Type: "parcel", ID: "one"}, Expected: w.version, Commands: []eventstore.Command{c}}
		if _, err := w.store.Append(w.t.Context(), u); err != nil {
			w.t.Fatal(err)
		}
		w.version += 10
	}
}

// serving returns the build that answers, 0 if none does yet.
func (w *buildsWorld) serving(q *Queries) int64 {
	w.t.Helper()
	if _, f := q.Ask(w.t.Context(), ask.Question{Query: "heavy", Data: []byte("{}")}); f != nil {
		return 0
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.served["heavy"].table.Build().ID
}

func (w *buildsWorld) eventually(what string, holds func() bool) {
	w.t.Helper()
	for began := time.Now(); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			w.t.Fatalf("it never happens that %s", what)
		}
	}
}

// shows asks for everything up to the head and compares the weight.
func (w *buildsWorld) shows(q *Queries) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	head := eventstore.Position(w.version) // of the log's only stream
	a, f := q.Ask(ctx, ask.Question{Query: "heavy", Data: []byte("{}"), AtLeast: head})
	want := fmt.Sprintf(`"weight":%d`, head)
	if f != nil || len(a.Rows) != 1 || !bytes.Contains(a.Rows[0].Data, []byte(want)) {
		w.t.Errorf("at %d: got %+v, %v; want %s", head, a, f, want)
	}
}

func TestQueriesAnswerThroughoutARebuildUnderLoad(t *testing.T) {
	t.Parallel()
	w := newBuildsWorld(t)
	w.ship(100)
	catalog := heavyParcels(t, 0)
	queries := w.run(catalog)
	w.eventually("the first build answers", func() bool { return w.serving(queries) != 0 })
	first := w.serving(queries)

	o := NewOperations(OperationsConfig{Catalog: catalog, Store: w.store, Rows: w.store.Rows()})
	again, err := o.Rebuild(t.Context(), "heavy")
	if err != nil {
		t.Fatal(err)
	}
	var stop atomic.Bool
	var asking sync.WaitGroup
	asked := map[int64]int{}
	asking.Go(func() {
		for !stop.Load() {
			id := w.serving(queries)
			if asked[id]++; id != first && id != again.ID || id == first && asked[again.ID] > 0 {
				t.Errorf("build %d answers, after %v", id, asked)
				return
			}
		}
	})
	for rebuilt := false; !rebuilt; {
		w.ship(5)
		builds, err := w.store.Rows().Builds(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		rebuilt = len(builds) == 2 && builds[0].State == rows.Retired && builds[1].State == rows.Active
	}
	w.eventually("the rebuild answers", func() bool { return w.serving(queries) == again.ID })
	stop.Store(true)
	asking.Wait()
	w.shows(queries)
	done, err := o.Verify(t.Context(), "heavy", func(d Difference) { t.Errorf("%+v differs", d) }, nil)
	if err != nil || done.Build != again.ID || done.Rows != 1 {
		t.Errorf("the verification is %+v, %v", done, err)
	}
	t.Logf("answers by build: %v", asked)
}

func TestChangedProjectionBuildsBesideTheServingOne(t *testing.T) {
	t.Parallel()
	w := newBuildsWorld(t)
	w.ship(50)
	older := w.run(heavyParcels(t, 0))
	w.eventually("the old program's build answers", func() bool { return w.serving(older) != 0 })
	first := w.serving(older)
	newer := w.run(heavyParcels(t, 1))
	w.eventually("the new program's build answers", func() bool {
		w.ship(1)
		return w.serving(newer) != 0
	})
	second := w.serving(newer)
	if second == first {
		t.Fatalf("both programs use build %d", first)
	}
	w.ship(20)
	w.shows(older)
	w.shows(newer)
	if id := w.serving(older); id != first {
		t.Errorf("the old program uses build %d, want its own, %d", id, first)
	}
	builds, err := w.store.Rows().Builds(t.Context())
	if err != nil || len(builds) != 2 || builds[0].State != rows.Active || builds[1].State != rows.Active {
		t.Errorf("the builds are %+v, %v; want two active ones", builds, err)
	}
}
