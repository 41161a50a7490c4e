package processor

import (
	"context"
	"time"
)

const (
	// manyAppends is the number of pending appends from which processors give way:
	// the database is then always busy with the batch before.
	manyAppends = 16
	// restTimes is how long processors then rest after a batch, in times of the
	// batch's duration, and maxRest bounds it. All processors of a node then use
	// the database for a fifth of the time.
	restTimes = 4
	maxRest   = 200 * time.Millisecond
	// restCheck is how often a rest looks whether it may end.
	restCheck = 5 * time.Millisecond
)

// A Throttle makes the processors of a node give way to appends. While many
// appends wait for the database, the segments take turns, batch by batch, and rest
// after each. Batches grow meanwhile, so the rows fall behind less than the time
// suggests. It is safe for concurrent use; nil never throttles.
type Throttle struct {
	appending func() int
	turn      chan struct{} // has room for the segment whose turn it is
}

// NewThrottle returns a throttle that asks for the number of pending appends. It
// is nil if appending is.
func NewThrottle(appending func() int) *Throttle {
	if appending == nil {
		return nil
	}
	return &Throttle{appending: appending, turn: make(chan struct{}, 1)}
}

func (t *Throttle) isBusy() bool { return t != nil && IsBusy(t.appending()) }

// IsBusy reports whether a number of pending appends is that of a busy database.
func IsBusy(appending int) bool { return appending >= manyAppends }

// do runs a batch, and returns when the next may begin. It does not run the batch
// if ctx ends first.
func (t *Throttle) do(ctx context.Context, batch func()) {
	if !t.isBusy() {
		batch()
		return
	}
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return
	}
	began := time.Now()
	batch()
	end := time.Now().Add(min(restTimes*time.Since(began), maxRest))
	for t.isBusy() {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		select {
		case <-time.After(min(left, restCheck)):
		case <-ctx.Done():
			return
		}
	}
}
