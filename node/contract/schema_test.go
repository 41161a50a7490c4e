package contract_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Sink is an aggregate whose command and event have every kind of member. This test
// needs a library that validates JSON Schema, so it is not in the module domain, which
// has no dependencies.
type Sink struct{ Events int }

type Fill struct {
	Bool     bool                  `json:"bool"`
	Text     string                `json:"text"`
	Int      int64                 `json:"int"`
	Small    int8                  `json:"small"`
	Uint     uint16                `json:"uint"`
	Float    float64               `json:"float"`
	Single   float32               `json:"single"`
	Time     time.Time             `json:"time"`
	Addr     netip.Addr            `json:"addr"`
	Bytes    []byte                `json:"bytes"`
	Raw      json.RawMessage       `json:"raw"`
	List     []SinkPart            `json:"list"`
	Pair     [2]int                `json:"pair"`
	Map      map[string]int        `json:"map"`
	Pointer  *int                  `json:"pointer"`
	When     *time.Time            `json:"when,omitempty"`
	Tree     *SinkTree             `json:"tree,omitempty"`
	Optional string                `json:"optional,omitempty"`
	Tags     []string              `json:"tags,omitempty"`
	Extra    json.RawMessage       `json:"extra,omitempty"`
	Since    time.Time             `json:"since,omitzero"`
	Deep     map[string][]SinkPart `json:"deep,omitempty"`
	Grade    SinkGrade             `json:"grade"`
	Grades   []*SinkGrade          `json:"grades,omitempty"`
}

type SinkGrade string

func (SinkGrade) Values() []string { return []string{"", "text", "2026-05-01T12:00:00Z"} }

type SinkPart struct {
	Name   string `json:"name"`
	Amount *int64 `json:"amount,omitempty"`
}

type SinkTree struct {
	Name     string      `json:"name"`
	Children []*SinkTree `json:"children,omitempty"`
	Next     *SinkTree   `json:"next,omitempty"`
}

type Filled Fill

func (Fill) Decide(aggregate.Call, Sink) (aggregate.Decision[Sink], error) {
	return aggregate.Emit[Sink]()
}
func (Filled) Apply(s *Sink) { s.Events++ }

func sinks(t *testing.T) (*aggregate.Catalog, *aggregate.Definition) {
	t.Helper()
	c := &aggregate.Catalog{}
	d := aggregate.Define(c, aggregate.Type[Sink]{
		Name: "sink", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[Sink]{"fill": Fill{}}, Events: aggregate.Events[Sink]{"filled": Filled{}},
	})
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return c, d
}

// required is the data of a command with no optional member.
const required = `{"bool": true, "text": "é\n\ud83d\ude00", "int": -9, "small": 127, "uint": 65535, "float": 1.5e3, "single": 1,
	"time": "2026-05-01T12:00:00Z", "addr": "127.0.0.1", "bytes": "aGk=", "raw": {"b": [1, null], "a": "x"},
	"list": [{"name": "one"}, {"name": "two", "amount": 2}], "pair": [1, 2], "map": {"k": 1}, "grade": "text"}`

// validator returns a type's schemas as another library compiles them.
func validator(t *testing.T, d *aggregate.Definition) func(name string) *jsonschema.Schema {
	t.Helper()
	schemas := d.Schemas(func(reflect.Type, string) string { return "" })
	text, err := json.Marshal(map[string]any{"$defs": schemas})
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("schemas", doc); err != nil {
		t.Fatal(err)
	}
	return func(name string) *jsonschema.Schema {
		s, err := c.Compile("schemas#/$defs/" + name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return s
	}
}

// variants returns a JSON document with each of its parts in turn left out,
// repeated under another name, and replaced by values of every kind.
func variants(doc any) []any {
	all := []any{
		nil, true, "text", "2026-05-01T12:00:00Z", "127.0.0.1", "aGk=", json.Number("0"), json.Number("-1"), json.Number("1.5"),
		json.Number("128"), json.Number("65536"), json.Number("9223372036854775808"),
		[]any{},
		[]any{json.Number("1"), json.Number("2")},
		map[string]any{},
		map[string]any{"name": "x"},
	}
	switch v := doc.(type) {
	case map[string]any:
		with := func(name string, value any) map[string]any {
			c := maps.Clone(v)
			c[name] = value
			return c
		}
		for name := range v {
			without := maps.Clone(v)
			delete(without, name)
			all = append(all, without, with(strings.ToUpper(name), v[name]))
			for _, one := range variants(v[name]) {
				all = append(all, with(name, one))
			}
		}
	case []any:
		all = append(all, slices.Concat(v, v), v[:max(0, len(v)-1)])
		for i := range v {
			for _, one := range variants(v[i]) {
				c := slices.Clone(v)
				c[i] = one
				all = append(all, c)
			}
		}
	}
	return all
}

// The test also compares CheckCommand with decoding, error texts included.
func TestCommandSchemaAcceptsWhatDecodingAccepts(t *testing.T) {
	t.Parallel()
	c, sink := sinks(t)
	sample, err := sink.SampleCommand("fill")
	if err != nil {
		t.Fatal(err)
	}
	everything, err := sink.EncodeCommand(sample)
	if err != nil {
		t.Fatal(err)
	}
	schema := validator(t, sink)("sink.commands.fill")
	accepted, refused := 0, 0
	for _, text := range []string{required, string(everything)} {
		text = strings.Replace(text, `"addr":""`, `"addr":"127.0.0.1"`, 1) // no schema describes the zero netip.Addr
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range append(variants(doc), doc) {
			data, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			_, decoded := sink.DecodeCommand("fill", data)
			_, checked := c.CheckCommand("sink", "fill", data)
			valid := schema.Validate(v)
			if decoded == nil {
				accepted++
			} else {
				refused++
			}
			var wrong *aggregate.DataError
			if errors.As(decoded, &wrong) && (wrong.Field == "addr" || wrong.Field == "bytes") && valid == nil && checked == nil {
				continue // only the type's own decoder can refuse the string
			}
			if (decoded == nil) != (valid == nil) {
				t.Errorf("%s\ndecoding: %v\nschema: %v", data, decoded, valid)
			}
			if !reflect.DeepEqual(decoded, checked) {
				t.Errorf("%s\ndecoding: %v\nchecking: %v", data, decoded, checked)
			}
		}
	}
	if accepted < 50 || refused < 200 {
		t.Errorf("only %d documents were accepted and %d refused, want at least 50 and 200", accepted, refused)
	}
}

func TestEmptyAndFullEventsAndStatesMatchTheirSchemas(t *testing.T) {
	t.Parallel()
	_, sink := sinks(t)
	for _, d := range append(domain.Catalog.Types(), sink) {
		schema := validator(t, d)
		check := func(name string, data []byte) {
			v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
			if err == nil {
				err = schema(name).Validate(v)
			}
			if err != nil {
				t.Errorf("%s is not a %s: %v", data, name, err)
			}
		}
		view, err := d.View(d.NewState())
		if err != nil {
			t.Fatal(err)
		}
		check(d.Name()+".state", view)
		for _, name := range d.Events() {
			event, err := d.SampleEvent(name)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range []any{event, reflect.Zero(reflect.TypeOf(event)).Interface()} {
				if _, _, data, err := d.EncodeEvent(e); err != nil {
					t.Fatal(err)
				} else {
					check(d.Name()+".events."+name, data)
				}
			}
		}
	}
}
