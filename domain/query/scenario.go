package query

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
)

// Scenarios are examples of what a query answers, by a name that reads as a
// sentence. They document it, and run as its tests.
type Scenarios[Q any] map[string]Scenario[Q]

// A Scenario is one example: asked this among these rows, the query answers
// with these.
type Scenario[Q any] struct {
	params  Q
	rows    []any
	tables  tables // of a Func
	call    Call
	answers []string
	answer  string // of a Func: the JSON, or the rejection's code
	outcome outcome
}

type outcome uint8

const (
	answered outcome = iota + 1
	forbidden
	given    // the answer of a Func
	rejected // by a Func
)

// A Table is what a scenario asks among: the rows of a projection, or the state
// of one in memory.
type Table struct {
	rows  []any           // of Among
	of    aggregate.Model // nil for Among
	keyed map[string]any
	state any
}

// Among returns the rows of a scenario. Each row's key is its number, from "1".
func Among[R any](rows ...R) Table {
	var t Table
	for i := range rows {
		t.rows = append(t.rows, &rows[i])
	}
	return t
}

// Ask begins a scenario: with [Among] for a [Rows], with any number of [WithRows]
// and [WithState] for a [Func].
func Ask[Q any](params Q, among ...Table) Scenario[Q] {
	s := Scenario[Q]{params: params}
	for _, t := range among {
		if t.of == nil {
			s.rows = append(s.rows, t.rows...)
		} else {
			s.tables = append(s.tables, t)
		}
	}
	return s
}

// By sets the client that sends the query.
//
// Defaults to an anonymous client.
func (s Scenario[Q]) By(client string) Scenario[Q] { s.call.Client = client; return s }

// Claiming gives the client's token these claims.
func (s Scenario[Q]) Claiming(claims map[string]any) Scenario[Q] { s.call.Claims = claims; return s }

// Answers completes the scenario: the rows with these keys, in this order.
func (s Scenario[Q]) Answers(keys ...string) Scenario[Q] {
	s.outcome, s.answers = answered, keys
	return s
}

// Forbid completes the scenario: the client may not ask.
func (s Scenario[Q]) Forbid() Scenario[Q] { s.outcome = forbidden; return s }

func (scenarios Scenarios[Q]) examples(d *Definition) (examples []aggregate.Example) {
	for _, name := range slices.Sorted(maps.Keys(scenarios)) {
		s := scenarios[name]
		examples = append(examples, aggregate.Example{Name: name, Run: func() error { return s.run(d) }})
	}
	return examples
}

func (s Scenario[Q]) run(d *Definition) error {
	ofFunc := s.outcome == given || s.outcome == rejected
	switch {
	case d.IsFunc() && (!ofFunc && s.outcome != forbidden || len(s.rows) > 0):
		return errors.New("the scenario is not complete: that of a Func has rows by WithRows, states by WithState, and ends with Gives, Rejects or Forbid")
	case !d.IsFunc() && (s.outcome == 0 || ofFunc || len(s.tables) > 0):
		return errors.New("the scenario is not complete: that of Rows has rows by Among, and ends with Answers or Forbid")
	}
	allowed := d.Allows(aggregate.Caller{Client: s.call.Client, Claims: s.call.Claims})
	switch {
	case s.outcome == forbidden && allowed:
		return fmt.Errorf("client %q should be forbidden to ask, but is allowed to", s.call.Client)
	case s.outcome == forbidden:
		return nil
	case !allowed:
		return fmt.Errorf("client %q is forbidden to ask: name the client with By", s.call.Client)
	}
	data, err := json.Marshal(s.params)
	if err != nil {
		return err
	}
	if _, err := d.Check(data); err != nil {
		return fmt.Errorf("no client could send these parameters: %w", err)
	}
	if d.IsFunc() {
		return s.runFunc(d, data)
	}
	question, err := d.Question(s.call, data)
	if err != nil {
		return err
	}
	got, err := s.keys(d, question)
	if err != nil {
		return err
	}
	if !slices.Equal(got, s.answers) {
		return fmt.Errorf("the answer should be the rows %q, but is %q", s.answers, got)
	}
	if !question.covered(indexesOf(d.from)) {
		return notCovered(d.from)
	}
	return nil
}

// keys returns the keys of the rows that answer the question.
func (s Scenario[Q]) keys(d *Definition, q Question) ([]string, error) {
	ranks := map[string]string{}
	for i, row := range s.rows {
		key := strconv.Itoa(i + 1)
		values, err := d.from.Values(row)
		if err != nil {
			return nil, fmt.Errorf("row %s: %w", key, err)
		}
		if q.Filter.Matches(key, values) {
			ranks[key] = Rank(q.Order, key, values)
		}
	}
	keys := slices.SortedFunc(maps.Keys(ranks), func(a, b string) int { return strings.Compare(ranks[a], ranks[b]) })
	return keys[:min(len(keys), q.Limit)], nil
}

// indexesOf returns the projection's indexes with columns by their numbers.
func indexesOf(p *projection.Definition) (indexes [][]int) {
	columns := p.Columns()
	for _, names := range p.Indexes() {
		var index []int
		for _, name := range names {
			for i, c := range columns {
				if c.Name == name {
					index = append(index, i)
				}
			}
		}
		indexes = append(indexes, index)
	}
	return indexes
}

// covered reports whether an index finds the rows without reading all of them,
// or reads them in order.
func (q Question) covered(indexes [][]int) bool {
	if q.Filter.Or && len(q.Filter.Filters) > 0 {
		return !slices.ContainsFunc(q.Filter.Filters, func(f Filter) bool { return !q.branchCovered(f, indexes) })
	}
	return q.branchCovered(q.Filter, indexes)
}

func (q Question) branchCovered(f Filter, indexes [][]int) bool {
	tests := f.Filters
	if f.Test != nil {
		tests = []Filter{f}
	}
	equal, ranged := map[int]bool{}, map[int]bool{}
	for _, g := range tests {
		switch {
		case g.Test == nil:
		case g.Test.Op == OneOf || g.Test.Op == IsAbsent:
			equal[g.Test.Column] = true
		default:
			ranged[g.Test.Column] = true
		}
	}
	if equal[-1] || len(tests) == 0 && len(q.Order) == 0 {
		return true // by key
	}
	return slices.ContainsFunc(indexes, func(index []int) bool {
		first := index[0]
		return equal[first] || ranged[first] || len(q.Order) > 0 && q.Order[0].Column == first
	})
}
