package batch

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// patience decides when callers stop waiting for the database, and rejects
// units until it answers again.
type patience struct {
	limit time.Duration // 0 is unlimited
	queue *queue

	mu     sync.Mutex
	away   error           // why units are rejected; nil if they are accepted
	ctx    context.Context // cancelled while away is set
	cancel context.CancelFunc
}

func newPatience(limit time.Duration, q *queue) *patience {
	p := &patience{limit: limit, queue: q}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// admit adds a unit to the queue, unless the database is away.
func (p *patience) admit(unit *pending) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.away != nil {
		return p.away
	}
	return p.queue.add(unit)
}

func (p *patience) isAway() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.away != nil
}

func (p *patience) context() context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ctx
}

// unreachable rejects the queued units with the error of a failed connection. It
// reports whether the database is away. If so, new units are also rejected with
// err, because it says more than that the database does not answer.
func (p *patience) unreachable(err error) (away bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if away = p.away != nil; away {
		p.away = err
	}
	reject(p.queue.drain(), err)
	return away
}

// patienceSteps divides the limit of a countdown. At each step the countdown
// yields to all goroutines that are ready to run. If thousands of them wait for a
// processor, so does one whose reply has arrived, although the database is not
// away.
const patienceSteps = 10

// countdown rejects a batch and the queue if the database does not answer
// before it expires.
type countdown struct {
	patience *patience
	batch    []*pending
	state    state // of the batch
	timer    *time.Timer

	// Guarded by patience.mu.
	left    int // steps
	expired bool
	ended   bool
}

// start starts a countdown. It returns nil if patience is unlimited.
func (p *patience) start(batch []*pending, s state) *countdown {
	if p.limit == 0 {
		return nil
	}
	c := &countdown{patience: p, batch: batch, state: s, left: patienceSteps}
	p.mu.Lock() // step uses the timer
	defer p.mu.Unlock()
	c.timer = time.AfterFunc(p.limit/patienceSteps, c.step)
	return c
}

func (c *countdown) step() {
	runtime.Gosched()
	p := c.patience
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.ended {
		return
	}
	if c.left--; c.left > 0 {
		c.timer.Reset(p.limit / patienceSteps)
		return
	}
	c.expired = true
	if p.away == nil {
		p.cancel()
		p.away = fmt.Errorf("%w: it has not answered for %v", eventstore.ErrUnavailable, p.limit)
	}
	reject(c.batch, fmt.Errorf("%w: the database has not answered for %v", c.state.sentinel(), p.limit))
	reject(p.queue.drain(), p.away)
}

// end ends the countdown and reports whether it had expired. If answered is true,
// the database has answered, and units are accepted again. A second call and a
// call on nil have no effect.
func (c *countdown) end(answered bool) (expired bool) {
	if c == nil {
		return false
	}
	c.timer.Stop()
	p := c.patience
	p.mu.Lock()
	defer p.mu.Unlock()
	if !c.ended && answered && p.away != nil {
		p.away = nil
		p.ctx, p.cancel = context.WithCancel(context.Background())
	}
	c.ended = true
	return c.expired
}
