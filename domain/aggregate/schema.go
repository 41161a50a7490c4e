package aggregate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
)

// A Schema is a JSON Schema (draft 2020-12): as much of it as tells what JSON
// an aggregate's Go types take and make. It is made of the shapes against
// which commands are checked, so the two can't part.
type Schema struct {
	Ref                  string      `json:"$ref,omitempty"`
	Description          string      `json:"description,omitempty"`
	Type                 string      `json:"type,omitempty"`
	Format               string      `json:"format,omitempty"`
	ContentEncoding      string      `json:"contentEncoding,omitempty"`
	Minimum              json.Number `json:"minimum,omitempty"`
	Maximum              json.Number `json:"maximum,omitempty"`
	Properties           Properties  `json:"properties,omitempty"`
	Required             []string    `json:"required,omitempty"`
	AdditionalProperties *Schema     `json:"additionalProperties,omitempty"`
	Items                *Schema     `json:"items,omitempty"`
	MinItems             *int        `json:"minItems,omitempty"`
	MaxItems             *int        `json:"maxItems,omitempty"`
	AnyOf                []*Schema   `json:"anyOf,omitempty"`
	Not                  *Schema     `json:"not,omitempty"`

	// Never makes it the schema that no JSON meets, which is written false.
	Never bool `json:"-"`
}

// MarshalJSON writes false for Never.
func (s Schema) MarshalJSON() ([]byte, error) {
	if s.Never {
		return []byte("false"), nil
	}
	type plain Schema
	return json.Marshal(plain(s))
}

// UnmarshalJSON reads what MarshalJSON writes, and true as the schema that
// all JSON meets.
func (s *Schema) UnmarshalJSON(data []byte) error {
	switch string(data) {
	case "true", "false":
		*s = Schema{Never: data[0] == 'f'}
		return nil
	}
	type plain Schema
	return json.Unmarshal(data, (*plain)(s))
}

// A Property is a member of an object.
type Property struct {
	Name   string
	Schema *Schema
}

// Properties are an object's members in the order of the Go type.
type Properties []Property

// MarshalJSON writes an object.
func (p Properties) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, m := range p {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(strconv.AppendQuote(b, m.Name), ':') // letters, digits, - and _
		schema, err := json.Marshal(m.Schema)
		if err != nil {
			return nil, err
		}
		b = append(b, schema...)
	}
	return append(b, '}'), nil
}

// UnmarshalJSON reads an object and keeps its order.
func (p *Properties) UnmarshalJSON(data []byte) error {
	*p = Properties{}
	d := json.NewDecoder(bytes.NewReader(data))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("properties must be an object (%v)", err)
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		m := Property{Name: name.(string), Schema: &Schema{}}
		if err := d.Decode(m.Schema); err != nil {
			return err
		}
		*p = append(*p, m)
	}
	return nil
}

// A Describer says in words what a Go type is, or a field of it; "" if it does
// not know. For the type itself field is "".
type Describer func(t reflect.Type, field string) string

// Schemas has the schemas of a type's state, commands and events, under names
// such as "auction.state", "auction.commands.bid" and
// "auction.events.bid_placed". They refer to each other as "#/$defs/" and the
// name; types that contain themselves have names of their own, such as
// "tree.state.Node".
//
// A command's schema takes what DecodeCommand takes, except that it allows
// what no schema can see: doubled members, broken text, and nesting without
// end. The others say what is sent to clients, and allow members that a newer
// program may add. Lists and maps may be null there, as Go encodes empty ones.
func (d *Definition) Schemas(describe Describer) map[string]*Schema {
	schemas := map[string]*Schema{}
	add := func(name string, s *shape, sent bool) {
		b := schemaBuilder{root: name, sent: sent, describe: describe, schemas: schemas}
		b.findRecursive(s, nil)
		schemas[name] = b.schema(s)
	}
	add(d.name+".state", d.viewShape(), false)
	for name, c := range d.commands {
		add(d.name+".commands."+name, c.shape, true)
	}
	for name, e := range d.events {
		add(d.name+".events."+name, e.shape, false)
	}
	return schemas
}

// viewShape is the shape of what clients see of a state. Views are only
// encoded, so they may be what states may not: what the compiler finds wrong
// with them is left open. View is free in its type; that of an unused
// aggregate's stands for all.
func (d *Definition) viewShape() (s *shape) {
	defer func() {
		if recover() != nil {
			s = &shape{kind: kindRaw} // this View can't be asked
		}
	}()
	t := reflect.TypeOf(d.view(d.newState()))
	if t == nil {
		return &shape{kind: kindRaw}
	}
	s = new(compiler).compile(t, "")
	if s.kind == kindNullable { // the state itself, by default
		s = s.elem
	}
	return s
}

