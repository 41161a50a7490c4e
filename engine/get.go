package engine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// Get answers with an aggregate's public state, as of the newest commit that
// this host knows of. The error is a *command.Failure.
//
// A strong get, one with AtLeast past what is cached, and any that comes right
// after a pause of the process, compares with the log first: its answer has every event that was stored before the call, and
// with AtLeast every event at or below that position. A get of a position
// that the log has not reached waits for it until the deadline.
//
// An unused aggregate is at version 0, with the view of the empty state.
func (h *Host) Get(ctx context.Context, g command.Get) (command.State, error) {
	h.counters.gets.Add(1)
	def, ok := h.catalog.Type(g.Stream.Type)
	if !ok {
		return command.State{}, unknownType(g.Stream.Type)
	}
	strong := g.Strong || h.woken()
	if !strong {
		if v := h.cachedView(g.Stream, g.AtLeast); v != nil {
			return v.state(), nil
		}
	}
	if f := h.admitRead(); f != nil {
		return command.State{}, f
	}
	defer h.readDone()
	if !g.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, g.Deadline)
		defer cancel()
	}
	var need eventstore.Version
	if strong || g.AtLeast > 0 {
		head, err := h.headPast(ctx, g.Stream, g.AtLeast)
		if err != nil {
			return command.State{}, h.getFailure(g.Stream, err)
		}
		need = head.Version
	}

	done := make(chan readResult, 1)
	v, f := h.ask(def, g.Stream, &read{ctx: ctx, need: need, done: done})
	if f != nil {
		return command.State{}, f
	}
	if v != nil {
		return v.state(), nil
	}
	select {
	case r := <-done:
		if r.failure != nil {
			return command.State{}, r.failure
		}
		return r.view.state(), nil
	case <-ctx.Done():
		return command.State{}, h.getFailure(g.Stream, ctx.Err())
	}
}

// ask answers a read from the view in memory, or puts it into its aggregate's
// mailbox, or says why not.
func (h *Host) ask(def *aggregate.Definition, s eventstore.StreamID, r *read) (*view, *command.Failure) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining || h.closed {
		return nil, leaving()
	}
	c, f := h.cell(def, s)
	if f != nil {
		return nil, f
	}
	if c.view != nil && c.view.version >= max(r.need, c.known) {
		h.idle.used(c)
		h.counters.hits.Add(1)
		return c.view, nil
	}
	if len(c.reads) >= h.config.MailboxCommands {
		h.counters.busy.Add(1)
		return nil, busy(s.String() + " has as many requests waiting as it takes")
	}
	c.known = max(c.known, r.need)
	c.reads = append(c.reads, r)
	h.start(c)
	return nil, nil
}

// admitRead counts a get that is not answered from memory, until readDone.
func (h *Host) admitRead() *command.Failure {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining || h.closed {
		return leaving()
	}
	if h.pending > 0 && h.pending >= h.config.PendingCommands {
		h.counters.busy.Add(1)
		return busy("this node has as many requests waiting as it takes")
	}
	h.pending++
	return nil
}

func (h *Host) readDone() {
	h.mu.Lock()
	h.pending--
	h.mu.Unlock()
}

// gone reports whether no caller waits for a read any more.
func (r *read) gone() bool { return r.ctx.Err() != nil }

// wanted returns a context that ends when the callers of all reads have gone,
// and when parent does. stop releases it.
func wanted(parent context.Context, reads []*read) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	var waiting atomic.Int64
	waiting.Store(int64(len(reads)))
	stops := make([]func() bool, len(reads))
	for i, r := range reads {
		stops[i] = context.AfterFunc(r.ctx, func() {
			if waiting.Add(-1) == 0 {
				cancel()
			}
		})
	}
	return ctx, func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
}

// cachedView returns the newest view in memory, if it is not known to be
// behind and is at or past a position.
func (h *Host) cachedView(s eventstore.StreamID, atLeast eventstore.Position) *view {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, ok := h.cells[s]
	if !ok || h.draining || h.closed || c.view == nil || c.view.version < c.known || c.view.position < atLeast {
		return nil
	}
	h.idle.used(c)
	h.counters.hits.Add(1)
	return c.view
}

// answer answers gets from the state as it was just loaded.
func (h *Host) answer(c *cell, reads []*read, err error) {
	if len(reads) == 0 {
		return
	}
	var v *view
	var f *command.Failure
	if err != nil {
		f = h.getFailure(c.stream, err)
	} else if v = h.render(c); v == nil {
		f = internal() // render has logged why
	}
	for _, r := range reads {
		result := readResult{view: v, failure: f}
		if f == nil && v.version < r.need {
			result = readResult{failure: h.getFailure(c.stream, eventstore.ErrWentBack)}
		}
		r.done <- result
	}
}

func (h *Host) getFailure(s eventstore.StreamID, err error) *command.Failure {
	f := h.failure(s, "reading the aggregate", err)
	if f.Code == command.Timeout {
		f.Message = "the state could not be read in time"
	}
	return f
}

// headPast returns the head of a stream, as of a log that has reached a
// position.
func (h *Host) headPast(ctx context.Context, s eventstore.StreamID, p eventstore.Position) (eventstore.Head, error) {
	if err := h.tip.reach(ctx, p, h.store.Head); err != nil {
		return eventstore.Head{}, fmt.Errorf("wait for position %d: %w", p, err)
	}
	head, err := h.store.StreamHead(ctx, s)
	if err != nil {
		return eventstore.Head{}, fmt.Errorf("read the stream's head: %w", err)
	}
	return head, nil
}

// tip is the newest position that the host knows the log to have, and lets
// gets wait for a later one.
type tip struct {
	position atomic.Uint64
	waiting  atomic.Int64

	mu     sync.Mutex
	moved  chan struct{} // closed when position rises
	asking bool          // somebody asks the log for its head
	asked  time.Time
}

// askEvery is how often a get that waits for a position looks whether it is
// its turn to ask the log for its head. All that wait share what one is told,
// and no two ask within half of that. As a rule the feed tells of it sooner.
const askEvery = 50 * time.Millisecond

func (t *tip) init() { t.moved = make(chan struct{}) }

// saw says that the log has reached a position.
func (t *tip) saw(p eventstore.Position) {
	for {
		old := t.position.Load()
		if uint64(p) <= old {
			return
		}
		if t.position.CompareAndSwap(old, uint64(p)) {
			break
		}
	}
	// Whoever waits has counted itself before it looked at position.
	if t.waiting.Load() > 0 {
		t.mu.Lock()
		close(t.moved)
		t.moved = make(chan struct{})
		t.mu.Unlock()
	}
}

func (t *tip) reset() { t.position.Store(0) }

// reach returns once the log has reached a position, by what saw was told or
// by asking for its head.
func (t *tip) reach(ctx context.Context, p eventstore.Position, head func(context.Context) (eventstore.Position, error)) error {
	if t.position.Load() >= uint64(p) {
		return nil
	}
	t.waiting.Add(1)
	defer t.waiting.Add(-1)
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for {
		t.mu.Lock()
		moved := t.moved
		turn := !t.asking && time.Since(t.asked) >= askEvery/2
		if turn {
			t.asking, t.asked = true, time.Now()
		}
		t.mu.Unlock()
		if turn {
			newest, err := head(ctx)
			t.mu.Lock()
			t.asking = false
			t.mu.Unlock()
			if err != nil {
				return err
			}
			t.saw(newest)
		}
		if t.position.Load() >= uint64(p) {
			return nil
		}
		select {
		case <-moved:
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
