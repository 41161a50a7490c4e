package shape

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// An Enum is a string type that declares its values.
type Enum interface {
	// Values returns the values. It is called once, on the zero value.
	Values() []string
}

var enumType = reflect.TypeFor[Enum]()

// valuesOf returns the declared values of a string type, or nil if every string is
// one.
func (c *Compiler) valuesOf(t reflect.Type, path string) []string {
	if !t.Implements(enumType) {
		if reflect.PointerTo(t).Implements(enumType) {
			c.Problem(path, "is a %s, whose method Values has a pointer receiver: use a value", t)
		}
		return nil
	}
	values := slices.Clone(reflect.Zero(t).Interface().(Enum).Values())
	if len(values) == 0 {
		c.Problem(path, "is a %s, whose method Values returns no value", t)
	}
	for i, v := range values {
		switch {
		case slices.Contains(values[:i], v):
			c.Problem(path, "is a %s, whose method Values returns %q twice", t, v)
		case !utf8.ValidString(v) || strings.ContainsRune(v, 0):
			c.Problem(path, "is a %s, whose value %q is not valid text", t, v)
		}
	}
	return values
}

// checkValue checks a string, between its quotes.
func (s *Shape) checkValue(content []byte, escaped bool) *DataError {
	if s.values == nil {
		return nil
	}
	text := string(content)
	if escaped {
		if err := json.Unmarshal([]byte(`"`+text+`"`), &text); err != nil {
			return wrong("%v", err)
		}
	}
	if !slices.Contains(s.values, text) {
		return wrong("must be %s, not %s", oneOf(s.values), strconv.Quote(text[:min(len(text), 64)]))
	}
	return nil
}

func oneOf(values []string) string {
	quoted := make([]string, len(values))
	for i, v := range values {
		quoted[i] = strconv.Quote(v)
	}
	if len(quoted) == 1 {
		return quoted[0]
	}
	return strings.Join(quoted[:len(quoted)-1], ", ") + " or " + quoted[len(quoted)-1]
}

// Undeclared returns a *[DataError] for the first part of a value that is not one of
// the values that its type declares. An absent optional member is fine.
func (s *Shape) Undeclared(v reflect.Value) error {
	if err := s.undeclared(v); err != nil {
		return err
	}
	return nil // an error that holds a nil *DataError would not equal nil
}

func (s *Shape) undeclared(v reflect.Value) *DataError {
	if v.Kind() == reflect.Pointer && s.kind != kindNullable && s.kind != kindCustom {
		if v.IsNil() {
			return nil
		}
		v = v.Elem() // OfEncoded
	}
	switch s.kind {
	case kindText:
		if text := v.String(); s.values != nil && !slices.Contains(s.values, text) {
			return wrong("must be %s, not %s", oneOf(s.values), strconv.Quote(text))
		}
	case kindNullable:
		if !v.IsNil() {
			return s.elem.undeclared(v.Elem())
		}
	case kindObject:
		for _, m := range s.members {
			field := v.Field(m.index)
			if m.omitted && field.IsZero() {
				continue
			}
			if err := m.shape.undeclared(field); err != nil {
				return err.in(m.name)
			}
		}
	case kindList, kindFixed:
		for i := range v.Len() {
			if err := s.elem.undeclared(v.Index(i)); err != nil {
				return err.in("[" + strconv.Itoa(i) + "]")
			}
		}
	case kindDictionary:
		for _, key := range v.MapKeys() {
			if err := s.elem.undeclared(v.MapIndex(key)); err != nil {
				return err.in(key.String())
			}
		}
	}
	return nil
}
