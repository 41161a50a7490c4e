package aggregate_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// compiled are the schemas of a type, as another library reads them.
func compiled(t *testing.T, d *aggregate.Definition) func(name string) *jsonschema.Schema {
	t.Helper()
	text, err := json.Marshal(map[string]any{"$defs": d.Schemas(undescribed)})
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

func undescribed(reflect.Type, string) string { return "" }

// variants are a JSON document with each part of it in turn left out, doubled
// under another name, and replaced by values of every kind.
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

// TestTheSchemaOfACommandTakesWhatDecodingTakes also finds what is checked
// ahead of decoding to be the same, in the same words.
func TestTheSchemaOfACommandTakesWhatDecodingTakes(t *testing.T) {
	t.Parallel()
	sink := typeOf(t, &Catalog, "sink")
	sample, err := sink.SampleCommand("fill")
	if err != nil {
		t.Fatal(err)
	}
	everything, err := sink.EncodeCommand(sample)
	if err != nil {
		t.Fatal(err)
	}
	schema := compiled(t, sink)("sink.commands.fill")
	taken, refused := 0, 0
	for _, text := range []string{full, string(everything)} {
		text = strings.Replace(text, `"addr":""`, `"addr":"127.0.0.1"`, 1) // the zero address is its own
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
			_, checked := Catalog.CheckCommand("sink", "fill", data)
			valid := schema.Validate(v)
			if decoded == nil {
				taken++
			} else {
				refused++
			}
			var wrong *aggregate.DataError
			if errors.As(decoded, &wrong) && (wrong.Field == "addr" || wrong.Field == "bytes") && valid == nil && checked == nil {
				continue // what their own decoding makes of a string, no schema knows
			}
			if (decoded == nil) != (valid == nil) {
				t.Errorf("%s\ndecoding: %v\nschema: %v", data, decoded, valid)
			}
			if !reflect.DeepEqual(decoded, checked) {
				t.Errorf("%s\ndecoding: %v\nchecking: %v", data, decoded, checked)
			}
		}
	}
	if taken < 50 || refused < 200 {
		t.Errorf("only %d were taken and %d refused: this shows little", taken, refused)
	}
}

// TestEventsAndStatesAreValidByTheirSchemas takes the empty and the full ones.
func TestEventsAndStatesAreValidByTheirSchemas(t *testing.T) {
	t.Parallel()
	for _, d := range Catalog.Types() {
		schema := compiled(t, d)
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

// Gallery shows what states may not be made of.
type Gallery struct{ Hung int }

type (
	hang struct{}
	hung struct{}
)

func (hang) Decide(aggregate.Call, Gallery) (aggregate.Decision[Gallery], error) {
	return aggregate.Emit(hung{})
}
func (hung) Apply(g *Gallery) { g.Hung++ }

func TestTheSchemaOfAViewIsOpenWhereItIsNotKnown(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		view func(Gallery) any
		want string
	}{
		"none":   {nil, `{"type":"object","properties":{"Hung":{"type":"integer","minimum":-9223372036854775808,"maximum":9223372036854775807}},"required":["Hung"]}`},
		"panics": {func(Gallery) any { panic("no") }, `{}`},
		"nil":    {func(Gallery) any { return nil }, `{}`},
		"loose":  {func(Gallery) any { return map[string]any{} }, `{"anyOf":[{"type":"object","additionalProperties":{}},{"type":"null"}]}`},
		"whole":  {func(g Gallery) any { return g.Hung > 0 }, `{"type":"boolean"}`},
		"embeds": {func(g Gallery) any { return struct{ Gallery }{g} }, `{"type":"object"}`},
		"of any": {func(Gallery) any { return struct{ A any }{} }, `{"type":"object","properties":{"A":{}},"required":["A"]}`},
		"left empty": {func(Gallery) any {
			return struct {
				L []int8 `json:"l,omitempty"`
			}{}
		}, `{"type":"object","properties":{"l":{"type":"array","items":{"type":"integer","minimum":-128,"maximum":127}}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var c aggregate.Catalog
			d := aggregate.Define(&c, aggregate.Type[Gallery]{
				Name: "gallery", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
				Commands: aggregate.Commands[Gallery]{"hang": hang{}}, Events: aggregate.Events[Gallery]{"hung": hung{}}, View: test.view,
			})
			if err := c.Err(); err != nil {
				t.Fatal(err)
			}
			if got, err := json.Marshal(d.Schemas(undescribed)["gallery.state"]); err != nil || string(got) != test.want {
				t.Errorf("got %s %v\nwant %s", got, err, test.want)
			}
		})
	}
}
