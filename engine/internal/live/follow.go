package live

import (
	"context"
	"errors"
	"fmt"

	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// A Request is a question to follow.
type Request struct {
	Query   *query.Definition
	Asked   query.Question // Query, compiled
	AtLeast eventstore.Position
	Cursor  string
	// Wake is called when Next has parts again.
	Wake func()
}

// Follow begins a subscription. It blocks until the question is evaluated and
// shows AtLeast, or ctx ends. With a cursor that another gateway gave it also
// waits for a read of the changes, if that gateway has read more of them, and for
// the rows themselves, if a crash of the database has taken them back behind the
// cursor.
func (r *Registry) Follow(ctx context.Context, req Request) (*Follower, *command.Failure) {
	f := &Follower{registry: r, wake: req.Wake}
	f.mu.Lock()
	defer f.mu.Unlock()
	if failure := f.attach(ctx, req); failure != nil {
		return nil, failure
	}
	r.stats.live.Add(1)
	if f.idle.Swap(false) {
		f.wake()
	}
	return f, nil
}

// Ask changes the question, for a caller whose rights have changed. If the
// compiled question is another one, the next part is a reset whose reason is
// access. It blocks as Follow does. After a failure the follower has no more
// parts.
func (f *Follower) Ask(ctx context.Context, req Request) *command.Failure {
	f.mu.Lock()
	if f.closed || f.q != nil && f.q.id == identity(req.Asked) {
		f.mu.Unlock()
		return nil
	}
	if f.q != nil {
		f.leave()
	}
	f.cursor = ""
	f.demand(resetAccess) // sent while the new question is evaluated
	f.turn++
	turn := f.turn
	woken := f.idle.Swap(false)
	f.mu.Unlock()
	if woken {
		f.wake()
	}
	req.Cursor = ""
	return f.change(ctx, req, turn)
}

// change attaches a follower that has no question, unless another Ask or Halt was
// called in the meantime.
func (f *Follower) change(ctx context.Context, req Request, turn int) *command.Failure {
	q, failure := f.registry.prepare(ctx, req)
	if failure != nil {
		return failure
	}
	f.mu.Lock()
	if f.closed || f.turn != turn {
		f.mu.Unlock()
		f.registry.release(q)
		return nil
	}
	f.begin(q, nil, "")
	woken := f.idle.Swap(false)
	f.mu.Unlock()
	if woken {
		f.wake()
	}
	return nil
}

// Halt stops the parts: the caller may not ask any more.
func (f *Follower) Halt() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.q != nil {
		f.leave()
	}
	f.turn++
	f.cursor = ""
	f.reason.Store(nil)
}

// attach makes the follower follow a question. The caller holds f.mu.
func (f *Follower) attach(ctx context.Context, req Request) *command.Failure {
	q, failure := f.registry.prepare(ctx, req)
	if failure != nil {
		return failure
	}
	from, reason := f.registry.resume(ctx, q, req.Cursor)
	if reason != "" {
		f.demand(reason)
		from, req.Cursor = nil, ""
	}
	f.begin(q, from, req.Cursor)
	f.idle.Store(true)
	return nil
}

// prepare returns a question that is evaluated and shows AtLeast. The caller must
// release it.
func (r *Registry) prepare(ctx context.Context, req Request) (*question, *command.Failure) {
	table, err := r.cfg.Serving(ctx, req.Query.From())
	switch {
	case err != nil:
		return nil, r.cfg.Failure(req.Query, err)
	case table == nil:
		return nil, command.Unavailable("the rows of projection %q are still being built: retry later", req.Query.From().Name())
	}
	q, failure := r.join(req.Query, req.Asked)
	if failure != nil {
		return nil, failure
	}
	select {
	case <-q.ready:
		err = q.failure
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil && req.AtLeast > 0 {
		err = q.source.await(ctx, func() bool { return q.at().lowest() >= req.AtLeast })
		if err != nil {
			failure = command.Unavailable("the rows of query %q show the log up to position %d, not yet %d: retry later",
				req.Query.Name(), q.at().lowest(), req.AtLeast)
		}
	}
	if err != nil {
		r.release(q)
		if failure == nil && !errors.As(err, &failure) {
			failure = r.cfg.Failure(req.Query, err)
		}
		return nil, failure
	}
	return q, nil
}

// resume decides about a client's cursor: it returns it, or nil and the reason for
// a reset, or nil and "" without a cursor.
func (r *Registry) resume(ctx context.Context, q *question, text string) (*cursor, string) {
	if text == "" {
		return nil, ""
	}
	c, ok := parseCursor(text)
	if !ok {
		return nil, resetExpired
	}
	reason, ahead := c.verdict(q.id.short(), q.at())
	if ahead {
		reason = r.catchUp(ctx, q, &c)
	}
	if reason != "" {
		return nil, reason
	}
	return &c, ""
}

// catchUp waits for a read of the changes that begins now, and returns the verdict
// about a cursor then. While the rows lack positions of the cursor that the log
// has, it waits for them: the fold makes what a crash of the database took back.
func (r *Registry) catchUp(ctx context.Context, q *question, c *cursor) (reason string) {
	s := q.source
	s.mu.Lock()
	number := s.begun + 1
	s.look = true
	s.mu.Unlock()
	r.cfg.Forget(s.model.Name())
	_ = s.await(ctx, func() bool {
		if !s.hasRead(number) || !q.isFresh() {
			return false
		}
		at := q.at()
		reason, _ = c.verdict(q.id.short(), at)
		return reason != resetLog || c.log != hash32(at.log) || c.highest() > eventstore.Position(r.head.Load())
	})
	reason, _ = c.verdict(q.id.short(), q.at())
	return reason
}

// at returns what the question's window shows, or will when it is not stale.
func (q *question) at() *moment {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return q.moment()
}

// isFresh reports whether the window can be sent.
func (q *question) isFresh() bool {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return !q.stale
}

// hasRead reports whether a read with at least this number has succeeded.
func (s *source) hasRead(number int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended >= number
}

// await waits until a condition holds, which it checks after each read. Reads are
// frequent meanwhile.
func (s *source) await(ctx context.Context, holds func() bool) error {
	s.mu.Lock()
	s.awaited++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.awaited--
		s.mu.Unlock()
	}()
	for {
		s.mu.Lock()
		moved := s.movedLocked()
		s.mu.Unlock()
		if holds() {
			return nil
		}
		s.poke()
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("live: %w", ctx.Err())
		}
	}
}
