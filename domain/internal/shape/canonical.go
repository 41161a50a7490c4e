package shape

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"sort"
	"strconv"
)

// AppendCanonical appends the canonical JSON of a value: members sorted by name,
// without optional members that are empty, and without white space. It stays the
// same when the Go type reorders its fields or gains an optional one, so that a
// command that is retried during an upgrade has the same hash.
func (s *Shape) AppendCanonical(b []byte, v reflect.Value) ([]byte, error) {
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
		return s.elem.AppendCanonical(b, v.Elem())
	case kindObject:
		return s.appendObject(b, v)
	case kindDictionary:
		return s.appendDictionary(b, v)
	case kindList, kindFixed:
		return s.appendList(b, v)
	case kindRaw:
		return appendAny(b, v.Bytes())
	case kindCustom:
		if v.Kind() == reflect.Slice && v.IsNil() {
			return append(b, `""`...), nil // base64 of no bytes
		}
	}
	// encoding/json has one form for text, decimal and custom.
	data, err := json.Marshal(v.Interface())
	return append(b, data...), err
}

func (s *Shape) appendObject(b []byte, v reflect.Value) (_ []byte, err error) {
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
		if b, err = m.shape.AppendCanonical(b, f); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func (s *Shape) appendDictionary(b []byte, v reflect.Value) ([]byte, error) {
	keys := v.MapKeys()
	sort.Slice(keys, func(i, j int) bool { return keys[i].String() < keys[j].String() })
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
		if b, err = s.elem.AppendCanonical(b, v.MapIndex(k)); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

func (s *Shape) appendList(b []byte, v reflect.Value) (_ []byte, err error) {
	b = append(b, '[')
	for i := range v.Len() {
		if i > 0 {
			b = append(b, ',')
		}
		if b, err = s.elem.AppendCanonical(b, v.Index(i)); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

// empty reports whether an optional member means the same as its absence.
func (s *Shape) empty(v reflect.Value) bool {
	switch {
	case s.kind == kindRaw:
		return v.Len() == 0 || string(v.Bytes()) == "null"
	case v.Kind() == reflect.Slice || v.Kind() == reflect.Map:
		return v.Len() == 0
	}
	return v.IsZero()
}

// appendAny appends JSON of any shape. Numbers stay as they are written.
func appendAny(b []byte, data json.RawMessage) ([]byte, error) {
	if len(data) == 0 {
		return append(b, "null"...), nil
	}
	var v any
	if err := UnmarshalExact(data, &v); err != nil {
		return nil, err
	}
	data, err := json.Marshal(v) // sorts members by name
	return append(b, data...), err
}

// UnmarshalExact is json.Unmarshal that keeps numbers as they are written.
func UnmarshalExact(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return d.Decode(v)
}

// CheckEqual compares what a scenario expects with what it got, as JSON values.
func CheckEqual(want string, got []byte) error {
	var a, b any
	if err := UnmarshalExact([]byte(want), &a); err != nil {
		return fmt.Errorf("what the scenario expects is not JSON: %w", err)
	}
	if err := UnmarshalExact(got, &b); err != nil {
		return err
	}
	if !reflect.DeepEqual(a, b) {
		return fmt.Errorf("it should be %s, but is %s", want, got)
	}
	return nil
}
