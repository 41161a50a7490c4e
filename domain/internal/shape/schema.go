package shape

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
)

// A Schema is a JSON Schema (draft 2020-12), with the keywords that describe the
// JSON of Go types. It is rendered from the shape against which data is checked,
// so the two agree.
type Schema struct {
	Ref                  string      `json:"$ref,omitempty"`
	Description          string      `json:"description,omitempty"`
	Type                 string      `json:"type,omitempty"`
	Enum                 []string    `json:"enum,omitempty"`
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
	// Examples are JSON values that the schema matches.
	Examples []json.RawMessage `json:"examples,omitempty"`

	// Never makes the schema match no JSON. Such a schema is written false.
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

// UnmarshalJSON reads the form that MarshalJSON writes, and true as the schema
// that matches all JSON.
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

// A Describer returns the description of a Go type, if field is "", or of one of
// its fields. It returns "" if it has none.
type Describer func(t reflect.Type, field string) string

// AddSchema adds the shape's schema to schemas under a name, and the schemas of
// types that contain themselves under names that begin with it. fromClients means
// that clients send the data, which is then checked strictly.
func (s *Shape) AddSchema(schemas map[string]*Schema, name string, fromClients bool, describe Describer) {
	b := schemaBuilder{root: name, fromClients: fromClients, describe: describe, schemas: schemas}
	b.findRecursive(s, nil)
	schemas[name] = b.schema(s)
}

// A schemaBuilder renders the schema of one shape.
type schemaBuilder struct {
	root        string
	fromClients bool // otherwise the data is sent to clients
	describe    Describer
	schemas     map[string]*Schema
	recursive   map[*Shape]string // names of the types that contain themselves
}

// findRecursive names the types that contain themselves. Of each cycle it names
// the first type that has a Go name.
func (b *schemaBuilder) findRecursive(s *Shape, open []*Shape) {
	if i := slices.Index(open, s); i >= 0 {
		named := open[i:][slices.IndexFunc(open[i:], func(s *Shape) bool { return s.typ.Name() != "" })]
		if b.recursive[named] == "" {
			if b.recursive == nil {
				b.recursive = map[*Shape]string{}
			}
			name := b.root + "." + named.typ.Name()
			for n := 2; b.isTaken(name); n++ {
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

func (b *schemaBuilder) isTaken(name string) bool {
	for _, other := range b.recursive {
		if other == name {
			return true
		}
	}
	return false
}

func (b *schemaBuilder) schema(s *Shape) *Schema {
	name, ok := b.recursive[s]
	if !ok {
		return b.build(s)
	}
	if _, begun := b.schemas[name]; !begun {
		b.schemas[name] = nil // begun: a recursive reference ends here
		b.schemas[name] = b.build(s)
	}
	return &Schema{Ref: "#/$defs/" + name}
}

func (b *schemaBuilder) build(s *Shape) *Schema {
	switch s.kind {
	case kindBoolean:
		return &Schema{Type: "boolean"}
	case kindText:
		return &Schema{Type: "string", Enum: s.values}
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

// perhapsNull allows null in data to clients, where Go encodes an empty value as
// null.
func (b *schemaBuilder) perhapsNull(s *Schema) *Schema {
	if b.fromClients {
		return s
	}
	return orNull(s)
}

func (b *schemaBuilder) object(s *Shape) *Schema {
	object := &Schema{Type: "object", Properties: Properties{}, Description: b.describe(s.typ, "")}
	for _, m := range s.members {
		member := b.schema(m.shape)
		switch {
		case b.fromClients && !m.required && m.shape.kind != kindNullable:
			member = orNull(member) // null means absent
		case !b.fromClients && m.omitted && len(member.AnyOf) > 0:
			member = member.AnyOf[0] // absent, never null
		}
		if text := b.describe(s.typ, s.typ.Field(m.index).Name); text != "" {
			described := *member
			described.Description = text
			member = &described
		}
		object.Properties = append(object.Properties, Property{m.name, member})
		if b.fromClients && m.required || !b.fromClients && !m.omitted {
			object.Required = append(object.Required, m.name)
		}
	}
	if b.fromClients {
		object.AdditionalProperties = &Schema{Never: true}
	}
	return object
}

// custom returns the schema of a type with a JSON form of its own. It describes only
// what is known of the form.
func (b *schemaBuilder) custom(s *Shape) *Schema {
	switch {
	case s.typ == timeType:
		return &Schema{Type: "string", Format: "date-time"}
	case s.base64:
		return b.perhapsNull(&Schema{Type: "string", ContentEncoding: "base64"})
	case s.text:
		return &Schema{Type: "string"}
	case b.fromClients:
		return &Schema{Not: &Schema{Type: "null"}}
	}
	return &Schema{}
}