// A schemaBuilder makes one schema of a definition.
type schemaBuilder struct {
	root      string
	sent      bool // by clients, and so checked; otherwise what is sent to them
	describe  Describer
	schemas   map[string]*Schema
	recursive map[*shape]string // names of those that contain themselves
}

// findRecursive names the types that contain themselves: of each loop, the
// first that has a Go name.
func (b *schemaBuilder) findRecursive(s *shape, open []*shape) {
	if i := slices.Index(open, s); i >= 0 {
		named := open[i:][slices.IndexFunc(open[i:], func(s *shape) bool { return s.typ.Name() != "" })]
		if b.recursive[named] == "" {
			if b.recursive == nil {
				b.recursive = map[*shape]string{}
			}
			name := b.root + "." + named.typ.Name()
			for n := 2; b.taken(name); n++ {
				name = b.root + "." + named.typ.Name() + strconv.Itoa(n)
			}
			b.recursive[named] = name
		}
		return
	}
	open = append(open, s)
	for _, m := range s.members {
		b.findRecursive(m.shape, open)
	}
	if s.elem != nil {
		b.findRecursive(s.elem, open)
	}
}

func (b *schemaBuilder) taken(name string) bool {
	for _, other := range b.recursive {
		if other == name {
			return true
		}
	}
	return false
}

func (b *schemaBuilder) schema(s *shape) *Schema {
	name, ok := b.recursive[s]
	if !ok {
		return b.build(s)
	}
	if _, begun := b.schemas[name]; !begun {
		b.schemas[name] = nil
		b.schemas[name] = b.build(s)
	}
	return &Schema{Ref: "#/$defs/" + name}
}

func (b *schemaBuilder) build(s *shape) *Schema {
	switch s.kind {
	case kindBoolean:
		return &Schema{Type: "boolean"}
	case kindText:
		return &Schema{Type: "string"}
	case kindWhole:
		least, most := int64(-1)<<(s.typ.Bits()-1), int64(1<<(s.typ.Bits()-1)-1)
		return &Schema{Type: "integer", Minimum: number(least), Maximum: number(most)}
	case kindNatural:
		return &Schema{Type: "integer", Minimum: "0", Maximum: number(uint64(math.MaxUint64) >> (64 - s.typ.Bits()))}
	case kindDecimal:
		return &Schema{Type: "number"}
	case kindObject:
		return b.object(s)
	case kindDictionary:
		return b.perhapsNull(&Schema{Type: "object", AdditionalProperties: b.schema(s.elem)})
	case kindList:
		return b.perhapsNull(&Schema{Type: "array", Items: b.schema(s.elem)})
	case kindFixed:
		n := s.typ.Len()
		return &Schema{Type: "array", Items: b.schema(s.elem), MinItems: &n, MaxItems: &n}
	case kindNullable:
		return orNull(b.schema(s.elem))
	case kindCustom:
		return b.custom(s)
	}
	return &Schema{} // any JSON
}

func number[N int64 | uint64](n N) json.Number { return json.Number(fmt.Sprint(n)) }

func orNull(s *Schema) *Schema { return &Schema{AnyOf: []*Schema{s, {Type: "null"}}} }

// perhapsNull allows null where Go encodes an empty value so.
func (b *schemaBuilder) perhapsNull(s *Schema) *Schema {
	if b.sent {
		return s
	}
	return orNull(s)
}

func (b *schemaBuilder) object(s *shape) *Schema {
	object := &Schema{Type: "object", Properties: Properties{}, Description: b.describe(s.typ, "")}
	for _, m := range s.members {
		member := b.schema(m.shape)
		switch {
		case b.sent && !m.required && m.shape.kind != kindNullable:
			member = orNull(member) // as good as absent
		case !b.sent && m.omitted && len(member.AnyOf) > 0:
			member = member.AnyOf[0] // absent rather than null
		}
		if text := b.describe(s.typ, s.typ.Field(m.index).Name); text != "" {
			described := *member
			described.Description = text
			member = &described
		}
		object.Properties = append(object.Properties, Property{m.name, member})
		if b.sent && m.required || !b.sent && !m.omitted {
			object.Required = append(object.Required, m.name)
		}
	}
	if b.sent {
		object.AdditionalProperties = &Schema{Never: true}
	}
	return object
}

// custom is the schema of a type that brings its own JSON form, as far as that
// is known.
func (b *schemaBuilder) custom(s *shape) *Schema {
	switch {
	case s.typ == timeType:
		return &Schema{Type: "string", Format: "date-time"}
	case s.base64:
		return b.perhapsNull(&Schema{Type: "string", ContentEncoding: "base64"})
	case s.text:
		return &Schema{Type: "string"}
	case b.sent:
		return &Schema{Not: &Schema{Type: "null"}}
	}
	return &Schema{}
}
