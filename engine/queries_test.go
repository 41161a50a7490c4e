package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/engine/internal/processor"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
)

// A parcel is what these tests project and ask for.
type (
	parcel struct{}
	ship   struct{}

	shipped struct {
		Owner  string   `json:"owner"`
		Weight int64    `json:"weight"`
		Score  *float64 `json:"score"`
		Fast   bool     `json:"fast"`
	}
	parcelRow struct {
		Owner  string    `json:"owner"`
		Weight int64     `json:"weight"`
		Score  *float64  `json:"score"`
		Fast   bool      `json:"fast"`
		At     time.Time `json:"at"`
	}
	parcels struct {
		Least  int64  `json:"least,omitzero"`
		Prefix string `json:"prefix,omitzero"`
		Any    bool   `json:"any,omitzero"`
	}
	mine struct{}
)

func (ship) Decide(aggregate.Call, parcel) (aggregate.Decision[parcel], error) {
	return aggregate.Emit[parcel](shipped{})
}
func (shipped) Apply(*parcel) {}

// parcelCatalog has the projection "parcels" with three segments, and the
// queries "parcels", for anyone, and "mine", for a client's own ones.
func parcelCatalog(t *testing.T) *aggregate.Catalog {
	t.Helper()
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[parcel]{
		Name:     "parcel",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[parcel]{"ship": ship{}},
		Events:   aggregate.Events[parcel]{"shipped": shipped{}},
	})
	from := projection.Define(c, projection.Table[parcelRow]{
		Name: "parcels", Segments: 3,
		On: projection.Handlers[parcelRow]{projection.On(func(at projection.At, e shipped, r *parcelRow) {
			*r = parcelRow{Owner: e.Owner, Weight: e.Weight, Score: e.Score, Fast: e.Fast, At: at.Time}
		})},
		Indexes: [][]string{{"owner"}, {"fast", "score", "weight"}, {"at"}},
	})
	query.Define(c, query.Rows[parcels, parcelRow]{
		Name: "parcels", Access: aggregate.Anyone, From: from, Limit: 7,
		Where: func(_ query.Call, q parcels) query.Cond {
			some := query.All(query.AtLeast("weight", q.Least).If(q.Least != 0), query.Prefix("owner", q.Prefix).If(q.Prefix != ""))
			if q.Any {
				return query.Any(some, query.Absent("score"), query.In("weight", 3, 5))
			}
			return some
		},
		Order: []string{"fast", "-score"},
	})
	query.Define(c, query.Rows[mine, parcelRow]{
		Name: "mine", Access: aggregate.Authenticated, From: from,
		Where: func(c query.Call, _ mine) query.Cond {
			if c.Client == "panic" {
				panic("boom")
			}
			return query.Is("owner", c.Client)
		},
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return c
}

// A readSide is a log with projections and queries.
type readSide struct {
	t       *testing.T
	store   *sqlite.Store
	queries *Queries
	head    eventstore.Position
}

func newReadSide(t *testing.T, run bool) *readSide {
	t.Helper()
	return newReadSideOf(t, parcelCatalog(t), run)
}

func newReadSideOf(t *testing.T, catalog *aggregate.Catalog, run bool) *readSide {
	t.Helper()
	var p *Projections
	store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: t.TempDir(), Committed: func(_ string, batch []eventstore.Commit) { p.Observe(batch) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	logger := slog.New(slog.DiscardHandler)
	p = NewProjections(ProjectionsConfig{Catalog: catalog, Store: store, Rows: store.Rows(), Owns: func(string, int) bool { return true }, Logger: logger})
	p.Begin(0)
	if run {
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	return &readSide{t: t, store: store, queries: NewQueries(QueriesConfig{Catalog: catalog, Rows: store.Rows(), LogID: store.LogID, Projections: p, Logger: logger})}
}

// ship appends one event and returns its position.
func (r *readSide) ship(id string, version eventstore.Version, e shipped) eventstore.Position {
	r.t.Helper()
	data, err := json.Marshal(e)
	if err != nil {
		r.t.Fatal(err)
	}
	a, err := r.store.Append(r.t.Context(), eventstore.Unit{
		Stream: eventstore.StreamID{Type: "parcel", ID: id}, Expected: version,
		Commands: []eventstore.Command{{Key: fmt.Sprint(id, version), At: time.UnixMicro(int64(version)), Events: []eventstore.Event{{Type: "shipped", Data: data}}}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.head = a.Commands[0].Position
	return r.head
}

// ask asks until the projection has its first build. It asks again after a timeout,
// which a busy machine needs.
func (r *readSide) ask(q ask.Question) ask.Answer {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	for {
		a, f := r.queries.Ask(ctx, q)
		if f == nil {
			return a
		}
		if ctx.Err() != nil || f.Code != command.CodeTimeout && (f.Code != command.CodeUnavailable || !strings.Contains(f.Message, "being built")) {
			r.t.Fatalf("ask %+v: %v", q, f)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// fails asks with more and more time, until that is enough to find the reason.
func (r *readSide) fails(q ask.Question, code command.Code, field, says string) {
	r.t.Helper()
	for within := 50 * time.Millisecond; ; within *= 2 {
		ctx, cancel := context.WithTimeout(r.t.Context(), within)
		_, f := r.queries.Ask(ctx, q)
		cancel()
		if f != nil && f.Code == command.CodeTimeout && within < time.Minute {
			continue
		}
		if f == nil || f.Code != code || f.Field != field || !strings.Contains(f.Message, says) {
			r.t.Errorf("ask %+v: got %v, want %s of the member %q with %q", q, f, code, field, says)
		}
		return
	}
}

// TestPagesOfAnAnswerEqualThePredicate compares the database's answers with the
// condition in memory, for random rows and parameters.
func TestPagesOfAnAnswerEqualThePredicate(t *testing.T) {
	t.Parallel()
	r := newReadSide(t, true)
	random := rand.New(rand.NewPCG(3, 4))
	owners := []string{"", "a", "A", "ab", "b", "é"}
	for i := range 120 {
		e := shipped{Owner: owners[random.IntN(len(owners))], Weight: random.Int64N(6), Fast: random.IntN(2) == 0}
		if random.IntN(3) > 0 {
			e.Score = new(float64(random.IntN(5)) / 2)
		}
		r.ship(fmt.Sprint("p", i), 0, e)
	}
	d := r.queries.queries["parcels"]
	for range 40 {
		params := parcels{Least: random.Int64N(6), Prefix: owners[random.IntN(len(owners))], Any: random.IntN(2) == 0}
		data, err := json.Marshal(params)
		if err != nil {
			t.Fatal(err)
		}
		compiled, err := d.Question(query.Call{}, data)
		if err != nil {
			t.Fatal(err)
		}
		var got, ranks []string
		next, pages := "", 0
		for more := true; more; more = next != "" {
			a := r.ask(ask.Question{Query: "parcels", Data: data, AtLeast: r.head, After: next})
			for _, row := range a.Rows {
				got = append(got, row.Key)
				ranks = append(ranks, row.Rank)
			}
			next = a.Next
			pages++
		}
		want := map[string]bool{}
		for i := range 120 {
			key := fmt.Sprint("p", i)
			values := r.values(d, key)
			if compiled.Filter.Matches(key, values) {
				want[key] = true
			}
		}
		if len(got) != len(want) || slices.ContainsFunc(got, func(key string) bool { return !want[key] }) {
			t.Fatalf("%s: got %d rows %v, want %d", data, len(got), got, len(want))
		}
		if !slices.IsSorted(ranks) {
			t.Fatalf("%s: the rows are not in the order of their ranks: %v", data, got)
		}
		if want := (len(got) + 6) / 7; pages != max(1, want) {
			t.Errorf("%s: %d rows came in %d pages, want %d", data, len(got), pages, want)
		}
	}
}

// values returns the values of a row's columns.
func (r *readSide) values(d *query.Definition, key string) []any {
	r.t.Helper()
	table, err := r.queries.serving(r.t.Context(), d.From())
	if err != nil || table == nil {
		r.t.Fatalf("no build serves: %v", err)
	}
	list, err := table.Load(r.t.Context(), []string{key})
	if err != nil || len(list) != 1 {
		r.t.Fatalf("row %s: %v, %v", key, list, err)
	}
	values, err := valuesOf(d.From(), list[0])
	if err != nil {
		r.t.Fatal(err)
	}
	return values
}

func TestAnswerShowsThePositionThatItsCallerAskedFor(t *testing.T) {
	t.Parallel()
	r := newReadSide(t, true)
	for i := range 50 {
		p := r.ship("a", eventstore.Version(i), shipped{Owner: "bob", Weight: int64(i)})
		a := r.ask(ask.Question{Query: "mine", Client: "bob", AtLeast: p})
		if a.Position < p || len(a.Rows) != 1 || !strings.Contains(string(a.Rows[0].Data), fmt.Sprintf(`"weight":%d,`, i)) {
			t.Fatalf("after position %d the answer is %+v", p, a)
		}
	}
	r.early(ask.Question{Query: "mine", Client: "bob", AtLeast: r.head + 1})
}

// early asks for a position beyond the head. The failure names both, unless the
// database did not answer in time.
func (r *readSide) early(q ask.Question) {
	r.t.Helper()
	want := fmt.Sprintf("up to position %d, not yet %d", r.head, q.AtLeast)
	for began := time.Now(); ; {
		ctx, cancel := context.WithTimeout(r.t.Context(), 50*time.Millisecond)
		_, f := r.queries.Ask(ctx, q)
		cancel()
		switch {
		case f == nil || f.Code != command.CodeUnavailable:
			r.t.Errorf("ask %+v: got %v, want unavailable", q, f)
		case strings.Contains(f.Message, want):
		case strings.Contains(f.Message, "not yet known") && time.Since(began) < time.Minute:
			continue
		default:
			r.t.Errorf("ask %+v: got %q, want %q", q, f.Message, want)
		}
		return
	}
}

func TestPositionThatCannotBeReadIsNotReportedAsZero(t *testing.T) {
	t.Parallel()
	r := newReadSide(t, true)
	r.ship("a", 0, shipped{Owner: "bob"})
	q := ask.Question{Query: "mine", Client: "bob", AtLeast: r.head}
	r.ask(q) // finds the build, which the next question uses
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	q.AtLeast++
	if _, f := r.queries.Ask(ctx, q); f == nil || strings.Contains(f.Message, "up to position") {
		t.Errorf("got %v", f)
	}
}

func TestQuestionsAreRefusedWithTheirReason(t *testing.T) {
	t.Parallel()
	r := newReadSide(t, true)
	r.ship("a", 0, shipped{Owner: "bob"})
	for i := range 10 {
		r.ship(fmt.Sprint("b", i), 0, shipped{Owner: "eve"})
	}
	page := r.ask(ask.Question{Query: "parcels", AtLeast: r.head})
	if page.Next == "" {
		t.Fatal("a full page has no next one")
	}
	r.fails(ask.Question{Query: "nosuch"}, command.CodeNotFound, "", `unknown query "nosuch"`)
	r.fails(ask.Question{Query: "mine"}, command.CodeUnauthenticated, "", "identify yourself")
	r.fails(ask.Question{Query: "mine", Client: "panic"}, command.CodeInternal, "", "log")
	r.fails(ask.Question{Query: "parcels", Data: json.RawMessage(`{"least":"x"}`)}, command.CodeBadRequest, "least", "whole number")
	r.fails(ask.Question{Query: "parcels", Data: json.RawMessage(`{"most":1}`)}, command.CodeBadRequest, "most", "unknown member")
	r.fails(ask.Question{Query: "parcels", Data: json.RawMessage(`{"least":1}`), After: page.Next}, command.CodeBadRequest, "after", "page token")
	r.fails(ask.Question{Query: "parcels", After: "%"}, command.CodeBadRequest, "after", "page token")
	r.fails(ask.Question{Query: "parcels", After: "e30"}, command.CodeBadRequest, "after", "page token")
	if a := r.ask(ask.Question{Query: "mine", Client: "bob"}); len(a.Rows) != 1 || a.Rows[0].Key != "a" {
		t.Errorf("bob's parcels are %+v", a.Rows)
	}
}

func TestQueryIsUnavailableUntilItsRowsAreBuilt(t *testing.T) {
	t.Parallel()
	newReadSide(t, false).fails(ask.Question{Query: "parcels"}, command.CodeUnavailable, "", "being built")
}

func TestQuestionWaitsForTheFirstBuild(t *testing.T) {
	t.Parallel()
	r := newReadSide(t, false)
	r.queries.patience = time.Minute
	answered := make(chan *command.Failure, 1)
	go func() {
		_, failure := r.queries.Ask(t.Context(), ask.Question{Query: "parcels"})
		answered <- failure
	}()
	d := r.queries.queries["parcels"].From()
	build, err := r.store.Rows().Ensure(t.Context(), processor.SpecOf(d))
	if err != nil {
		t.Fatal(err)
	}
	if err := r.store.Rows().SetState(t.Context(), build.ID, rows.Active); err != nil {
		t.Fatal(err)
	}
	if failure := <-answered; failure != nil {
		t.Error(failure)
	}
	r.queries.patience = 0
	r.queries.forget(d.Name())
	if err := r.store.Rows().SetState(t.Context(), build.ID, rows.Building); err != nil {
		t.Fatal(err)
	}
	r.fails(ask.Question{Query: "parcels"}, command.CodeUnavailable, "", "still being built")
}
