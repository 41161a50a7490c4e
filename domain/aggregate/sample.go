package aggregate

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"time"
)

// SampleEvent returns an event with every member set, to the extreme value
// where that tells forms apart. It depends on the Go type alone, so it stays
// the same as long as the stored form does: golden files are made of it.
func (d *Definition) SampleEvent(name string) (any, error) {
	e, ok := d.events[name]
	if !ok {
		return nil, fmt.Errorf("%w: %s has no event %q", ErrUnknownEvent, d.name, name)
	}
	return e.shape.sample(), nil
}

// SampleCommand is SampleEvent for commands.
func (d *Definition) SampleCommand(name string) (any, error) {
	c, ok := d.commands[name]
	if !ok {
		return nil, fmt.Errorf("%w: %s has no command %q", ErrUnknownCommand, d.name, name)
	}
	return c.shape.sample(), nil
}

func (s *shape) sample() any {
	v := reflect.New(s.typ).Elem()
	s.fill(v, map[*shape]bool{})
	return v.Interface()
}

// fill sets a value and everything in it. A recursive type ends where it
// comes round again.
func (s *shape) fill(v reflect.Value, open map[*shape]bool) {
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
		// Others stay zero: nobody but the type itself knows its values.
	}
}
