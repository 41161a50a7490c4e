package contract_test

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/node/contract"
)

// Stall is an aggregate with enumerations and rejections, whose rows a query asks for.
type Stall struct {
	Ripe Ripeness `json:"ripe,omitzero"`
}

type Ripeness string

func (Ripeness) Values() []string { return []string{"green", "ripe", `"over"` + "\u2028"} }

type (
	Sell struct {
		Ripe  Ripeness   `json:"ripe"`
		Also  []Ripeness `json:"also,omitempty"`
		Price int64      `json:"price"`
	}
	Sold struct {
		Ripe  Ripeness  `json:"ripe"`
		Price int64     `json:"price"`
		At    time.Time `json:"at"`
	}
	Fruit struct {
		Ripe  Ripeness `json:"ripe"`
		Price int64    `json:"price"`
		Tags  []string `json:"tags"`
	}
	Cheap struct {
		Ripe *Ripeness `json:"ripe,omitzero"`
		Most int64     `json:"most"`
	}
	All struct{}
)

var (
	errRotten = aggregate.Reject("rotten", "it is spoilt")
	errFree   = aggregate.Reject("free", "a price is at least 1")
)

func (c Sell) Decide(aggregate.Call, Stall) (aggregate.Decision[Stall], error) {
	return aggregate.Emit(Sold{Ripe: c.Ripe, Price: c.Price})
}
func (e Sold) Apply(s *Stall) { s.Ripe = e.Ripe }

func market(t *testing.T) *contract.Document {
	t.Helper()
	var c aggregate.Catalog
	aggregate.Define(&c, aggregate.Type[Stall]{
		Name: "stall", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[Stall]{"sell": Sell{}}, Events: aggregate.Events[Stall]{"sold": Sold{}},
		Rejections: aggregate.Rejections{errRotten, errFree},
	})
	fruits := projection.Define(&c, projection.Table[Fruit]{
		Name: "fruits", Indexes: [][]string{{"price"}},
		On: projection.Handlers[Fruit]{projection.On(func(_ projection.At, e Sold, f *Fruit) { f.Price = e.Price })},
	})
	query.Define(&c, query.Rows[Cheap, Fruit]{
		Name: "cheap-fruit", Doc: "What is cheap.", From: fruits, Order: []string{"price"},
		Access: aggregate.RuleFunc(func(aggregate.Caller, string) bool { return true }),
		Where:  func(_ query.Call, q Cheap) query.Cond { return query.AtMost("price", q.Most) },
	})
	query.Define(&c, query.Rows[All, Fruit]{Name: "all", From: fruits, Access: aggregate.Anyone})
	query.Define(&c, query.Func[All, map[string]int]{
		Name: "count", Doc: "How many fruits there are, by tag.", From: query.From{fruits}, Access: aggregate.Anyone,
		Answer: func(context.Context, query.Call, All, query.Reader) (map[string]int, error) { return nil, nil },
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	doc, err := contract.Of(&c)
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// The tests of client/js compile the file, with uses that must not compile.
func TestTypeScriptHasEnumerationsRejectionsAndQueries(t *testing.T) {
	t.Parallel()
	const file = "testdata/market.ts"
	doc := market(t)
	got := doc.TypeScript()
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the module differs from %s (UPDATE=1 writes it):\n%s", file, got)
	}
	text, err := doc.JSON()
	if err != nil {
		t.Fatal(err)
	}
	read, err := contract.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	if again := read.TypeScript(); !bytes.Equal(again, want) {
		t.Errorf("after JSON and Parse the module is\n%s", again)
	}
}
