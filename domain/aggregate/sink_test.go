package aggregate_test

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Sink is an aggregate whose command and event have every kind of member.
type Sink struct{ Events int }

type Fill struct {
	Bool     bool              `json:"bool"`
	Text     string            `json:"text"`
	Int      int64             `json:"int"`
	Small    int8              `json:"small"`
	Uint     uint16            `json:"uint"`
	Float    float64           `json:"float"`
	Single   float32           `json:"single"`
	Time     time.Time         `json:"time"`
	Addr     netip.Addr        `json:"addr"`
	Bytes    []byte            `json:"bytes"`
	Raw      json.RawMessage   `json:"raw"`
	List     []Part            `json:"list"`
	Pair     [2]int            `json:"pair"`
	Map      map[string]int    `json:"map"`
	Pointer  *int              `json:"pointer"`
	When     *time.Time        `json:"when,omitempty"`
	Tree     *Tree             `json:"tree,omitempty"`
	Optional string            `json:"optional,omitempty"`
	Tags     []string          `json:"tags,omitempty"`
	Extra    json.RawMessage   `json:"extra,omitempty"`
	Since    time.Time         `json:"since,omitzero"`
	Deep     map[string][]Part `json:"deep,omitempty"`
}

type Part struct {
	Name   string `json:"name"`
	Amount *int64 `json:"amount,omitempty"`
}

type Tree struct {
	Name     string  `json:"name"`
	Children []*Tree `json:"children,omitempty"`
	Next     *Tree   `json:"next,omitempty"`
}

// Reorder has members whose order in Go is not alphabetical.
type Reorder struct {
	Zebra int  `json:"zebra"`
	Ant   int  `json:"ant"`
	Bee   *int `json:"bee,omitempty"`
}

type Filled Fill

func (Fill) Decide(aggregate.Call, Sink) (aggregate.Decision[Sink], error) {
	return aggregate.Emit[Sink]()
}

func (Reorder) Decide(aggregate.Call, Sink) (aggregate.Decision[Sink], error) {
	return aggregate.Emit[Sink]()
}

func (Filled) Apply(s *Sink) { s.Events++ }

func init() {
	aggregate.Define(&Catalog, aggregate.Type[Sink]{
		Name:     "sink",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[Sink]{"fill": Fill{}, "reorder": Reorder{}},
		Events:   aggregate.Events[Sink]{"filled": Filled{}},
	})
}

func typeOf(t testing.TB, c *aggregate.Catalog, name string) *aggregate.Definition {
	t.Helper()
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	d, ok := c.Type(name)
	if !ok {
		t.Fatalf("the catalog has no type %s", name)
	}
	return d
}

// full is valid data with all required members. Tests replace parts of it.
const full = `{"bool": true, "text": "é\n\ud83d\ude00", "int": -9, "small": 127, "uint": 65535, "float": 1.5e3, "single": 1,
	"time": "2026-05-01T12:00:00Z", "addr": "127.0.0.1", "bytes": "aGk=", "raw": {"b": [1, null], "a": "x"},
	"list": [{"name": "one"}, {"name": "two", "amount": 2}], "pair": [1, 2], "map": {"k": 1}}`
