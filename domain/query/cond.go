package query

import (
	"fmt"
	"slices"
	"strings"

	"github.com/ganglion-es/ganglion/domain/projection"
)

// A Cond is a condition on a row. Its zero value holds for every row.
//
// A comparison with an absent value is false, except [Absent]. Text compares by
// bytes, times at microseconds.
type Cond struct {
	op     op
	column string
	values []any
	conds  []Cond
	off    bool
}

type op uint8

const (
	always op = iota
	all
	anyOf
	is       // the column is one of values
	absent   // the column has no value
	atLeast  // the column is at least values[0]
	atMost   // the column is at most values[0]
	prefixed // the text begins with values[0]
	keyed    // the row's key is one of values
)

// Is holds for rows whose column has this value.
func Is(column string, value any) Cond { return Cond{op: is, column: column, values: []any{value}} }

// In holds for rows whose column has one of these values.
func In[V any](column string, values ...V) Cond {
	c := Cond{op: is, column: column}
	for _, v := range values {
		c.values = append(c.values, v)
	}
	return c
}

// Absent holds for rows whose column has no value.
func Absent(column string) Cond { return Cond{op: absent, column: column} }

// AtLeast holds for rows whose column is this value or greater.
func AtLeast(column string, value any) Cond {
	return Cond{op: atLeast, column: column, values: []any{value}}
}

// AtMost holds for rows whose column is this value or less.
func AtMost(column string, value any) Cond {
	return Cond{op: atMost, column: column, values: []any{value}}
}

// Between holds for rows whose column is from least to most, both included.
func Between(column string, least, most any) Cond {
	return All(AtLeast(column, least), AtMost(column, most))
}

// Prefix holds for rows whose text column begins with this text.
func Prefix(column, text string) Cond {
	return Cond{op: prefixed, column: column, values: []any{text}}
}

// Key holds for the rows with one of these keys.
func Key(keys ...string) Cond {
	c := Cond{op: keyed}
	for _, k := range keys {
		c.values = append(c.values, k)
	}
	return c
}

// All holds for rows for which every condition holds.
func All(conds ...Cond) Cond { return Cond{op: all, conds: conds} }

// Any holds for rows for which at least one of the conditions holds. It has at
// most 8.
func Any(conds ...Cond) Cond { return Cond{op: anyOf, conds: conds} }

// If returns the condition, or one that holds for every row if the argument is
// false. Its columns are checked either way.
func (c Cond) If(on bool) Cond {
	c.off = c.off || !on
	return c
}

// Bounds of conditions: a condition is evaluated for each changed row.
const (
	maxAny    = 8   // branches of one Any
	maxValues = 100 // values of one In
	maxLeaves = 32  // comparisons in all
)

// A Test is one comparison of a compiled condition, in which every value has
// the form that the column's kind prescribes.
type Test struct {
	Op     Op
	Column int // index in the projection's columns; -1 for the row's key
	Values []any
}

// Op is how a [Test] compares.
type Op uint8

// The comparisons. All but IsAbsent are false for an absent value.
const (
	OneOf      Op = iota + 1 // equals one of Values
	IsAbsent                 // has no value
	GreaterEq                // >= Values[0]
	LessEq                   // <= Values[0]
	BeginsWith               // text that begins with Values[0]
)

// A Filter is a compiled condition. A leaf has a Test; other filters have
// Filters, of which every one must hold, or with Or at least one. A filter with
// neither holds for every row.
type Filter struct {
	Test    *Test
	Or      bool
	Filters []Filter
}

// compile turns a condition into a filter. With every, conditions that are
// switched off are compiled too, to check their columns.
func (c Cond) compile(columns []projection.Column, every bool) (Filter, error) {
	leaves := 0
	f, err := c.filter(columns, every, &leaves)
	if err == nil && leaves > maxLeaves {
		err = fmt.Errorf("the condition has %d comparisons, at most %d are allowed", leaves, maxLeaves)
	}
	return f, err
}

func (c Cond) filter(columns []projection.Column, every bool, leaves *int) (Filter, error) {
	if c.off && !every {
		return Filter{}, nil
	}
	switch c.op {
	case always:
		return Filter{}, nil
	case all, anyOf:
		return c.combine(columns, every, leaves)
	}
	*leaves++
	t, err := c.test(columns)
	if err != nil {
		return Filter{}, err
	}
	return Filter{Test: t}, nil
}

func (c Cond) combine(columns []projection.Column, every bool, leaves *int) (Filter, error) {
	if c.op == anyOf && len(c.conds) > maxAny {
		return Filter{}, fmt.Errorf("Any has %d conditions, at most %d are allowed", len(c.conds), maxAny)
	}
	f := Filter{Or: c.op == anyOf}
	open := false // a branch holds for every row
	for _, inner := range c.conds {
		g, err := inner.filter(columns, every, leaves)
		if err != nil {
			return Filter{}, err
		}
		switch {
		case g.always():
			open = true
		case g.Test == nil && g.Or == f.Or:
			f.Filters = append(f.Filters, g.Filters...)
		default:
			f.Filters = append(f.Filters, g)
		}
	}
	switch {
	case c.op == anyOf && open:
		return Filter{}, nil
	case c.op == anyOf && len(f.Filters) == 0:
		return Filter{Or: true, Filters: []Filter{}}, nil // Any() of nothing holds for no row
	case len(f.Filters) == 1:
		return f.Filters[0], nil
	case len(f.Filters) == 0:
		return Filter{}, nil
	}
	return f, nil
}

// always reports whether the filter holds for every row.
func (f Filter) always() bool { return f.Test == nil && f.Filters == nil }

func (c Cond) test(columns []projection.Column) (*Test, error) {
	if c.op == keyed {
		return keyTest(c.values)
	}
	i := slices.IndexFunc(columns, func(col projection.Column) bool { return col.Name == c.column })
	if i < 0 {
		names := make([]string, len(columns))
		for i, col := range columns {
			names[i] = col.Name
		}
		return nil, fmt.Errorf("%q is not a column: name it in an index of the projection; its columns are %s", c.column, strings.Join(names, ", "))
	}
	t := &Test{Column: i, Op: [...]Op{is: OneOf, absent: IsAbsent, atLeast: GreaterEq, atMost: LessEq, prefixed: BeginsWith}[c.op]}
	col := columns[i]
	switch {
	case t.Op == BeginsWith && col.Kind != projection.Text:
		return nil, fmt.Errorf("Prefix needs a text column, and %q is of kind %s", c.column, col.Kind)
	case t.Op == IsAbsent && !col.Nullable:
		return nil, fmt.Errorf("column %q is never absent: its member is not a pointer", c.column)
	case len(c.values) > maxValues:
		return nil, fmt.Errorf("In has %d values, at most %d are allowed", len(c.values), maxValues)
	}
	for _, v := range c.values {
		value, err := col.Value(v)
		if err != nil {
			return nil, err
		}
		if value == nil {
			return nil, fmt.Errorf("column %q is compared with an absent value: use Absent, or If to leave the comparison out", c.column)
		}
		t.Values = append(t.Values, value)
	}
	slices.SortFunc(t.Values, compare)
	t.Values = slices.Compact(t.Values)
	return t, nil
}

func keyTest(keys []any) (*Test, error) {
	if len(keys) > maxValues {
		return nil, fmt.Errorf("Key has %d keys, at most %d are allowed", len(keys), maxValues)
	}
	keys = slices.Clone(keys)
	slices.SortFunc(keys, compare)
	return &Test{Op: OneOf, Column: -1, Values: slices.Compact(keys)}, nil
}
