package groups

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
)

const (
	// maxBatch bounds the acknowledgements of one round trip.
	maxBatch = 1000
	// ackWithin bounds a round trip.
	ackWithin = 10 * time.Second
	// ackEvery is the time from the beginning of a round trip to that of the next.
	ackEvery = 100 * time.Millisecond
)

// acks writes acknowledgements. The first is written immediately. Any that arrive
// within ackEvery of it, or while a batch is in flight, form the next one, so that the
// load of the database does not grow with the rate of acknowledgements.
type acks struct {
	write func(context.Context, []groups.Ack) ([]error, error)

	mu      sync.Mutex
	waiting map[tenureKey]*ackCall
	order   []tenureKey
	writing bool
}

type tenureKey struct {
	group, segment string
	epoch          uint64
}

// An ackCall is what waits for one segment: the highest of its positions.
type ackCall struct {
	position eventstore.Position
	done     chan struct{}
	err      error // set before done is closed
}

func newAcks(write func(context.Context, []groups.Ack) ([]error, error)) *acks {
	return &acks{write: write, waiting: map[tenureKey]*ackCall{}}
}

// ack acknowledges the events of a segment up to a position, and waits for the outcome.
func (a *acks) ack(ctx context.Context, group, segment string, epoch uint64, p eventstore.Position) error {
	key := tenureKey{group, segment, epoch}
	a.mu.Lock()
	c := a.waiting[key]
	if c == nil {
		c = &ackCall{done: make(chan struct{})}
		a.waiting[key] = c
		a.order = append(a.order, key)
	}
	c.position = max(c.position, p)
	if !a.writing {
		a.writing = true
		go a.flush()
	}
	a.mu.Unlock()
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return fmt.Errorf("groups: acknowledge: %w", context.Cause(ctx))
	}
}

// flush writes batches until none waits.
func (a *acks) flush() {
	for {
		calls, batch := a.next()
		if len(batch) == 0 {
			return
		}
		next := time.Now().Add(ackEvery)
		ctx, cancel := context.WithTimeout(context.Background(), ackWithin)
		errs, err := a.write(ctx, batch)
		cancel()
		for i, c := range calls {
			if c.err = err; err == nil {
				c.err = errs[i]
			}
			close(c.done)
		}
		time.Sleep(time.Until(next))
	}
}

// next takes the next batch.
func (a *acks) next() (calls []*ackCall, batch []groups.Ack) {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := min(len(a.order), maxBatch)
	for _, key := range a.order[:n] {
		c := a.waiting[key]
		delete(a.waiting, key)
		calls = append(calls, c)
		batch = append(batch, groups.Ack{Group: key.group, Segment: key.segment, Epoch: key.epoch, Position: c.position})
	}
	a.order = append([]tenureKey(nil), a.order[n:]...)
	a.writing = n > 0
	return calls, batch
}
