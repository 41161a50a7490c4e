package projection_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
)

// A shelf of books is the domain of these tests.
type (
	shelf struct {
		Books int `json:"books"`
	}
	put struct {
		Title string   `json:"title"`
		Tags  []string `json:"tags,omitempty"`
	}
	lent struct {
		Title string `json:"title"`
		To    string `json:"to"`
	}
	burnt  struct{}
	putCmd struct{}

	book struct {
		Title  string     `json:"title"`
		Shelf  string     `json:"shelf"`
		Holder *string    `json:"holder"`
		Lent   int        `json:"lent"`
		At     *time.Time `json:"at"`
	}
)

func (putCmd) Decide(aggregate.Call, shelf) (aggregate.Decision[shelf], error) {
	return aggregate.Emit[shelf](put{})
}
func (put) Apply(s *shelf)   { s.Books++ }
func (lent) Apply(*shelf)    {}
func (burnt) Apply(s *shelf) { s.Books = 0 }

func library(types ...string) *aggregate.Catalog {
	c := new(aggregate.Catalog)
	for _, name := range append(types, "shelf") {
		aggregate.Define(c, aggregate.Type[shelf]{
			Name:     name,
			Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
			Commands: aggregate.Commands[shelf]{"put": putCmd{}},
			Events:   aggregate.Events[shelf]{"put": put{}, "lent": lent{}, "burnt": burnt{}},
		})
	}
	return c
}

func byTitle(at projection.At, title string) string {
	if title == "" {
		return ""
	}
	return at.ID + "/" + title
}

// books is a table with a row for each book of a shelf.
func books() projection.Table[book] {
	return projection.Table[book]{
		Name: "books",
		On: projection.Handlers[book]{
			projection.OnKey(func(at projection.At, e put) string { return byTitle(at, e.Title) },
				func(at projection.At, e put, b *book) {
					*b = book{Title: e.Title, Shelf: at.ID, At: &at.Time}
				}),
			projection.OnKey(func(at projection.At, e lent) string { return byTitle(at, e.Title) },
				func(_ projection.At, e lent, b *book) { b.Holder, b.Lent = &e.To, b.Lent+1 }),
		},
		Gone:    func(b book) bool { return b.Lent > 2 },
		Indexes: [][]string{{"shelf", "title"}, {"holder"}, {"at"}},
		Scenarios: projection.Scenarios{
			"a lent book has a holder": projection.
				Given("shelf/a", put{Title: "Emma"}, lent{Title: "Emma", To: "bob"}).
				Shows("a/Emma", `{"title": "Emma", "shelf": "a", "holder": "bob", "lent": 1, "at": "2026-05-01T09:00:01Z"}`),
		},
	}
}

func defined(t *testing.T, c *aggregate.Catalog, table projection.Table[book]) *projection.Projection[book] {
	t.Helper()
	p := projection.Define(c, table)
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDefineReportsEveryProblemTogether(t *testing.T) {
	t.Parallel()
	type odd struct {
		Raw  json.RawMessage `json:"raw"`
		Big  uint64          `json:"big"`
		Name string          `json:"name"`
		Bare string
	}
	type unknown struct{}
	c := library()
	projection.Define(c, projection.Table[odd]{
		Name:     "Odd",
		Segments: 65,
		On: projection.Handlers[odd]{
			projection.On(func(projection.At, unknown, *odd) {}),
			projection.On[put, odd](nil),
		},
		Indexes: [][]string{{"raw"}, {"big"}, {"nosuch"}, {"name", "name"}, {}},
	})
	projection.Define(c, projection.Table[book]{Name: "empty"})
	err := c.Err()
	if err == nil {
		t.Fatal("nothing is reported")
	}
	for _, want := range []string{
		`projection "Odd": the Name has the character 'O'`,
		"Segments is 65: use 1 to 64",
		"odd.Bare has no json tag",
		`member "raw"`, `member "big"`, `has no member "nosuch"`, `names "name" twice`, "index 5 has 0 members",
		"handler 2 of On, of projection_test.put, is nil",
		`projection "empty": On has no handlers`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the problems lack %q:\n%v", want, err)
		}
	}
}

