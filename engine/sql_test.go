package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/engine/internal/processor"
	"github.com/ganglion-es/ganglion/engine/sqlprojection"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/proto/ask"
)

var sqlSetup = []string{
	`create table effect (n bigint generated always as identity, pos bigint not null, owner text not null)`,
	`create table total (owner text primary key, weight bigint not null check (weight >= 0))`,
	`create table late (owner text unique deferrable initially deferred)`,
}

// sqlCatalog has the SQL projection "effects", which writes each event to effect
// and sums weights in total, and the Func "totals". An owner makes its handler
// misbehave; mended, if given, ends the misbehaviour of one of them.
func sqlCatalog(t *testing.T, setup []string, mended ...*atomic.Bool) (*aggregate.Catalog, *sqlprojection.Definition) {
	t.Helper()
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[parcel]{
		Name:     "parcel",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[parcel]{"ship": ship{}},
		Events:   aggregate.Events[parcel]{"shipped": shipped{}},
	})
	d := sqlprojection.Define(c, sqlprojection.SQL{
		Name: "effects", Setup: setup,
		On: sqlprojection.Handlers{sqlprojection.On(func(ctx context.Context, tx pgx.Tx, at projection.At, e shipped) error {
			if _, err := tx.Exec(ctx, `insert into effect (pos, owner) values ($1, $2)`, int64(at.Position), e.Owner); err != nil {
				return err
			}
			switch e.Owner {
			case "panic":
				panic("boom")
			case "error":
				if len(mended) == 0 || !mended[0].Load() {
					return errors.New("it fails")
				}
			case "syntax":
				_, _ = tx.Exec(ctx, `selec 1`) // an error that the handler ignores
			case "end":
				return tx.Commit(ctx)
			case "late":
				_, err := tx.Exec(ctx, `insert into late values ('x'), ('x')`)
				return err
			}
			_, err := tx.Exec(ctx, `insert into total values ($1, $2) on conflict (owner) do update set weight = total.weight + excluded.weight`, e.Owner, e.Weight)
			return err
		})},
	})
	query.Define(c, query.Func[asked, map[string]int64]{
		Name: "totals", Access: aggregate.Anyone, From: query.From{d},
		Answer: func(ctx context.Context, _ query.Call, _ asked, db query.Reader) (map[string]int64, error) {
			tx, err := d.Tx(ctx, db)
			if err != nil {
				return nil, err
			}
			list, err := tx.Query(ctx, `select owner, weight from total`)
			if err != nil {
				return nil, err
			}
			all := map[string]int64{}
			var owner string
			var weight int64
			_, err = pgx.ForEachRow(list, []any{&owner, &weight}, func() error { all[owner] = weight; return nil })
			return all, err
		},
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return c, d
}

// A sqlNode is a program that runs SQL projections.
type sqlNode struct {
	url     string
	store   *postgres.Store
	p       *Projections
	queries *Queries
}

func newSQLNode(t *testing.T, url string, catalog *aggregate.Catalog, committed func([]eventstore.Commit)) *sqlNode {
	t.Helper()
	store, err := postgres.Open(t.Context(), postgres.Config{URL: url, Committed: func(_ string, batch []eventstore.Commit) { committed(batch) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	n := &sqlNode{url: url, store: store}
	logger := slog.New(slog.DiscardHandler)
	n.p = NewProjections(ProjectionsConfig{Catalog: catalog, Store: store, Rows: store.Rows(), Owns: func(string, int) bool { return true }, Logger: logger})
	head, err := store.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n.p.Begin(head)
	n.queries = NewQueries(QueriesConfig{Catalog: catalog, Rows: store.Rows(), LogID: store.LogID, Projections: n.p, Logger: logger})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.p.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return n
}

// ship appends an event until the database has it.
func (n *sqlNode) ship(t *testing.T, id string, version eventstore.Version, e shipped) eventstore.Position {
	t.Helper()
	data, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	u := eventstore.Unit{
		Stream: eventstore.StreamID{Type: "parcel", ID: id}, Expected: version,
		Commands: []eventstore.Command{{Key: fmt.Sprint(id, version), At: time.UnixMicro(1), Events: []eventstore.Event{{Type: "shipped", Data: data}}}},
	}
	for began := time.Now(); ; {
		a, err := n.store.Append(t.Context(), u)
		var known *eventstore.KnownKeysError
		switch {
		case err == nil:
			return a.Commands[0].Position
		case errors.As(err, &known):
			return known.Known[0].Place.Position
		case time.Since(began) > time.Minute:
			t.Fatal(err)
		}
	}
}

// table opens the build of a definition.
func (n *sqlNode) table(t *testing.T, d *sqlprojection.Definition) rows.Table {
	t.Helper()
	spec := processor.SpecOfSQL(d)
	b, err := n.store.Rows().Ensure(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	table, err := n.store.Rows().Open(t.Context(), spec, b.ID)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func (n *sqlNode) reaches(t *testing.T, table rows.Table, position eventstore.Position) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		list, err := table.Checkpoints(t.Context())
		if err == nil && list[0].Position >= position {
			return
		}
		if time.Since(began) > time.Minute {
			t.Fatalf("the checkpoint never reaches %d: %v, %v", position, list, err)
		}
	}
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.WithoutCancel(t.Context())) })
	return c
}

// schemaOf is the schema of a build.
func schemaOf(table rows.Table) string { return fmt.Sprint("public_effects_", table.Build().ID) }

func TestRivalsWriteWithSQLOnceWhileBackendsEnd(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	catalog, d := sqlCatalog(t, sqlSetup)
	var nodes [2]*sqlNode
	ready := make(chan struct{})
	for i := range nodes {
		nodes[i] = newSQLNode(t, url, catalog, func(batch []eventstore.Commit) {
			<-ready
			for _, n := range nodes {
				n.p.Observe(batch)
			}
		})
	}
	close(ready)
	var stored atomic.Int64
	stop := postgrestest.EndBackends(t, url, func() int64 { return stored.Load() / 5 })
	const streams, versions = 7, 60
	head := eventstore.Position(0)
	for v := range versions {
		for s := range streams {
			head = nodes[(v+s)%2].ship(t, fmt.Sprint("p", s), eventstore.Version(v), shipped{Owner: fmt.Sprint("o", s), Weight: int64(v)})
			stored.Add(1)
		}
	}
	n := stop()
	db := connect(t, url)
	table := nodes[0].table(t, d)
	nodes[0].reaches(t, table, head)
	var effects, distinct, disorder, wrong int
	err := db.QueryRow(t.Context(), fmt.Sprintf(`select count(*), count(distinct pos),
			(select count(*) from (select pos - lag(pos) over (order by n) as step from %[1]s.effect) as s where step <> 1),
			(select count(*) from %[1]s.total where weight <> $1) from %[1]s.effect`, schemaOf(table)), versions*(versions-1)/2).
		Scan(&effects, &distinct, &disorder, &wrong)
	if err != nil || effects != int(head) || distinct != int(head) || disorder != 0 || wrong != 0 || head != streams*versions {
		t.Errorf("of %d events %d took effect, %d of them once; %d out of order, %d wrong sums; %v", head, effects, distinct, disorder, wrong, err)
	}
	if n < 10 {
		t.Errorf("only %d connections were ended", n)
	}
	t.Logf("%d connections were ended", n)
}

func TestPoisonOfSQLBlocksItsStreamOnly(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	var mended atomic.Bool
	catalog, d := sqlCatalog(t, sqlSetup, &mended)
	var n *sqlNode
	n = newSQLNode(t, url, catalog, func(batch []eventstore.Commit) { n.p.Observe(batch) })
	poison := map[string]shipped{
		"panic": {Owner: "panic"}, "error": {Owner: "error"}, "check": {Owner: "check", Weight: -1},
		"syntax": {Owner: "syntax"}, "end": {Owner: "end"}, "late": {Owner: "late"},
	}
	for id, e := range poison {
		n.ship(t, id, 0, shipped{Owner: "first " + id, Weight: 1})
		n.ship(t, id, 1, e)
		n.ship(t, id, 2, shipped{Owner: "waits " + id, Weight: 1})
	}
	head := n.ship(t, "sound", 0, shipped{Owner: "sound", Weight: 5})
	table := n.table(t, d)
	n.reaches(t, table, head)
	blocks, err := table.Blocks(t.Context())
	if err != nil || len(blocks) != len(poison) {
		t.Fatalf("%d streams are blocked, want %d: %+v, %v", len(blocks), len(poison), blocks, err)
	}
	for _, b := range blocks {
		if !strings.HasPrefix(b.Key, "~parcel/") || b.Error == "" || b.Attempts != 3 {
			t.Errorf("a stream is blocked as %+v", b)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		a, f := n.queries.Ask(ctx, ask.Question{Query: "totals", AtLeast: head})
		if f != nil {
			if ctx.Err() != nil {
				t.Fatal(f)
			}
			continue // its build is not active yet
		}
		var got map[string]int64
		if err := json.Unmarshal(a.Value, &got); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(poison)+1 || got["sound"] != 5 || got["first late"] != 1 || a.Blocked != len(poison) || a.Position < head {
			t.Errorf("the answer is %s at %d with %d blocked", a.Value, a.Position, a.Blocked)
		}
		break
	}
	mended.Store(true)
	n.resume(t, catalog, table, blocks)
}

// resume mends the streams that TestPoisonOfSQLBlocksItsStreamOnly has blocked.
func (n *sqlNode) resume(t *testing.T, catalog *aggregate.Catalog, table rows.Table, blocks []rows.Block) {
	t.Helper()
	o := NewOperations(OperationsConfig{Catalog: catalog, Store: n.store, Rows: n.store.Rows()})
	events := map[string]int{}
	report := func(r Resumed) { events[r.Key] = r.Events }
	if err := o.Retry(t.Context(), "effects", "", report); err != nil {
		t.Fatal(err)
	}
	for _, b := range blocks {
		want := 0
		if b.Key == "~parcel/error" {
			want = 2
		}
		if events[b.Key] != want {
			t.Errorf("a retry of %s has applied %d events, want %d", b.Key, events[b.Key], want)
		}
		if b.Key == "~parcel/panic" {
			if err := o.Skip(t.Context(), "effects", b.Key, b.Position, report); err != nil || events[b.Key] != 1 {
				t.Errorf("skipping has applied %d events, %v", events[b.Key], err)
			}
		}
	}
	if left, err := table.Blocks(t.Context()); err != nil || len(left) != len(blocks)-2 {
		t.Errorf("%d streams wait still, %v", len(left), err)
	}
	var all, once int
	c := connect(t, n.url)
	if err := c.QueryRow(t.Context(), `select count(*), count(distinct pos) from `+schemaOf(table)+`.effect`).Scan(&all, &once); err != nil || all != once || all != len(blocks)+1+3 {
		t.Errorf("%d effects of %d events, %v", all, once, err)
	}
	if _, err := o.Verify(t.Context(), "effects", nil, nil); err == nil || !strings.Contains(err.Error(), "rebuild it instead") {
		t.Errorf("verify: %v", err)
	}
}

func TestAnotherSetupBeginsASchemaOfItsOwn(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	first, d := sqlCatalog(t, sqlSetup)
	var a, b *sqlNode
	a = newSQLNode(t, url, first, func(batch []eventstore.Commit) { a.p.Observe(batch) })
	head := a.ship(t, "a", 0, shipped{Owner: "bob", Weight: 5})
	old := a.table(t, d)
	a.reaches(t, old, head)
	second, changed := sqlCatalog(t, append([]string{`create table more ()`}, sqlSetup...))
	b = newSQLNode(t, url, second, func([]eventstore.Commit) {})
	again := b.table(t, changed)
	b.reaches(t, again, head)
	admin := connect(t, url)
	count := func(table rows.Table, of string) (n int) {
		t.Helper()
		if err := admin.QueryRow(t.Context(), `select count(*) from `+schemaOf(table)+`.`+of).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if old.Build().ID == again.Build().ID || count(old, "effect") != 1 || count(again, "effect") != 1 || count(again, "more") != 0 {
		t.Error("the builds do not stand beside each other")
	}
	if err := a.store.Rows().Drop(t.Context(), old.Build().ID); err != nil {
		t.Fatal(err)
	}
	if err := old.(processor.SQLTable).Prepare(t.Context(), d.Setup); !errors.Is(err, rows.ErrDropped) {
		t.Errorf("a node that has the dropped build open prepares it: got %v, want ErrDropped", err)
	}
	var left bool
	err := admin.QueryRow(t.Context(), `select exists (select from pg_namespace where nspname = $1)`, schemaOf(old)).Scan(&left)
	if err != nil || left || count(again, "effect") != 1 {
		t.Errorf("the schema of the dropped build is left: %v; %v", left, err)
	}
}

func TestEmbeddedStoreRefusesSQLProjections(t *testing.T) {
	t.Parallel()
	catalog, _ := sqlCatalog(t, sqlSetup)
	store := newReadSide(t, false).store
	p := NewProjections(ProjectionsConfig{Catalog: catalog, Store: store, Rows: store.Rows(), Logger: slog.New(slog.DiscardHandler)})
	if err := p.Run(t.Context()); err == nil || !strings.Contains(err.Error(), `projection "effects" writes with SQL, which needs PostgreSQL`) {
		t.Errorf("got %v", err)
	}
	if err := CheckProjections(parcelCatalog(t), store.Rows()); err != nil {
		t.Errorf("a catalog without SQL is refused: %v", err)
	}
}
