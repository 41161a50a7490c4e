package live

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sort"

	"github.com/ganglion-es/ganglion/domain/query"
)

// maxKeys bounds under how many combinations of equal values a question is found.
const maxKeys = 100

// An index finds the questions that a changed row can enter: by the values that
// they compare for equality, then by the bound of one range, then by the rank up
// to which their entries reach. What remains is compared by Filter.Matches. A
// condition is found by each of its alternatives.
//
// It belongs to its source.
type index struct {
	templates map[string]*template
	places    map[*question][]place
	scanned   int
}

// A template is what an alternative compares, without values.
type template struct {
	name   string
	equal  []int // columns, -1 for the key
	ranged int   // column of the range, noRange without one
	least  bool  // the range is "at least", not "at most"
	order  int   // of the questions, in which ranks compare

	buckets map[string]*bucket // by the equal values
}

const noRange = math.MinInt

// A place is where an index has a question.
type place struct {
	template *template
	bucket   *bucket
	bound    any // of the range, or nil
}

func newIndex() *index {
	return &index{templates: map[string]*template{}, places: map[*question][]place{}}
}

// scans returns how many questions are evaluated for every row within their
// reach.
func (x *index) scans() int { return x.scanned }

func (x *index) add(q *question) {
	alternatives, ok := alternativesOf(q.asked.Filter)
	if q.scan = !ok; q.scan {
		alternatives = []alternative{{ranged: noRange, keys: []string{""}}}
		x.scanned++
	}
	for _, a := range alternatives {
		t := x.template(a, q.order)
		for _, values := range a.keys {
			b := t.buckets[values]
			if b == nil {
				b = &bucket{values: values}
				t.buckets[values] = b
			}
			b.add(a.bound, q)
			x.places[q] = append(x.places[q], place{t, b, a.bound})
		}
	}
}

func (x *index) template(a alternative, order int) *template {
	name := fmt.Sprint(a.equal, a.ranged, a.least, order)
	t := x.templates[name]
	if t == nil {
		t = &template{name: name, equal: a.equal, ranged: a.ranged, least: a.least, order: order, buckets: map[string]*bucket{}}
		x.templates[name] = t
	}
	return t
}

func (x *index) remove(q *question) {
	for _, p := range x.places[q] {
		p.bucket.remove(p.bound, q)
		if len(p.bucket.slots) == 0 {
			delete(p.template.buckets, p.bucket.values)
		}
		if len(p.template.buckets) == 0 {
			delete(x.templates, p.template.name)
		}
	}
	if delete(x.places, q); q.scan {
		x.scanned--
	}
}

// reach tells the index up to which rank the entries of a question reach now. It
// may be late if that became lower.
func (x *index) reach(q *question) {
	for _, p := range x.places[q] {
		p.bucket.update(p.bound, q)
	}
}

// each calls visit for every question that the row may enter. visit must not
// change the index.
func (x *index) each(c *change, visit func(*question)) {
	var key []byte
	for _, t := range x.templates {
		key = key[:0]
		for _, column := range t.equal {
			key = appendValue(key, c.value(column))
		}
		b := t.buckets[string(key)]
		if b == nil {
			continue
		}
		from, to := 0, len(b.slots)
		if t.ranged != noRange {
			v := c.value(t.ranged)
			if v == nil {
				continue
			}
			if t.least {
				to = b.after(v)
			} else {
				from = b.at(v)
			}
		}
		b.within(from, to, c.rankOf(t.order, b), visit)
	}
}

// value returns the value of a column, -1 for the key.
func (c *change) value(column int) any {
	if column < 0 {
		return c.key
	}
	return c.values[column]
}

// rankOf returns the row's rank in the order of a bucket's questions.
func (c *change) rankOf(order int, b *bucket) string {
	if order < len(c.ranks) && c.ranks[order] != "" {
		return c.ranks[order]
	}
	return c.rank(b.slots[0].q)
}

// appendValue appends a value so that different values of a column differ.
func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case bool:
		if v {
			return append(b, 2)
		}
		return append(b, 1)
	case int64:
		return binary.BigEndian.AppendUint64(append(b, 3), uint64(v))
	case float64:
		return binary.BigEndian.AppendUint64(append(b, 4), math.Float64bits(v+0)) // -0 is 0
	case string:
		return append(binary.AppendUvarint(append(b, 5), uint64(len(v))), v...)
	}
	return append(b, 0)
}

// An alternative is one way to meet a condition.
type alternative struct {
	equal  []int
	keys   []string // combinations of equal values
	ranged int
	least  bool
	bound  any
}

// alternativesOf returns the alternatives of a condition, of which every row that
// meets it meets one. It reports false if one of them compares nothing that can be
// indexed.
func alternativesOf(f query.Filter) ([]alternative, bool) {
	if f.Or {
		var all []alternative
		for _, g := range f.Filters {
			some, ok := alternativesOf(g)
			if !ok {
				return nil, false
			}
			all = append(all, some...)
		}
		return all, true
	}
	tests := []query.Test{}
	if f.Test != nil {
		tests = append(tests, *f.Test)
	}
	for _, g := range f.Filters {
		if g.Test != nil {
			tests = append(tests, *g.Test)
		}
	}
	if a, ok := alternativeOf(tests); ok {
		return []alternative{a}, true
	}
	for _, g := range f.Filters {
		if g.Or {
			if all, ok := alternativesOf(g); ok {
				return all, true
			}
		}
	}
	return nil, false
}

// alternativeOf returns what tests, all of which must hold, compare. It reports
// false if that cannot be indexed.
func alternativeOf(tests []query.Test) (alternative, bool) {
	a := alternative{ranged: noRange, keys: []string{""}}
	sort.SliceStable(tests, func(i, j int) bool { return tests[i].Column < tests[j].Column })
	for _, t := range tests {
		switch t.Op {
		case query.OneOf, query.IsAbsent:
			values := t.Values
			if t.Op == query.IsAbsent {
				values = []any{nil}
			}
			if len(values)*len(a.keys) > maxKeys || slices.Contains(a.equal, t.Column) {
				continue
			}
			keys := []string{}
			for _, key := range a.keys {
				for _, v := range values {
					keys = append(keys, string(appendValue([]byte(key), v)))
				}
			}
			a.equal, a.keys = append(a.equal, t.Column), keys
		case query.GreaterEq, query.LessEq:
			if a.ranged == noRange {
				a.ranged, a.least, a.bound = t.Column, t.Op == query.GreaterEq, t.Values[0]
			}
		}
	}
	return a, len(a.equal) > 0 || a.ranged != noRange
}