func TestLinkReportsWhatTheCatalogLacks(t *testing.T) {
	t.Parallel()
	type stranger struct{}
	handles := func(h projection.Handler[book]) projection.Table[book] {
		return projection.Table[book]{Name: "books", On: projection.Handlers[book]{h}}
	}
	byID := projection.On(func(projection.At, put, *book) {})
	withScenario := func(s projection.Scenario) projection.Table[book] {
		table := handles(byID)
		table.Scenarios = projection.Scenarios{"s": s}
		return table
	}
	for name, test := range map[string]struct {
		catalog *aggregate.Catalog
		table   projection.Table[book]
		want    string
	}{
		"an event that no aggregate registers": {library(), handles(projection.On(func(projection.At, stranger, *book) {})), "which no aggregate of the catalog registers"},
		"ids of several types":                 {library("box"), handles(byID), "whose ids may be the same"},
		"a scenario without an outcome":        {library(), withScenario(projection.Given("shelf/a", put{})), "not complete"},
		"a scenario on an unknown stream":      {library(), withScenario(projection.Given("chair/a", put{}).Lacks("a")), "no stream of the catalog"},
		"a scenario with a foreign event":      {library(), withScenario(projection.Given("shelf/a", stranger{}).Lacks("a")), "not registered"},
		"a name that is taken": {func() *aggregate.Catalog {
			c := library()
			projection.Define(c, handles(byID))
			return c
		}(), handles(byID), "already taken"},
	} {
		projection.Define(test.catalog, test.table)
		if err := test.catalog.Err(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want an error with %q", name, err, test.want)
		}
	}
}

func TestEffectsNameTheRowsOfAnEvent(t *testing.T) {
	t.Parallel()
	c := library()
	table := books()
	table.On = append(table.On, projection.OnKeys(
		func(_ projection.At, e put) []string { return e.Tags },
		func(at projection.At, _ put, b *book) { b.Lent++ }))
	p := defined(t, c, table)
	at := projection.At{Type: "shelf", ID: "a"}
	name := aggregate.EventName{Type: "shelf", Event: "put"}
	keys := func(e put) (keys []string) {
		t.Helper()
		effects, err := p.Effects(at, name, e)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range effects {
			keys = append(keys, e.Key)
		}
		return keys
	}
	if got, want := keys(put{Title: "Emma", Tags: []string{"x", "y", "x"}}), []string{"a/Emma", "x", "y"}; !slices.Equal(got, want) {
		t.Errorf("got keys %q, want %q", got, want)
	}
	if got := keys(put{}); len(got) != 0 {
		t.Errorf("an empty key names the rows %q, want none", got)
	}
	if _, err := p.Effects(at, name, put{Title: "a\nb"}); err == nil {
		t.Error("a key with a line feed is accepted")
	}
	if _, err := p.Effects(at, name, put{Title: strings.Repeat("x", 500)}); err == nil {
		t.Error("a key of 502 bytes is accepted")
	}
	if p.Reads(aggregate.EventName{Type: "shelf", Event: "burnt"}) {
		t.Error("it reads an event that it has no handler for")
	}
	if got := p.Events(); !slices.Equal(got, []aggregate.EventName{{Type: "shelf", Event: "lent"}, {Type: "shelf", Event: "put"}}) {
		t.Errorf("got events %v", got)
	}
}

