package shape

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// A Compiler makes shapes. It collects the parts of types that JSON would not
// preserve.
type Compiler struct {
	// Named requires a json tag on every member, so that stored and sent members
	// keep their names when a Go field is renamed.
	Named bool

	// Problems are the problems of the types compiled so far.
	Problems []error

	shapes map[reflect.Type]*Shape
}

// Problem adds a problem. path names the part of the type that has it.
func (c *Compiler) Problem(path, format string, args ...any) {
	c.Problems = append(c.Problems, fmt.Errorf("%s %w", path, fmt.Errorf(format, args...)))
}

// Compile returns the shape of a type. path names the type in problems.
func (c *Compiler) Compile(t reflect.Type, path string) *Shape {
	if s, ok := c.shapes[t]; ok {
		return s // also while it is being compiled: types may be recursive
	}
	if c.shapes == nil {
		c.shapes = map[reflect.Type]*Shape{}
	}
	s := &Shape{typ: t}
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

func (c *Compiler) compileKind(s *Shape, path string) {
	t := s.typ
	if t == numberType {
		c.Problem(path, "is a %s, which is neither a number nor a string: use int64, float64 or string", t)
		return
	}
	switch t.Kind() {
	case reflect.Bool:
		s.kind = kindBoolean
	case reflect.String:
		s.kind, s.values = kindText, c.valuesOf(t, path)
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
			c.Problem(path, "is a %s: the keys of a map must be strings", t)
			return
		}
		s.kind, s.elem = kindDictionary, c.Compile(t.Elem(), path)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			s.kind, s.text, s.base64 = kindCustom, true, true
			return
		}
		s.kind, s.elem = kindList, c.Compile(t.Elem(), path)
	case reflect.Array:
		s.kind, s.elem = kindFixed, c.Compile(t.Elem(), path)
	case reflect.Pointer:
		switch elem := t.Elem(); {
		case elem.Kind() == reflect.Pointer:
			c.Problem(path, "is a %s: JSON cannot distinguish a pointer to nil from nil", t)
		case elem != rawType && encodesItself(t) && decodesItself(t):
			s.kind, s.elem = kindNullable, &Shape{kind: kindCustom, typ: elem, text: isText(elem)}
		default:
			s.kind, s.elem = kindNullable, c.Compile(elem, path)
		}
	case reflect.Interface:
		c.Problem(path, "is a %s: JSON does not say which type to decode; use a concrete type or json.RawMessage", t)
	default:
		c.Problem(path, "is a %s, which JSON cannot represent", t)
	}
}

// decodesItself reports whether a type has a JSON form of its own.
func (c *Compiler) decodesItself(t reflect.Type, path string) bool {
	p := reflect.PointerTo(t)
	encodes, decodes := encodesItself(p), decodesItself(p)
	switch {
	case encodes && !decodes:
		c.Problem(path, "is a %s, which encodes itself as JSON but cannot decode itself: give it UnmarshalJSON", t)
	case decodes && !encodes:
		c.Problem(path, "is a %s, which decodes itself from JSON but cannot encode itself: give it MarshalJSON", t)
	case encodes && !encodesItself(t):
		c.Problem(path, "is a %s, whose JSON methods have pointer receivers: use a pointer, since encoding a value does not call them", t)
	}
	return encodes || decodes
}

func encodesItself(t reflect.Type) bool {
	return t.Implements(marshalerType) || t.Implements(textMarshalerType)
}

func decodesItself(t reflect.Type) bool {
	return t.Implements(unmarshalerType) || t.Implements(textUnmarshalerType)
}

// isText reports whether a type with a JSON form of its own is a string in JSON,
// as encoding/json encodes types that implement only the text interfaces.
func isText(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(textUnmarshalerType) && !p.Implements(unmarshalerType) && !p.Implements(marshalerType)
}

func (c *Compiler) compileStruct(s *Shape, path string) {
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
			c.Problem(path, "is embedded: give it a name, so that the form can be read in one place")
			continue
		case !f.IsExported():
			c.Problem(path, "is unexported, so JSON would lose it")
			continue
		case tag == "-":
			c.Problem(path, "is hidden from JSON, so it would be lost")
			continue
		case c.Named && (!tagged || name == ""):
			c.Problem(path, "has no json tag: choose its stored name, so that renaming the Go field loses nothing")
			continue
		case hasOption(options, "string"):
			c.Problem(path, "has the json option 'string': use a string type instead")
			continue
		}
		name = cmp.Or(name, f.Name)
		if err := checkMember(name); err != nil {
			c.Problem(path, "has the stored name %q, which %w", name, err)
			continue
		}
		for _, other := range s.members {
			if strings.EqualFold(other.name, name) {
				c.Problem(path, "has the stored name %q, as %s does: two names must differ by more than case",
					name, s.typ.Field(other.index).Name)
			}
		}
		m := member{name: name, index: f.Index[0], shape: c.Compile(f.Type, path)}
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

// checkMember returns an error if the name of a member is invalid. The error
// continues a sentence whose subject is the name.
func checkMember(name string) error {
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return fmt.Errorf("has the character %q: use letters, digits, - and _", r)
		}
	}
	return nil
}

// OfEncoded returns the shape of values that are only encoded. The shape of a nil
// type, or of a part with problems, is that of any JSON. A pointer has the shape of
// its element.
func OfEncoded(t reflect.Type) *Shape {
	if t == nil {
		return &Shape{kind: kindRaw}
	}
	s := new(Compiler).Compile(t, "")
	if s.kind == kindNullable {
		s = s.elem
	}
	return s
}

// CompileMessage compiles the type of a message with a stored name, such as a
// command or an event. It returns nil if the type is not a plain struct.
func (c *Compiler) CompileMessage(name string, t reflect.Type, path string) *Shape {
	if err := CheckName(name); err != nil {
		c.Problem(path, "has a stored name that %w", err)
	}
	switch {
	case t == nil:
		c.Problem(path, "is nil: register an empty value of its type")
		return nil
	case t.Kind() == reflect.Pointer:
		c.Problem(path, "is registered as a pointer: register the value %s{}", t.Elem().Name())
		return nil
	case t.Kind() != reflect.Struct || encodesItself(reflect.PointerTo(t)) || decodesItself(reflect.PointerTo(t)):
		c.Problem(path, "is a %s: use a struct without a JSON form of its own", t)
		return nil
	}
	return c.Compile(t, path+": "+t.Name())
}

// maxNameBytes bounds stored names, which are in every row and frame.
const maxNameBytes = 64

// CheckName returns an error if a stored name is invalid. The error continues a
// sentence whose subject is the name.
func CheckName(name string) error {
	if name == "" {
		return errors.New("is empty")
	}
	if len(name) > maxNameBytes {
		return fmt.Errorf("has %d bytes: use at most %d", len(name), maxNameBytes)
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return fmt.Errorf("has the character %q: use lower-case letters, digits, - and _", r)
		}
	}
	return nil
}

// CompileRow compiles the type of a projection's rows or of a query's parameters
// or answer; nil if it is no plain struct.
func (c *Compiler) CompileRow(t reflect.Type) *Shape {
	if t.Kind() != reflect.Struct || encodesItself(reflect.PointerTo(t)) || decodesItself(reflect.PointerTo(t)) {
		c.Problem(t.String(), "is not a plain struct, whose members are the data")
		return nil
	}
	return c.Compile(t, t.Name())
}
