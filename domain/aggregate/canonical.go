package aggregate

import (
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// appendCanonical appends the JSON of a value in the one form that its
// meaning has: members sorted by name, optional ones that are zero left out,
// no space. It stays the same when the Go type reorders its fields or gains
// an optional one, so that a command that is sent again during an upgrade has
// the hash that it had before.
func (s *shape) appendCanonical(b []byte, v reflect.Value) ([]byte, error) {
	switch s.kind {
	case kindBoolean:
		return strconv.AppendBool(b, v.Bool()), nil
	case kindWhole:
		return strconv.AppendInt(b, v.Int(), 10), nil
	case kindNatural:
		return strconv.AppendUint(b, v.Uint(), 10), nil
	case kindNullable:
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		return s.elem.appendCanonical(b, v.Elem())
	case kindObject:
		b = append(b, '{')
		for _, i := range s.sorted {
			m := &s.members[i]
			f := v.Field(m.index)
			if !m.required && m.shape.empty(f) {
				continue
			}
			if b[len(b)-1] != '{' {
				b = append(b, ',')
			}
			b = append(append(append(b, '"'), m.name...), '"', ':')
			var err error
			if b, err = m.shape.appendCanonical(b, f); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	case kindDictionary:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(x, y reflect.Value) int { return strings.Compare(x.String(), y.String()) })
		b = append(b, '{')
		for i, k := range keys {
			if i > 0 {
				b = append(b, ',')
			}
			name, err := json.Marshal(k.String())
			if err != nil {
				return nil, err
			}
			b = append(append(b, name...), ':')
			if b, err = s.elem.appendCanonical(b, v.MapIndex(k)); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	case kindList, kindFixed:
		b = append(b, '[')
		for i := range v.Len() {
			if i > 0 {
				b = append(b, ',')
			}
			var err error
			if b, err = s.elem.appendCanonical(b, v.Index(i)); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case kindRaw:
		return appendAny(b, v.Bytes())
	case kindCustom:
		if v.Kind() == reflect.Slice && v.IsNil() {
			return append(b, `""`...), nil // no bytes, in base64
		}
	}
	// text, decimal and custom: encoding/json has one form for each.
	data, err := json.Marshal(v.Interface())
	return append(b, data...), err
}

// empty tells whether an optional member means the same as its absence.
func (s *shape) empty(v reflect.Value) bool {
	switch {
	case s.kind == kindRaw:
		return v.Len() == 0 || string(v.Bytes()) == "null"
	case v.Kind() == reflect.Slice || v.Kind() == reflect.Map:
		return v.Len() == 0
	}
	return v.IsZero()
}

// appendAny appends JSON of no particular shape; numbers stay as written.
func appendAny(b []byte, data json.RawMessage) ([]byte, error) {
	if len(data) == 0 {
		return append(b, "null"...), nil
	}
	var v any
	if err := unmarshalExact(data, &v); err != nil {
		return nil, err
	}
	data, err := json.Marshal(v) // sorts members by name
	return append(b, data...), err
}
