package query_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
)

type (
	car    struct{}
	buy    struct{}
	bought struct {
		Price int64 `json:"price"`
	}

	offer struct {
		Price  int64      `json:"price"`
		Rating float64    `json:"rating"`
		Color  *string    `json:"color"`
		Sold   bool       `json:"sold"`
		Until  *time.Time `json:"until"`
		Notes  []string   `json:"notes"`
	}
	search struct {
		Most   int64  `json:"most,omitzero"`
		Color  string `json:"color,omitzero"`
		Poison bool   `json:"poison,omitzero"`
	}
)

func (buy) Decide(aggregate.Call, car) (aggregate.Decision[car], error) {
	return aggregate.Emit[car](bought{})
}
func (bought) Apply(*car) {}

// offers returns a catalog with a projection of cars for sale. Its columns are
// color, price, rating, sold and until.
func offers(t *testing.T) (*aggregate.Catalog, *projection.Projection[offer]) {
	t.Helper()
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[car]{
		Name:     "car",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[car]{"buy": buy{}},
		Events:   aggregate.Events[car]{"bought": bought{}},
	})
	return c, projection.Define(c, projection.Table[offer]{
		Name:    "offers",
		On:      projection.Handlers[offer]{projection.On(func(_ projection.At, e bought, o *offer) { o.Price = e.Price })},
		Indexes: [][]string{{"color", "price"}, {"sold"}, {"rating"}, {"until"}},
	})
}

func cheap(from *projection.Projection[offer]) query.Rows[search, offer] {
	return query.Rows[search, offer]{
		Name: "cheap", Access: aggregate.Anyone, From: from,
		Where: func(c query.Call, q search) query.Cond {
			if q.Poison && q.Color == "boom" {
				panic("boom")
			}
			return query.All(
				query.Is("color", q.Color).If(q.Color != ""),
				query.AtMost("price", q.Most).If(q.Most > 0),
			)
		},
		Order: []string{"color", "price"},
	}
}

func TestDefineReportsEveryProblemTogether(t *testing.T) {
	t.Parallel()
	c, from := offers(t)
	query.Define(c, query.Rows[search, offer]{Name: "a b", Limit: 1001})
	for name, where := range map[string]func(query.Call, search) query.Cond{
		"undeclared": func(query.Call, search) query.Cond { return query.Is("notes", "x").If(false) },
		"wrong-type": func(query.Call, search) query.Cond { return query.Is("price", "x") },
		"absent":     func(query.Call, search) query.Cond { return query.Absent("price") },
		"nil":        func(query.Call, search) query.Cond { return query.Is("color", nil) },
		"prefix":     func(query.Call, search) query.Cond { return query.Prefix("price", "1") },
		"panics":     func(query.Call, search) query.Cond { panic("boom") },
		"branches": func(query.Call, search) query.Cond {
			return query.Any(slices.Repeat([]query.Cond{query.Is("sold", true)}, 9)...)
		},
		"values": func(query.Call, search) query.Cond { return query.In("price", make([]int, 101)...) },
		"leaves": func(query.Call, search) query.Cond {
			return query.All(slices.Repeat([]query.Cond{query.Is("sold", true)}, 33)...)
		},
	} {
		q := cheap(from)
		q.Name, q.Where = name, where
		query.Define(c, q)
	}
	ordered := cheap(from)
	ordered.Name, ordered.Order = "ordered", []string{"notes", "price", "-price"}
	query.Define(c, ordered)
	self := cheap(from)
	self.Name, self.Access = "self", aggregate.Self
	query.Define(c, self)
	err := c.Err()
	if err == nil {
		t.Fatal("nothing is reported")
	}
	for _, want := range []string{
		`query "a b": the Name has the character ' '`, `query "a b": Access is missing`, `query "a b": Limit is 1001`, `query "a b": From is missing`,
		`query "undeclared": in Where: "notes" is not a column: name it in an index of the projection; its columns are color, price, rating, sold, until`,
		`query "wrong-type": in Where: column "price" has values of kind int`,
		`query "absent": in Where: column "price" is never absent`,
		`query "nil": in Where: column "color" is compared with an absent value`,
		`query "prefix": in Where: Prefix needs a text column`,
		`query "panics": the Where function panics: boom`,
		`query "branches": in Where: Any has 9 conditions, at most 8`,
		`query "values": in Where: In has 101 values, at most 100`,
		`query "leaves": in Where: the condition has 33 comparisons, at most 32`,
		`query "ordered": the Order has "notes"`, `query "ordered": the Order has "price" twice`,
		`query "self": Access is missing`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the problems lack %q:\n%v", want, err)
		}
	}
	if n := len(c.Models("query")); n != 0 {
		t.Errorf("%d queries with problems are registered", n)
	}
}

