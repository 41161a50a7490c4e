package processor

import (
	"context"
	"errors"
	"sort"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// refused returns the *fault of a batch whose rows the database refuses: a row, and
// the first event that makes it one that the database refuses. It finds them by
// trying halves of the rows, and then of the row's events; nothing is stored.
func (s *segment) refused(ctx context.Context, p *prepared, batch rows.Batch) error {
	list := batch.Rows
	for len(list) > 1 {
		half := len(list) / 2
		reason, err := s.try(ctx, batch, list[:half]...)
		switch {
		case err != nil:
			return err
		case reason != nil:
			list = list[:half]
		default:
			list = list[half:]
		}
	}
	if len(list) == 0 {
		return errors.New("the database refuses a batch without rows")
	}
	return s.refusedEvent(ctx, p, batch, list[0])
}

// try reports why the database refuses rows, nil if it does not. The error is that
// of the attempt.
func (s *segment) try(ctx context.Context, batch rows.Batch, list ...rows.Row) (reason *rows.InvalidError, err error) {
	batch.Rows, batch.Block, batch.Commands = list, nil, nil
	err = s.table.Try(ctx, batch)
	if errors.As(err, &reason) {
		return reason, nil
	}
	return nil, err
}

// refusedEvent finds the event after which the database refuses a row.
func (s *segment) refusedEvent(ctx context.Context, p *prepared, batch rows.Batch, row rows.Row) (err error) {
	var own []step
	for _, st := range p.steps {
		if st.effect.key == row.Key {
			own = append(own, st)
		}
	}
	var reason *rows.InvalidError
	first := sort.Search(len(own)-1, func(n int) bool {
		if err != nil {
			return true
		}
		var found *rows.InvalidError
		if found, err = s.tryFirst(ctx, batch, own[:n+1]); found != nil {
			reason = found
		}
		return found != nil
	})
	if err == nil && reason == nil {
		reason, err = s.try(ctx, batch, row)
	}
	switch {
	case err != nil:
		return err
	case reason == nil:
		return errors.New("the database refuses a batch, but none of its rows alone")
	}
	return &fault{row.Key, eventstore.Position(own[first].at.Position), reason}
}

// tryFirst tries a row as its first events make it.
func (s *segment) tryFirst(ctx context.Context, batch rows.Batch, steps []step) (*rows.InvalidError, error) {
	present, err := s.load(ctx, steps, nil)
	if err != nil {
		return nil, err
	}
	defer s.forget() // a cached row then has these events only
	if _, err := s.apply(steps, present); err != nil {
		return nil, err
	}
	list, err := s.stored(steps, present)
	var unfit *fault
	if errors.As(err, &unfit) {
		return &rows.InvalidError{Reason: unfit.err.Error()}, nil
	}
	if err != nil {
		return nil, err
	}
	return s.try(ctx, batch, list...)
}