func TestScenariosRun(t *testing.T) {
	t.Parallel()
	thrice := func() projection.Scenario {
		return projection.Given("shelf/a", put{Title: "Emma"}).
			And("shelf/a", lent{Title: "Emma", To: "bob"}, lent{Title: "Emma", To: "eve"}, lent{Title: "Emma", To: "bob"})
	}
	for name, test := range map[string]struct {
		scenario projection.Scenario
		want     string // "" passes
	}{
		"a row that is gone":         {thrice().Lacks("a/Emma"), ""},
		"a deleted row starts again": {thrice().And("shelf/a", lent{Title: "Emma", To: "eve"}).Shows("a/Emma", `{"title": "", "shelf": "", "holder": "eve", "lent": 1, "at": null}`), ""},
		"a row that should be gone":  {projection.Given("shelf/a", put{Title: "Emma"}).Lacks("a/Emma"), "there should be no row"},
		"a row that is missing":      {thrice().Shows("a/Emma", "{}"), "there should be a row"},
		"a row that differs":         {projection.Given("shelf/a", put{Title: "Emma"}).Shows("a/Emma", "{}"), "it should be {}"},
		"no JSON":                    {projection.Given("shelf/a", put{Title: "Emma"}).Shows("a/Emma", "{"), "not JSON"},
		"a row that is too large": {
			projection.Given("shelf/a", put{Title: "x"}, lent{Title: "x", To: strings.Repeat("x", projection.MaxRowBytes)}).Lacks("a"),
			"at most 16384 are allowed",
		},
		"a time": {projection.Given("shelf/a", put{Title: "Emma"}).At(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)).
			Shows("a/Emma", `{"title": "Emma", "shelf": "a", "holder": null, "lent": 0, "at": "2030-01-01T00:00:00Z"}`), ""},
	} {
		table := books()
		table.Scenarios = projection.Scenarios{"s": test.scenario}
		err := defined(t, library(), table).Scenarios()[0].Run()
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
	}
}

func TestScenarioFindsHandlersThatAreNotPure(t *testing.T) {
	t.Parallel()
	calls := 0
	table := books()
	table.On[0] = projection.OnKey(func(at projection.At, e put) string { return byTitle(at, e.Title) },
		func(_ projection.At, _ put, b *book) { calls++; b.Lent = calls })
	err := defined(t, library(), table).Scenarios()[0].Run()
	if err == nil || !strings.Contains(err.Error(), "only their arguments") {
		t.Errorf("got %v, want an error about impure handlers", err)
	}
}

func TestUncoveredNamesHandlersWithoutScenario(t *testing.T) {
	t.Parallel()
	table := books()
	table.On = append(table.On, projection.On(func(projection.At, burnt, *book) {}))
	if got := defined(t, library(), table).Uncovered(); len(got) != 1 || !strings.Contains(got[0], "burnt") {
		t.Errorf("got %q, want the handler of burnt", got)
	}
}

func TestFingerprintCoversWhatRowsDependOn(t *testing.T) {
	t.Parallel()
	prints := map[string]string{}
	for name, change := range map[string]func(*projection.Table[book]){
		"as it is":      func(*projection.Table[book]) {},
		"another index": func(p *projection.Table[book]) { p.Indexes = p.Indexes[:1] },
		"more segments": func(p *projection.Table[book]) { p.Segments = 4 },
		"a revision":    func(p *projection.Table[book]) { p.Revision = 1 },
		"fewer events":  func(p *projection.Table[book]) { p.On = p.On[:1] },
	} {
		table := books()
		change(&table)
		print := defined(t, library(), table).Fingerprint()
		if other, ok := prints[print]; ok {
			t.Errorf("%q and %q have one fingerprint", name, other)
		}
		prints[print] = name
	}
	if print := defined(t, library(), books()).Fingerprint(); prints[print] != "as it is" {
		t.Error("the same definition has two fingerprints")
	}
}

func TestValuesHaveTheFormOfTheirKind(t *testing.T) {
	t.Parallel()
	p := defined(t, library(), books())
	var names []string
	for _, c := range p.Columns() {
		names = append(names, fmt.Sprint(c.Name, " ", c.Kind, " ", c.Nullable))
	}
	if want := []string{"at time true", "holder text true", "shelf text false", "title text false"}; !slices.Equal(names, want) {
		t.Errorf("got columns %q, want %q", names, want)
	}
	at := time.UnixMicro(1234567)
	got, err := p.Values(&book{Title: "Emma", Shelf: "a", At: &at})
	if want := []any{int64(1234567), nil, "a", "Emma"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	if _, err := p.Values(&book{Title: "a\x00b"}); err == nil {
		t.Error("text with U+0000 is accepted")
	}
}
