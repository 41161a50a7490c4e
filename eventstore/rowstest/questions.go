package rowstest

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// values are what the random rows and questions are made of: few, so that there
// are many ties, and odd, so that databases could disagree.
var values = [][]any{
	{nil, int64(-1), int64(0), int64(1_700_000_000_000_000)},
	{"", "a", "A", "ab", "b", "é", "z\u0301", "%", "a_", "\\", "'", "😀", "\uffff"},
	{nil, "", "x", "X", "x y", "xy"},
	{false, true},
	{int64(math.MinInt64), int64(-1), int64(0), int64(9_007_199_254_740_993), int64(math.MaxInt64)},
	{nil, -math.MaxFloat64, -0.5, 0.0, 0.1, math.SmallestNonzeroFloat64, math.MaxFloat64},
}

// testQuestions asks random questions about random rows, page by page, and
// compares the answers with those of the documentation's own rules.
func testQuestions(t *testing.T, s rows.Store) {
	random := rand.New(rand.NewPCG(7, 11))
	pick := func(of []any) any { return of[random.IntN(len(of))] }
	table := opened(t, s, spec("one"))
	var all []rows.Row
	for i := range 150 {
		r := rows.Row{Key: fmt.Sprintf("k%c%d", 'A'+i%40, i), Position: 1, Data: []byte(fmt.Sprint(i))}
		for _, of := range values {
			r.Values = append(r.Values, pick(of))
		}
		all = append(all, r)
	}
	write(t, table, rows.Batch{To: 1, Rows: all})
	for n := range 120 {
		q := rows.Question{Filter: randomFilter(random, 2), Limit: 5 + random.IntN(60)}
		for _, c := range random.Perm(len(values))[:random.IntN(3)] {
			q.Order = append(q.Order, rows.Order{Column: c, Descending: random.IntN(2) == 0})
		}
		want := expected(all, q)
		var got []string
		for {
			a, err := table.Ask(t.Context(), q)
			if err != nil {
				t.Fatalf("question %d, %s: %v", n, describe(q), err)
			}
			for _, r := range a.Rows {
				got = append(got, r.Key)
			}
			if len(a.Rows) < q.Limit {
				break
			}
			last := a.Rows[len(a.Rows)-1].Key
			q.After = &all[slices.IndexFunc(all, func(r rows.Row) bool { return r.Key == last })]
		}
		if !slices.Equal(got, want) {
			t.Fatalf("question %d, %s:\n got %v\nwant %v", n, describe(q), got, want)
		}
	}
}

func describe(q rows.Question) string {
	return fmt.Sprintf("filter %s, order %+v", filterText(q.Filter), q.Order)
}

func filterText(f rows.Filter) string {
	if f.Test != nil {
		return fmt.Sprintf("%+v", *f.Test)
	}
	var parts []string
	for _, g := range f.Filters {
		parts = append(parts, filterText(g))
	}
	return fmt.Sprintf("(or %v: %s)", f.Or, strings.Join(parts, "; "))
}

func randomFilter(random *rand.Rand, depth int) rows.Filter {
	if depth > 0 && random.IntN(2) == 0 {
		f := rows.Filter{Or: random.IntN(2) == 0}
		for range random.IntN(4) {
			f.Filters = append(f.Filters, randomFilter(random, depth-1))
		}
		return f
	}
	if random.IntN(20) == 0 {
		return rows.Filter{Test: &rows.Test{Op: rows.OneOf, Column: -1, Values: []any{"kA0", "kB1"}}}
	}
	c := random.IntN(len(values))
	present := slices.DeleteFunc(slices.Clone(values[c]), func(v any) bool { return v == nil })
	test := &rows.Test{Column: c, Values: []any{present[random.IntN(len(present))]}}
	switch random.IntN(5) {
	case 0:
		test.Op, test.Values = rows.OneOf, present[:random.IntN(len(present)+1)]
	case 1:
		test.Op = rows.GreaterEq
	case 2:
		test.Op = rows.LessEq
	case 3:
		test.Op, test.Values = rows.IsAbsent, nil
	default:
		test.Op = rows.OneOf
		if _, text := test.Values[0].(string); text {
			test.Op = rows.BeginsWith
		}
	}
	return rows.Filter{Test: test}
}

// expected returns the keys of all rows that answer a question, in its order.
func expected(all []rows.Row, q rows.Question) []string {
	var found []rows.Row
	for _, r := range all {
		if holds(q.Filter, r) {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b rows.Row) int {
		for _, o := range q.Order {
			d := compare(a.Values[o.Column], b.Values[o.Column])
			if o.Descending {
				d = -d
			}
			if d != 0 {
				return d
			}
		}
		return cmp.Compare(a.Key, b.Key)
	})
	var keys []string
	for _, r := range found {
		keys = append(keys, r.Key)
	}
	return keys
}

func holds(f rows.Filter, r rows.Row) bool {
	if f.Test == nil {
		for _, g := range f.Filters {
			if holds(g, r) == f.Or {
				return f.Or
			}
		}
		return !f.Or
	}
	t := f.Test
	var v any = r.Key
	if t.Column >= 0 {
		v = r.Values[t.Column]
	}
	if v == nil {
		return t.Op == rows.IsAbsent
	}
	switch t.Op {
	case rows.OneOf:
		return slices.Contains(t.Values, v)
	case rows.GreaterEq:
		return compare(v, t.Values[0]) >= 0
	case rows.LessEq:
		return compare(v, t.Values[0]) <= 0
	case rows.BeginsWith:
		return strings.HasPrefix(v.(string), t.Values[0].(string))
	}
	return false
}

// compare orders values of one column; an absent one comes first.
func compare(a, b any) int {
	if a == nil || b == nil {
		return cmp.Compare(present(a), present(b))
	}
	switch a := a.(type) {
	case int64:
		return cmp.Compare(a, b.(int64))
	case float64:
		return cmp.Compare(a, b.(float64))
	case string:
		return cmp.Compare(a, b.(string))
	}
	return cmp.Compare(number(a.(bool)), number(b.(bool)))
}

func present(v any) int { return number(v != nil) }

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

// testExtremes sorts by each column alone, both ways.
func testExtremes(t *testing.T, s rows.Store) {
	table := opened(t, s, spec("one"))
	var all []rows.Row
	for c, of := range values {
		for i, v := range of {
			r := row(fmt.Sprintf("%d-%02d", c, i), 0, 1, 0)
			r.Values[c] = v
			all = append(all, r)
		}
	}
	write(t, table, rows.Batch{To: 1, Rows: all})
	for c := range values {
		for _, descending := range []bool{false, true} {
			q := rows.Question{Order: []rows.Order{{Column: c, Descending: descending}}, Limit: len(all)}
			a, err := table.Ask(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, r := range a.Rows {
				got = append(got, r.Key)
			}
			if want := expected(all, q); !slices.Equal(got, want) {
				t.Errorf("by column %d, descending %v: got %v, want %v", c, descending, got, want)
			}
		}
	}
}
