package query

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"

	"github.com/ganglion-es/ganglion/domain/projection"
)

// A Reader is what a [Func] reads from: rows with [Get] and [Each], and states
// with [projection.InMemory.Read]. It belongs to the goroutine of one call.
type Reader interface {
	projection.Memories
	// LoadRows returns the rows of a projection with these keys, in no order.
	LoadRows(ctx context.Context, from *projection.Definition, keys []string) ([]Row, error)
	// AskRows returns the first rows that answer a question, after a row if it is
	// not nil.
	AskRows(ctx context.Context, from *projection.Definition, q Question, after *Row) ([]Row, error)
}

// A Row is a row of a projection as a Reader returns it.
type Row struct {
	Key  string
	Data json.RawMessage
	// Values are those of the columns. Only the row after which AskRows continues
	// needs them.
	Values []any
}

// A Keyed is a row with its key.
type Keyed[R any] struct {
	Key string
	Row R
}

// Get returns the row with a key, and whether there is one.
func Get[R any](ctx context.Context, db Reader, from *projection.Projection[R], key string) (row R, ok bool, err error) {
	list, err := db.LoadRows(ctx, from.Definition, []string{key})
	if err != nil || len(list) == 0 {
		return row, false, err
	}
	decoded, err := from.DecodeRow(list[0].Data)
	if err != nil {
		return row, false, err
	}
	return *decoded.(*R), true, nil
}

// Pages of Each: most callers look at few rows.
const (
	firstPage = 100
	nextPages = 1000
)

// Each returns the rows for which a condition holds, in the order of columns;
// "-price" sorts by price, the greatest first. The zero condition holds for every
// row. After an error the sequence ends.
func Each[R any](ctx context.Context, db Reader, from *projection.Projection[R], where Cond, order ...string) iter.Seq2[Keyed[R], error] {
	return func(yield func(Keyed[R], error) bool) {
		if err := each(ctx, db, from, where, order, func(r Keyed[R]) bool { return yield(r, nil) }); err != nil {
			yield(Keyed[R]{}, err)
		}
	}
}

func each[R any](ctx context.Context, db Reader, from *projection.Projection[R], where Cond, order []string, yield func(Keyed[R]) bool) error {
	q := Question{Limit: firstPage}
	var problems []error
	if q.Order, problems = orders(from.Definition, from.Columns(), order); len(problems) > 0 {
		return problems[0]
	}
	var err error
	if q.Filter, err = where.compile(from.Columns(), false); err != nil {
		return fmt.Errorf("the condition on projection %q: %w", from.Name(), err)
	}
	var after *Row
	for {
		list, err := db.AskRows(ctx, from.Definition, q, after)
		if err != nil {
			return err
		}
		for _, r := range list {
			row, err := from.DecodeRow(r.Data)
			if err != nil {
				return fmt.Errorf("row %q of projection %q: %w", r.Key, from.Name(), err)
			}
			if !yield(Keyed[R]{r.Key, *row.(*R)}) {
				return nil
			}
			after = &Row{Key: r.Key}
			if after.Values, err = from.Values(row); err != nil {
				return err
			}
		}
		if len(list) < q.Limit {
			return nil
		}
		q.Limit = nextPages
	}
}
