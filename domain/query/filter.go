package query

import (
	"cmp"
	"slices"
	"strings"
)

// Matches reports whether the filter holds for a row: its key, and its values
// in the order of the projection's columns. It is safe for concurrent use.
func (f Filter) Matches(key string, values []any) bool {
	switch {
	case f.Test != nil:
		return f.Test.matches(key, values)
	case f.Or:
		return slices.ContainsFunc(f.Filters, func(g Filter) bool { return g.Matches(key, values) })
	}
	for _, g := range f.Filters {
		if !g.Matches(key, values) {
			return false
		}
	}
	return true
}

func (t *Test) matches(key string, values []any) bool {
	var v any = key
	if t.Column >= 0 {
		v = values[t.Column]
	}
	if v == nil {
		return t.Op == IsAbsent
	}
	switch t.Op {
	case OneOf:
		_, ok := slices.BinarySearchFunc(t.Values, v, compare)
		return ok
	case GreaterEq:
		return compare(v, t.Values[0]) >= 0
	case LessEq:
		return compare(v, t.Values[0]) <= 0
	case BeginsWith:
		return strings.HasPrefix(v.(string), t.Values[0].(string))
	}
	return false // IsAbsent of a value that is there
}

// compare orders two values of one column. An absent value comes first, and
// false before true.
func compare(a, b any) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	}
	switch a := a.(type) {
	case int64:
		return cmp.Compare(a, b.(int64))
	case float64:
		return cmp.Compare(a, b.(float64))
	case string:
		return cmp.Compare(a, b.(string))
	case bool:
		return cmp.Compare(ordinal(a), ordinal(b.(bool)))
	}
	panic("query: a value of no column kind")
}

func ordinal(b bool) int {
	if b {
		return 1
	}
	return 0
}
