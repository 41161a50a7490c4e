package query

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/internal/shape"
	"github.com/ganglion-es/ganglion/domain/projection"
)

// WithRows gives a scenario of a [Func] the rows of a projection, by key.
func WithRows[R any](from *projection.Projection[R], rows map[string]R) Table {
	t := Table{of: from.Definition, keyed: map[string]any{}}
	for key, row := range rows {
		t.keyed[key] = &row
	}
	return t
}

// WithState gives a scenario of a [Func] the state of a projection in memory.
func WithState[S any](from *projection.InMemory[S], state S) Table {
	return Table{of: from.MemoryDefinition, state: &state}
}

// Gives completes the scenario of a [Func]: the answer as JSON.
func (s Scenario[Q]) Gives(answer string) Scenario[Q] {
	s.outcome, s.answer = given, answer
	return s
}

// Rejects completes the scenario of a [Func]: it returns a rejection with this
// code.
func (s Scenario[Q]) Rejects(code string) Scenario[Q] {
	s.outcome, s.answer = rejected, code
	return s
}

// tables implements Reader for a scenario. Projections of which the scenario says
// nothing are empty.
type tables []Table

// ReadMemory implements [projection.Memories].
func (t tables) ReadMemory(d *projection.MemoryDefinition, read func(state any, position uint64)) error {
	for _, one := range t {
		if one.of == aggregate.Model(d) {
			read(one.state, 1)
			return nil
		}
	}
	read(d.NewState(), 0)
	return nil
}

func (t tables) rows(of *projection.Definition) map[string]any {
	for _, one := range t {
		if one.of == aggregate.Model(of) {
			return one.keyed
		}
	}
	return nil
}

// LoadRows implements Reader.
func (t tables) LoadRows(_ context.Context, from *projection.Definition, keys []string) (list []Row, err error) {
	all := t.rows(from)
	for _, key := range keys {
		if row, ok := all[key]; ok {
			data, err := from.EncodeRow(row)
			if err != nil {
				return nil, err
			}
			list = append(list, Row{Key: key, Data: data})
		}
	}
	return list, nil
}

// AskRows implements Reader. It fails for a question that no index serves.
func (t tables) AskRows(ctx context.Context, from *projection.Definition, q Question, after *Row) ([]Row, error) {
	if !q.covered(indexesOf(from)) {
		return nil, notCovered(from)
	}
	ranks := map[string]string{}
	first := ""
	if after != nil {
		first = Rank(q.Order, after.Key, after.Values)
	}
	for key, row := range t.rows(from) {
		values, err := from.Values(row)
		if err != nil {
			return nil, fmt.Errorf("row %s: %w", key, err)
		}
		if rank := Rank(q.Order, key, values); q.Filter.Matches(key, values) && (after == nil || rank > first) {
			ranks[key] = rank
		}
	}
	keys := slices.SortedFunc(maps.Keys(ranks), func(a, b string) int { return cmp.Compare(ranks[a], ranks[b]) })
	return t.LoadRows(ctx, from, keys[:min(len(keys), q.Limit)])
}

// runFunc runs a scenario of a Func.
func (s Scenario[Q]) runFunc(d *Definition, data []byte) error {
	for _, t := range s.tables {
		if !slices.Contains(d.sources, t.of) {
			return errors.New("the scenario has rows or a state of what From does not name: use WithRows and WithState with projections of From")
		}
	}
	got, err := d.Answer(context.Background(), s.call, data, s.tables)
	if s.outcome == rejected {
		if r, ok := errors.AsType[*aggregate.Rejection](err); !ok || r.Code != s.answer {
			return fmt.Errorf("the query should be rejected with %q, but the answer is %s, %v", s.answer, got, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	return shape.CheckEqual(s.answer, got)
}

func notCovered(from *projection.Definition) error {
	var lists []string
	for _, index := range from.Indexes() {
		lists = append(lists, strings.Join(index, " "))
	}
	return fmt.Errorf("no index of projection %q serves this question, so that every row would be read: add one that begins with "+
		"the columns that are compared for equality, followed by the order or a range; it has %q", from.Name(), lists)
}
