package aggregate

import (
	"cmp"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A shape is what the JSON of a Go type looks like. Shapes are compiled once,
// when a type is defined: decoding checks data against them, encoding for
// hashes walks them, and fingerprints and golden files are made of them.
type shape struct {
	kind    kind
	typ     reflect.Type
	elem    *shape   // of list, fixed, dictionary and nullable
	members []member // of object, in the order of the Go type
	sorted  []int    // indices of members by name
	text    bool     // of custom: it is a string in JSON
	base64  bool     // of such a string: it stands for bytes
}

type member struct {
	name     string
	index    int // of the Go field
	shape    *shape
	required bool // in a command's data
	omitted  bool // when it is empty, from what is encoded
}

type kind uint8

const (
	kindBroken     kind = iota // a problem was reported
	kindBoolean                // true or false
	kindText                   // a string
	kindWhole                  // a signed integer
	kindNatural                // an unsigned integer
	kindDecimal                // any number
	kindObject                 // members that are known beforehand
	kindDictionary             // members that are not
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

// A compiler makes shapes, and gathers what keeps Go types from being stored
// as JSON and read again exactly as they were.
type compiler struct {
	// named demands a json tag on every member: what is stored or sent keeps
	// its name when a Go field is renamed.
	named    bool
	shapes   map[reflect.Type]*shape
	problems []error
}

func (c *compiler) problem(path, format string, args ...any) {
	c.problems = append(c.problems, fmt.Errorf("%s %w", path, fmt.Errorf(format, args...)))
}

// compile returns the shape of a type. The path leads to it, for people.
func (c *compiler) compile(t reflect.Type, path string) *shape {
	if s, ok := c.shapes[t]; ok {
		return s // also while it is being compiled: types may be recursive
	}
	if c.shapes == nil {
		c.shapes = map[reflect.Type]*shape{}
	}
	s := &shape{typ: t}
	c.shapes[t] = s
	switch {
	case t == rawType:
		s.kind = kindRaw
		return s
	case t.Kind() != reflect.Pointer && c.decodesItself(t, path):
		s.kind, s.text = kindCustom, isText(t)
		return s
	}
	c.compileKind(s, path)
	return s
}

func (c *compiler) compileKind(s *shape, path string) {
	t := s.typ
	if t == numberType {
		c.problem(path, "is a %s, which is neither quite a number nor a string: use int64, float64 or string", t)
		return
	}
	switch t.Kind() {
	case reflect.Bool:
		s.kind = kindBoolean
	case reflect.String:
		s.kind = kindText
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		s.kind = kindWhole
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		s.kind = kindNatural
	case reflect.Float32, reflect.Float64:
		s.kind = kindDecimal
	case reflect.Struct:
		c.compileStruct(s, path)
	case reflect.Map:
		if k := t.Key(); k.Kind() != reflect.String || c.decodesItself(k, path) {
			c.problem(path, "is a %s: the keys of a map must be strings", t)
			return
		}
		s.kind, s.elem = kindDictionary, c.compile(t.Elem(), path)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			s.kind, s.text, s.base64 = kindCustom, true, true
			return
		}
		s.kind, s.elem = kindList, c.compile(t.Elem(), path)
	case reflect.Array:
		s.kind, s.elem = kindFixed, c.compile(t.Elem(), path)
	case reflect.Pointer:
		switch elem := t.Elem(); {
		case elem.Kind() == reflect.Pointer:
			c.problem(path, "is a %s: a pointer to a pointer can't be told from null", t)
		case elem != rawType && encodesItself(t) && decodesItself(t):
			s.kind, s.elem = kindNullable, &shape{kind: kindCustom, typ: elem, text: isText(elem)}
		default:
			s.kind, s.elem = kindNullable, c.compile(elem, path)
		}
	case reflect.Interface:
		c.problem(path, "is a %s: JSON doesn't say which type to decode; use a concrete type or json.RawMessage", t)
	default:
		c.problem(path, "is a %s, which JSON can't hold", t)
	}
}

// decodesItself tells whether a type brings its own JSON form.
func (c *compiler) decodesItself(t reflect.Type, path string) bool {
	p := reflect.PointerTo(t)
	encodes, decodes := encodesItself(p), decodesItself(p)
	switch {
	case encodes && !decodes:
		c.problem(path, "is a %s, which encodes itself as JSON but can't decode itself: give it UnmarshalJSON", t)
	case decodes && !encodes:
		c.problem(path, "is a %s, which decodes itself from JSON but can't encode itself: give it MarshalJSON", t)
	case encodes && !encodesItself(t):
		c.problem(path, "is a %s, whose JSON methods have pointer receivers: use a pointer, or encoding a value passes them by", t)
	}
	return encodes || decodes
}

func encodesItself(t reflect.Type) bool {
	return t.Implements(marshalerType) || t.Implements(textMarshalerType)
}

func decodesItself(t reflect.Type) bool {
	return t.Implements(unmarshalerType) || t.Implements(textUnmarshalerType)
}

// isText tells whether a type that brings its own JSON form is a string there,
// as encoding/json makes of those with a form in text only.
func isText(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(textUnmarshalerType) && !p.Implements(unmarshalerType) && !p.Implements(marshalerType)
}

func (c *compiler) compileStruct(s *shape, path string) {
	s.kind = kindObject
	for f := range s.typ.Fields() {
		if f.Name == "_" {
			continue
		}
		path := path + "." + f.Name
		tag, tagged := f.Tag.Lookup("json")
		name, options, _ := strings.Cut(tag, ",")
		switch {
		case f.Anonymous && name == "":
			c.problem(path, "is embedded: give it a name, so that the form can be read in one place")
			continue
		case !f.IsExported():
			c.problem(path, "is unexported, so JSON would lose it")
			continue
		case tag == "-":
			c.problem(path, "is hidden from JSON, so it would be lost")
			continue
		case c.named && (!tagged || name == ""):
			c.problem(path, "has no json tag: choose its stored name, so that renaming the Go field loses nothing")
			continue
		case hasOption(options, "string"):
			c.problem(path, "has the json option 'string': use a string type instead")
			continue
		}
		name = cmp.Or(name, f.Name)
		if err := checkMember(name); err != nil {
			c.problem(path, "has the stored name %q, which %w", name, err)
			continue
		}
		for _, other := range s.members {
			if strings.EqualFold(other.name, name) {
				c.problem(path, "has the stored name %q, as %s does: two names must differ by more than case",
					name, s.typ.Field(other.index).Name)
			}
		}
		m := member{name: name, index: f.Index[0], shape: c.compile(f.Type, path)}
		m.omitted = hasOption(options, "omitempty") || hasOption(options, "omitzero")
		m.required = f.Type.Kind() != reflect.Pointer && !m.omitted
		s.members = append(s.members, m)
	}
	for i := range s.members {
		s.sorted = append(s.sorted, i)
	}
	slices.SortFunc(s.sorted, func(a, b int) int { return strings.Compare(s.members[a].name, s.members[b].name) })
}

func hasOption(options, want string) bool {
	for o := range strings.SplitSeq(options, ",") {
		if o == want {
			return true
		}
	}
	return false
}

// checkMember reports what is wrong with the name of a member.
func checkMember(name string) error {
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return fmt.Errorf("has the character %q: use letters, digits, - and _", r)
		}
	}
	return nil
}

// describe writes the shape down: two types with one description read each
// other's JSON.
func (s *shape) describe(b *strings.Builder, open []*shape) {
	if i := slices.Index(open, s); i >= 0 {
		b.WriteString("^" + strconv.Itoa(len(open)-i)) // recursion: so many levels up
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