func TestParametersAreCheckedExactly(t *testing.T) {
	t.Parallel()
	c, from := offers(t)
	d := query.Define(c, cheap(from))
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	for data, field := range map[string]string{`{"most": "1"}`: "most", `{"other": 1}`: "other", `{"most": 1, "most": 2}`: "most"} {
		got, err := d.Check(json.RawMessage(data))
		if err == nil || got != field {
			t.Errorf("%s: got member %q, %v; want %q and an error", data, got, err, field)
		}
		if _, err := d.Question(query.Call{}, json.RawMessage(data)); err == nil {
			t.Errorf("%s makes a question", data)
		}
	}
	if _, err := d.Question(query.Call{}, nil); err != nil {
		t.Errorf("absent parameters: %v", err)
	}
}

// where compiles one condition.
func where(t *testing.T, cond query.Cond) query.Filter {
	t.Helper()
	c, from := offers(t)
	q := cheap(from)
	q.Where = func(query.Call, search) query.Cond { return cond }
	d := query.Define(c, q)
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	question, err := d.Question(query.Call{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return question.Filter
}

func TestConditionsMatch(t *testing.T) {
	t.Parallel()
	noon := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	// color, price, rating, sold, until
	red := []any{"red", int64(10), 4.5, true, noon.UnixMicro()}
	bare := []any{nil, int64(20), 0.0, false, nil}
	no := query.Any()
	for name, test := range map[string]struct {
		cond      query.Cond
		red, bare bool
	}{
		"all rows":        {query.Cond{}, true, true},
		"equal":           {query.Is("color", "red"), true, false},
		"equal bool":      {query.Is("sold", false), false, true},
		"equal time":      {query.Is("until", noon), true, false},
		"one of":          {query.In("price", 20, 30), false, true},
		"one of none":     {query.In[int]("price"), false, false},
		"absent":          {query.Absent("color"), false, true},
		"at least":        {query.AtLeast("price", 10), true, true},
		"at most":         {query.AtMost("price", 10), true, false},
		"between":         {query.Between("rating", 4, 4.5), true, false},
		"prefix":          {query.Prefix("color", "re"), true, false},
		"empty prefix":    {query.Prefix("color", ""), true, false},
		"key":             {query.Key("red", "blue"), true, false},
		"all":             {query.All(query.AtLeast("price", 15), query.Absent("color")), false, true},
		"any":             {query.Any(query.Is("color", "red"), query.AtLeast("price", 20)), true, true},
		"any of none":     {no, false, false},
		"all of none":     {query.All(), true, true},
		"off":             {query.Is("color", "red").If(false), true, true},
		"off in any":      {query.Any(query.Is("color", "red").If(false), query.Is("price", 99)), true, true},
		"off twice":       {query.Is("color", "red").If(false).If(true), true, true},
		"nested":          {query.All(query.All(query.Is("sold", true)), query.Any(query.Any(query.Is("price", 1), query.Is("price", 10)))), true, false},
		"all with no row": {query.All(query.Is("sold", true), no), false, false},
		"any with no row": {query.Any(query.Is("sold", true), no), true, false},
	} {
		f := where(t, test.cond)
		if got := f.Matches("red", red); got != test.red {
			t.Errorf("%s: got %v for the red one, want %v", name, got, test.red)
		}
		if got := f.Matches("bare", bare); got != test.bare {
			t.Errorf("%s: got %v for the bare one, want %v", name, got, test.bare)
		}
	}
}

// TestRankSortsAsTheColumnsDo compares the order of ranks with an order that is
// computed column by column, for random rows with many ties.
func TestRankSortsAsTheColumnsDo(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	texts := []any{nil, "", "a", "ab", "b", "é", "\x01", "a\x01", "\uffff", "😀"}
	ints := []any{int64(math.MinInt64), int64(-1), int64(0), int64(1), int64(math.MaxInt64)}
	floats := []any{-math.MaxFloat64, -1.5, 0.0, math.SmallestNonzeroFloat64, 2.5}
	pick := func(of []any) any { return of[random.IntN(len(of))] }
	type row struct {
		key    string
		values []any
	}
	order := []query.Order{{Column: 0, Descending: true}, {Column: 1}, {Column: 2, Descending: true}, {Column: 3}}
	rank := func(r row) string { return query.Rank(order, r.key, r.values) }
	for range 20_000 {
		a := row{fmt.Sprint(random.IntN(3)), []any{pick(texts), pick(ints), pick(floats), random.IntN(2) == 0}}
		b := row{fmt.Sprint(random.IntN(3)), []any{pick(texts), pick(ints), pick(floats), random.IntN(2) == 0}}
		want := cmp.Or(-compareText(a.values[0], b.values[0]), cmp.Compare(a.values[1].(int64), b.values[1].(int64)),
			-cmp.Compare(a.values[2].(float64), b.values[2].(float64)), compareBool(a.values[3].(bool), b.values[3].(bool)), cmp.Compare(a.key, b.key))
		if got := cmp.Compare(rank(a), rank(b)); got != want {
			t.Fatalf("the ranks of %v and %v compare %d, want %d", a, b, got, want)
		}
	}
}

func compareText(a, b any) int {
	if a == nil || b == nil {
		return compareBool(a != nil, b != nil)
	}
	return cmp.Compare(a.(string), b.(string))
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func TestScenariosRun(t *testing.T) {
	t.Parallel()
	red, blue := "red", "blue"
	rows := query.Among(offer{Price: 3, Color: &red}, offer{Price: 2, Color: &red}, offer{Price: 1, Color: &blue}, offer{Price: 9})
	byRating := func(q query.Rows[search, offer]) query.Rows[search, offer] {
		q.Order = nil
		q.Where = func(query.Call, search) query.Cond { return query.AtLeast("price", 1) }
		return q
	}
	members := func(q query.Rows[search, offer]) query.Rows[search, offer] {
		q.Access = aggregate.Authenticated
		return q
	}
	few := func(q query.Rows[search, offer]) query.Rows[search, offer] { q.Limit = 2; return q }
	as := func(q query.Rows[search, offer]) query.Rows[search, offer] { return q }
	for name, test := range map[string]struct {
		change   func(query.Rows[search, offer]) query.Rows[search, offer]
		scenario query.Scenario[search]
		want     string
	}{
		"in order":          {as, query.Ask(search{}, rows).Answers("4", "3", "2", "1"), ""},
		"within":            {as, query.Ask(search{Color: "red", Most: 2}, rows).Answers("2"), ""},
		"limited":           {few, query.Ask(search{}, rows).Answers("4", "3"), ""},
		"another answer":    {as, query.Ask(search{}, rows).Answers("1"), `should be the rows ["1"]`},
		"incomplete":        {as, query.Ask(search{}, rows), "not complete"},
		"no index":          {byRating, query.Ask(search{}, rows).Answers("1", "2", "3", "4"), "no index of projection \"offers\""},
		"forbidden":         {members, query.Ask(search{}, rows).Forbid(), ""},
		"not forbidden":     {members, query.Ask(search{}, rows).By("bob").Forbid(), "should be forbidden"},
		"wrongly forbidden": {members, query.Ask(search{}, rows).Answers(), "is forbidden to ask"},
		"allowed":           {members, query.Ask(search{Color: "green"}, rows).By("bob").Answers(), ""},
	} {
		c, from := offers(t)
		q := test.change(cheap(from))
		q.Scenarios = query.Scenarios[search]{"s": test.scenario}
		d := query.Define(c, q)
		if err := c.Err(); err != nil {
			t.Fatal(err)
		}
		err := d.Scenarios()[0].Run()
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}
