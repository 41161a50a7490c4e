package batch

import (
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// pending is a unit whose caller waits.
type pending struct {
	unit    *stored.Unit
	replied atomic.Bool
	outcome chan outcome
}

type outcome struct {
	appended eventstore.Appended
	err      error
}

// reply gives the caller its outcome. Only the first call has an effect.
func (p *pending) reply(o outcome) {
	if p.replied.CompareAndSwap(false, true) {
		p.outcome <- o
	}
}

func reject(batch []*pending, err error) {
	for _, p := range batch {
		p.reply(outcome{err: err})
	}
}

// queue holds the units for the next batches.
type queue struct {
	room *semaphore.Weighted // bytes, up to MaxWaiting
	wake chan struct{}       // holds a token if run may have work

	mu      sync.Mutex
	waiting []*pending
	probing bool // an empty batch was requested
	closed  bool
}

func newQueue() *queue {
	return &queue{room: semaphore.NewWeighted(MaxWaiting), wake: make(chan struct{}, 1)}
}

// add returns eventstore.ErrClosed if the queue is closed.
func (q *queue) add(p *pending) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return eventstore.ErrClosed
	}
	q.waiting = append(q.waiting, p)
	q.signal()
	return nil
}

// probe requests a batch, even an empty one.
func (q *queue) probe() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.probing = true
	q.signal()
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// withdraw removes p. It returns false if p is in flight or has its outcome.
func (q *queue) withdraw(p *pending) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, other := range q.waiting {
		if other == p {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// take removes the next batch. A unit that does not fit holds back the later
// units of its stream, but no others. The batch is empty if only a probe was
// requested; send reports whether there is anything to send.
func (q *queue) take() (batch []*pending, send bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, false
	}
	var (
		kept     []*pending
		streams  = make(map[eventstore.StreamID]struct{}, min(len(q.waiting), MaxCommands))
		commands int
		bytes    int
	)
	for i, p := range q.waiting {
		if commands == MaxCommands {
			kept = append(kept, q.waiting[i:]...)
			break
		}
		_, held := streams[p.unit.Stream]
		streams[p.unit.Stream] = struct{}{}
		n := len(p.unit.Rows)
		if held || commands+n > MaxCommands || len(batch) > 0 && bytes+p.unit.Bytes > MaxBytes {
			kept = append(kept, p)
			continue
		}
		batch = append(batch, p)
		commands += n
		bytes += p.unit.Bytes
	}
	q.waiting = kept
	send = len(batch) > 0 || q.probing
	q.probing = false
	return batch, send
}

// drain removes all units.
func (q *queue) drain() []*pending {
	q.mu.Lock()
	defer q.mu.Unlock()
	units := q.waiting
	q.waiting = nil
	return units
}

// close makes add fail and take return nothing. It reports whether this was
// the first call.
func (q *queue) close() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	first := !q.closed
	q.closed = true
	return first
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

// wanted reports whether a batch is wanted, of units or as a probe.
func (q *queue) wanted() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting) > 0 || q.probing
}

// gather yields to callers that have just received an outcome and may add
// their next unit: that makes the batch fuller. It yields until no more units
// arrive. One yield is not enough for hundreds of callers, because the
// scheduler serves its global queue only after 61 other goroutines.
func (q *queue) gather() {
	for waiting := -1; ; {
		runtime.Gosched()
		now := q.len()
		if now == waiting || now >= MaxCommands {
			return
		}
		waiting = now
	}
}
