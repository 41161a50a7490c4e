package engine

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// tip is the newest position of the log that the host knows of. Gets wait for it
// to reach a later position.
type tip struct {
	position atomic.Uint64
	waiting  atomic.Int64

	mu      sync.Mutex
	changed chan struct{} // closed when position rises
	polling bool          // a get is asking the log for its head
	polled  time.Time     // when a get last began to ask
}

// pollEvery is the interval at which a waiting get checks whether to ask the log
// for its head. All waiting gets share the result, and two requests are at least
// half of pollEvery apart. The feed usually advances the tip sooner.
const pollEvery = 50 * time.Millisecond

func (t *tip) init() { t.changed = make(chan struct{}) }

func (t *tip) reset() { t.position.Store(0) }

// advance records that the log has reached a position.
func (t *tip) advance(p eventstore.Position) {
	for {
		old := t.position.Load()
		if uint64(p) <= old {
			return
		}
		if t.position.CompareAndSwap(old, uint64(p)) {
			break
		}
	}
	// A waiting get increments waiting before it compares position, so it
	// either sees p or is counted here.
	if t.waiting.Load() > 0 {
		t.mu.Lock()
		close(t.changed)
		t.changed = make(chan struct{})
		t.mu.Unlock()
	}
}

// wait blocks until the log has reached a position, as advance or head reports.
func (t *tip) wait(ctx context.Context, p eventstore.Position, head func(context.Context) (eventstore.Position, error)) error {
	if t.position.Load() >= uint64(p) {
		return nil
	}
	t.waiting.Add(1)
	defer t.waiting.Add(-1)
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for {
		changed, poll := t.next()
		if poll {
			newest, err := head(ctx)
			t.polledHead()
			if err != nil {
				return err
			}
			t.advance(newest)
		}
		if t.position.Load() >= uint64(p) {
			return nil
		}
		select {
		case <-changed:
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// next returns the channel to wait on, and whether the caller must ask the log
// for its head and then call polledHead.
func (t *tip) next() (changed <-chan struct{}, poll bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	poll = !t.polling && time.Since(t.polled) >= pollEvery/2
	if poll {
		t.polling, t.polled = true, time.Now()
	}
	return t.changed, poll
}

func (t *tip) polledHead() {
	t.mu.Lock()
	t.polling = false
	t.mu.Unlock()
}
