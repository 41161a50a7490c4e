package engine

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// Get returns an aggregate's public state, as of the newest commit that this
// host knows of. An unused aggregate is at version 0, with the view of the empty
// state. The error is a *command.Failure.
//
// A get compares the state with the log if it is strong, if AtLeast is past the
// cached state, or if the process has just resumed from a pause. Its result then
// includes every event that was stored before the call, and with AtLeast every
// event at or below that position. If the log has not reached the position, Get blocks
// until it does or the deadline passes.
func (h *Host) Get(ctx context.Context, g command.Get) (command.State, error) {
	h.counters.gets.Add(1)
	def, ok := h.catalog.Type(g.Stream.Type)
	if !ok {
		return command.State{}, command.UnknownType(g.Stream.Type).OnOtherNodes()
	}
	g.Strong = g.Strong || h.pauses.unnoticed()
	if !g.Strong {
		if v := h.cachedView(g.Stream, g.AtLeast); v != nil {
			return v.state(), nil
		}
	}
	if f := h.admitGet(); f != nil {
		return command.State{}, f
	}
	defer h.releaseGet()
	if !g.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, g.Deadline)
		defer cancel()
	}
	v, f := h.loadView(ctx, def, g)
	if f != nil {
		return command.State{}, f
	}
	return v.state(), nil
}

// loadView returns the view for a get that the cached view does not satisfy.
func (h *Host) loadView(ctx context.Context, def *aggregate.Definition, g command.Get) (*view, *command.Failure) {
	var need eventstore.Version
	if g.Strong || g.AtLeast > 0 {
		head, err := h.headAt(ctx, g.Stream, g.AtLeast)
		if err != nil {
			return nil, h.getFailure(g.Stream, err)
		}
		need = head.Version
	}
	done := make(chan readResult, 1)
	v, f := h.enqueueRead(def, g.Stream, &read{ctx: ctx, need: need, done: done})
	if v != nil || f != nil {
		return v, f
	}
	select {
	case r := <-done:
		return r.view, r.failure
	case <-ctx.Done():
		return nil, h.getFailure(g.Stream, ctx.Err())
	}
}

// cachedView returns the view in memory, if no newer version is known and it is
// at or past a position.
func (h *Host) cachedView(s eventstore.StreamID, atLeast eventstore.Position) *view {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, ok := h.cache.cells[s]
	if !ok || h.pending.draining || h.pending.closed {
		return nil
	}
	v := c.cached.view
	if v == nil || v.version < c.known || v.position < atLeast {
		return nil
	}
	h.cache.touch(c)
	h.counters.hits.Add(1)
	return v
}

// admitGet counts a get that the cached view does not satisfy as pending, until
// releaseGet.
func (h *Host) admitGet() *command.Failure {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.pending.refusal(0); f != nil {
		return h.countBusy(f)
	}
	h.pending.add(1, 0)
	return nil
}

func (h *Host) releaseGet() {
	h.mu.Lock()
	h.pending.add(-1, 0)
	h.mu.Unlock()
}

// headAt returns the head of a stream once the log has reached a position.
func (h *Host) headAt(ctx context.Context, s eventstore.StreamID, p eventstore.Position) (eventstore.Head, error) {
	if err := h.tip.wait(ctx, p, h.store.Head); err != nil {
		return eventstore.Head{}, fmt.Errorf("wait for position %d: %w", p, err)
	}
	head, err := h.store.StreamHead(ctx, s)
	if err != nil {
		return eventstore.Head{}, fmt.Errorf("read the stream's head: %w", err)
	}
	return head, nil
}

// read is a get that waits for a cell's worker.
type read struct {
	ctx  context.Context    // ends when the caller has left
	need eventstore.Version // the result must not be older
	done chan<- readResult  // buffered, so that the worker does not block
}

type readResult struct {
	view    *view
	failure *command.Failure
}

// abandoned reports whether the caller has left.
func (r *read) abandoned() bool { return r.ctx.Err() != nil }

// whileWanted returns a context that ends when the callers of all reads have
// left, and when parent ends. stop releases it.
func whileWanted(parent context.Context, reads []*read) (ctx context.Context, stop func()) {
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

// enqueueRead returns the view in memory if it satisfies the read. Otherwise it
// puts the read into its aggregate's mailbox, or returns the refusal.
func (h *Host) enqueueRead(def *aggregate.Definition, s eventstore.StreamID, r *read) (*view, *command.Failure) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pending.draining || h.pending.closed {
		return nil, leaving()
	}
	c, f := h.cell(def, s)
	if f != nil {
		return nil, f
	}
	if v := c.cached.view; v != nil && v.version >= max(r.need, c.known) {
		h.cache.touch(c)
		h.counters.hits.Add(1)
		return v, nil
	}
	if len(c.mailbox.reads) >= h.config.MailboxCommands {
		return nil, h.countBusy(command.Busy("the queue of gets of %s is full", s))
	}
	c.known = max(c.known, r.need)
	c.mailbox.reads = append(c.mailbox.reads, r)
	h.ensureWorker(c)
	return nil, nil
}

// replyToReads replies from the state that was just loaded, or with the error of
// the load.
func (w worker) replyToReads(reads []*read, err error) {
	if len(reads) == 0 {
		return
	}
	var v *view
	var f *command.Failure
	if err != nil {
		f = w.host.getFailure(w.cell.stream, err)
	} else if v = w.render(); v == nil {
		f = command.Internal(command.RetryNo) // render has logged the error
	}
	for _, r := range reads {
		result := readResult{view: v, failure: f}
		if f == nil && v.version < r.need {
			result = readResult{failure: w.host.getFailure(w.cell.stream, eventstore.ErrWentBack)}
		}
		r.done <- result
	}
}

func (h *Host) getFailure(s eventstore.StreamID, err error) *command.Failure {
	f := h.failure(s, loading, err)
	if f.Code == command.CodeTimeout {
		f.Message = "the state could not be read before the deadline"
	}
	return f
}
