package projection

import (
	"encoding"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"
)

// A Column is a member of a row that conditions and orders of queries may use.
type Column struct {
	// Name is the member's JSON name.
	Name string
	Kind Kind
	// Nullable reports that the member may be absent: its Go type is a pointer.
	Nullable bool

	field int // index of the Go field
}

// Kind is the type of a column's values.
type Kind uint8

// The kinds of columns, with the Go type of their values in [Definition.Values].
const (
	Bool  Kind = iota + 1 // bool
	Int                   // int64
	Float                 // float64
	Text                  // string, compared by bytes
	Time                  // int64, microseconds since 1970-01-01T00:00:00Z
)

func (k Kind) String() string {
	return [...]string{"none", "bool", "int", "float", "text", "time"}[k]
}

var timeType = reflect.TypeFor[time.Time]()

// kindOf returns the kind of column that a Go type makes, and whether values
// may be absent.
func kindOf(t reflect.Type) (kind Kind, nullable bool, err error) {
	if t.Kind() == reflect.Pointer {
		t, nullable = t.Elem(), true
	}
	switch {
	case t == timeType:
		return Time, nullable, nil
	case t.PkgPath() != "" && t.Kind() != reflect.Struct && t.NumMethod()+reflect.PointerTo(t).NumMethod() > 0 && encodesItself(t):
		return 0, false, fmt.Errorf("%s has a JSON form of its own, which conditions cannot compare", t)
	}
	switch t.Kind() {
	case reflect.Bool:
		return Bool, nullable, nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return Int, nullable, nil
	case reflect.Float32, reflect.Float64:
		return Float, nullable, nil
	case reflect.String:
		return Text, nullable, nil
	}
	return 0, false, fmt.Errorf("%s cannot be compared: use a bool, an integer of at most 63 bits, a float, a string or a time.Time", t)
}

// encodesItself reports whether encoding/json calls a method of the type. It does not
// look for methods by name, since the linker would then keep those of all types.
func encodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Marshaler]()) || p.Implements(reflect.TypeFor[encoding.TextMarshaler]())
}

// Value converts a Go value to the column's form: nil for absent, or a value of
// the type that the column's [Kind] names. Conditions and rows use the same
// conversion, so they compare alike. The error says what does not fit.
func (c Column) Value(v any) (any, error) {
	r := reflect.ValueOf(v)
	if r.Kind() == reflect.Pointer {
		if r.IsNil() {
			v = nil
		} else {
			r = r.Elem()
		}
	}
	if v == nil {
		if !c.Nullable {
			return nil, fmt.Errorf("column %q is never absent", c.Name)
		}
		return nil, nil
	}
	return c.convert(r)
}

func (c Column) convert(r reflect.Value) (any, error) {
	switch c.Kind {
	case Time:
		if t, ok := r.Interface().(time.Time); ok {
			return t.UnixMicro(), nil
		}
	case Bool:
		if r.Kind() == reflect.Bool {
			return r.Bool(), nil
		}
	case Int:
		switch {
		case r.CanInt():
			return r.Int(), nil
		case r.CanUint() && r.Uint() <= math.MaxInt64:
			return int64(r.Uint()), nil
		}
	case Float:
		switch {
		case r.CanFloat() && !math.IsNaN(r.Float()) && !math.IsInf(r.Float(), 0):
			return r.Float() + 0, nil // + 0 makes -0 into 0
		case r.CanInt():
			return float64(r.Int()), nil
		}
	case Text:
		if r.Kind() == reflect.String {
			s := r.String()
			if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
				return nil, fmt.Errorf("column %q: text must be valid UTF-8 without U+0000", c.Name)
			}
			return s, nil
		}
	}
	return nil, fmt.Errorf("column %q has values of kind %s, not %v", c.Name, c.Kind, r)
}
