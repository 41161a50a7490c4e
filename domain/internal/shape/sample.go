package shape

import (
	"encoding/json"
	"math"
	"reflect"
	"time"
)

// Sample returns a value with every member set, to an extreme where that
// distinguishes types. It depends on the Go type alone.
func (s *Shape) Sample() any {
	v := reflect.New(s.typ).Elem()
	s.fill(v, map[*Shape]bool{})
	return v.Interface()
}

// fill sets a value and every part of it. A type that contains itself is filled
// once on each path.
func (s *Shape) fill(v reflect.Value, open map[*Shape]bool) {
	if open[s] {
		return
	}
	open[s] = true
	defer delete(open, s)
	switch s.kind {
	case kindBoolean:
		v.SetBool(true)
	case kindText:
		v.SetString("text")
		if len(s.values) > 0 {
			v.SetString(s.values[0])
		}
	case kindWhole:
		v.SetInt(1<<(s.typ.Bits()-1) - 1)
	case kindNatural:
		v.SetUint(math.MaxUint64 >> (64 - s.typ.Bits()))
	case kindDecimal:
		v.SetFloat(0.5)
	case kindRaw:
		v.SetBytes(json.RawMessage(`{"any":"json"}`))
	case kindObject:
		for _, m := range s.members {
			m.shape.fill(v.Field(m.index), open)
		}
	case kindNullable:
		if !open[s.elem] {
			v.Set(reflect.New(s.elem.typ))
			s.elem.fill(v.Elem(), open)
		}
	case kindList:
		if !open[s.elem] {
			v.Set(reflect.MakeSlice(s.typ, 1, 1))
			s.elem.fill(v.Index(0), open)
		}
	case kindFixed:
		for i := range v.Len() {
			s.elem.fill(v.Index(i), open)
		}
	case kindDictionary:
		v.Set(reflect.MakeMap(s.typ))
		if !open[s.elem] {
			elem := reflect.New(s.elem.typ).Elem()
			s.elem.fill(elem, open)
			v.SetMapIndex(reflect.ValueOf("key").Convert(s.typ.Key()), elem)
		}
	case kindCustom:
		switch {
		case s.typ == timeType:
			v.Set(reflect.ValueOf(time.Date(2006, 1, 2, 15, 4, 5, 999_999_000, time.UTC)))
		case s.typ.Kind() == reflect.Slice && !encodesItself(s.typ):
			v.SetBytes([]byte("bytes"))
		}
		// Others stay zero, since only the type itself knows its values.
	}
}
