package shape

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Shape is the JSON form of a Go type.
type Shape struct {
	kind    kind
	typ     reflect.Type
	elem    *Shape   // of list, fixed, dictionary and nullable
	members []member // of object, in the order of the Go type
	sorted  []int    // indices of members by name
	text    bool     // of custom: the JSON is a string
	values  []string // of text: the only values, if they are declared
	base64  bool     // of custom text: the string encodes bytes
}

// Type returns the Go type that the shape was compiled from.
func (s *Shape) Type() reflect.Type { return s.typ }

type member struct {
	name     string
	index    int // of the Go field
	shape    *Shape
	required bool // in data from clients
	omitted  bool // from encoded data when it is empty
}

type kind uint8

const (
	kindBroken     kind = iota // a problem was reported
	kindBoolean                // true or false
	kindText                   // a string
	kindWhole                  // a signed integer
	kindNatural                // an unsigned integer
	kindDecimal                // any number
	kindObject                 // a struct
	kindDictionary             // a map
	kindList                   // a slice
	kindFixed                  // an array
	kindNullable               // a pointer: elem or null
	kindRaw                    // json.RawMessage: any JSON
	kindCustom                 // a type that decodes itself; also []byte
)

var kindNames = [...]string{
	"broken", "boolean", "text", "whole", "natural", "decimal", "object",
	"dictionary", "list", "fixed", "nullable", "raw", "custom",
}

var (
	rawType             = reflect.TypeFor[json.RawMessage]()
	numberType          = reflect.TypeFor[json.Number]()
	timeType            = reflect.TypeFor[time.Time]()
	marshalerType       = reflect.TypeFor[json.Marshaler]()
	unmarshalerType     = reflect.TypeFor[json.Unmarshaler]()
	textMarshalerType   = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// Describe writes a description of the shape. Two types with the same
// description can read each other's JSON. The values of an enumeration are not
// part of it, so adding one changes no stored form.
func (s *Shape) Describe(b *strings.Builder) { s.describe(b, nil) }

func (s *Shape) describe(b *strings.Builder, open []*Shape) {
	if i := slices.Index(open, s); i >= 0 {
		b.WriteString("^" + strconv.Itoa(len(open)-i)) // recursion: the number of levels up
		return
	}
	open = append(open, s)
	b.WriteString(kindNames[s.kind])
	switch s.kind {
	case kindWhole, kindNatural, kindDecimal:
		b.WriteString(strconv.Itoa(s.typ.Bits()))
	case kindFixed:
		b.WriteString(strconv.Itoa(s.typ.Len()))
	case kindCustom:
		b.WriteString(" " + s.typ.String())
	case kindObject:
		b.WriteByte('{')
		for _, i := range s.sorted {
			m := s.members[i]
			b.WriteString(m.name)
			if !m.required {
				b.WriteByte('?')
			}
			b.WriteByte(':')
			m.shape.describe(b, open)
			b.WriteByte(';')
		}
		b.WriteByte('}')
	}
	if s.elem != nil {
		b.WriteByte('<')
		s.elem.describe(b, open)
		b.WriteByte('>')
	}
}
