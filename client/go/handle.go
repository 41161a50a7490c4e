package ganglion

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"
)

const (
	// parkAfter is the number of failures after which an event may be parked.
	parkAfter = 5
	// firstRetry and maxRetry bound the pauses between the attempts of an event.
	firstRetry = 2 * time.Second
	maxRetry   = time.Minute
)

// Park returns an error with which a handler parks the event immediately: no retry can
// succeed, and an operator must decide. The operator sees the reason, of which the
// server gets 1,024 bytes.
func Park(reason string) error { return &parkError{reason} }

type parkError struct{ reason string }

func (e *parkError) Error() string { return "ganglion: park: " + e.reason }

// Handle makes this process a member of a consumer group, and calls the handler for
// each event of the segments that the server assigns to it, at least once. It
// acknowledges an event when the handler returns nil.
//
// The events of a stream are handled in order, one after another. Those of different
// streams are handled concurrently; [WithConcurrency] bounds the calls. The context of
// a call ends when the event's segment is revoked, with the cause [ErrRevoked], and
// with ctx. As long as a call runs, the member keeps the segment, so a handler should
// bound its own waits.
//
// If the handler returns an error or panics, it is called again after a pause with
// full jitter whose bound doubles from 2 s to 1 min, while events of other streams are
// handled. After 5 failures, the client parks the event's stream if a call for
// another stream succeeded that began after the first failure. So an event that no
// retry can help does not hold up the group, and a mail server that is down parks
// nothing. The handler parks an event immediately with an error from [Park]. Each
// failure is reported to Options.OnError, with [CodeHandler].
//
// Handle returns when ctx ends, or with a refusal by the server, [ErrReplaced] or
// [ErrClosed], after every call of the handler has returned.
func (c *Client) Handle(ctx context.Context, group string, handler func(context.Context, GroupEvent) error, opts ...ConsumeOption) error {
	o, _ := consumeOptionsOf(group, opts) // consume returns the error
	k := c.consume(ctx, group, true, opts)
	h := &handling{
		consumer: k, handler: handler, limit: o.concurrency,
		sequences: map[string]*sequence{}, results: make(chan attempt, max(o.concurrency, 1)),
	}
	return h.run(ctx)
}

// handling calls a handler for the deliveries of a consumer. One goroutine owns it.
type handling struct {
	consumer *consumer
	handler  func(context.Context, GroupEvent) error
	limit    int // of concurrent calls

	sequences map[string]*sequence // those with deliveries, by stream
	ready     []*sequence          // whose first delivery can be handled, in order
	paused    []*sequence          // that wait for a retry, in order of due
	running   int
	results   chan attempt // has room for each running call

	begun     uint64 // numbers the calls
	succeeded uint64 // the newest call that succeeded
}

// sequence is the deliveries of a stream that are not handled, in order. The first may
// be running.
type sequence struct {
	stream     string
	deliveries []*Delivery
	state      sequenceState
	due        time.Time // of the retry, if paused

	// failures of the event at position failed.
	failed   uint64
	failures int
	since    uint64 // the newest call at the first failure
}

type sequenceState int

const (
	idle sequenceState = iota
	ready
	running
	paused
)

// attempt is a call of the handler that has returned.
type attempt struct {
	sequence *sequence
	number   uint64
	err      error
}

func (h *handling) run(ctx context.Context) error {
	defer h.consumer.close()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		if err := h.takeAll(); err != nil {
			h.wait()
			return err
		}
		h.resume(time.Now())
		h.startReady(ctx)
		if len(h.paused) > 0 {
			retry.Reset(time.Until(h.paused[0].due))
		}
		select {
		case a := <-h.results:
			h.finish(a)
		case <-h.consumer.ready:
		case <-retry.C:
		case <-ctx.Done():
			h.wait()
			return context.Cause(ctx)
		}
	}
}

// wait waits for the running calls, whose contexts have ended.
func (h *handling) wait() {
	for h.running > 0 {
		a := <-h.results
		h.running--
		if a.err == nil {
			a.sequence.deliveries[0].Ack()
		}
	}
}

// takeAll takes the deliveries that have arrived. It returns the error that ended the
// consumer.
func (h *handling) takeAll() error {
	for {
		d, err := h.consumer.take()
		if d == nil {
			return err
		}
		s := h.sequences[d.Stream]
		if s == nil {
			s = &sequence{stream: d.Stream}
			h.sequences[d.Stream] = s
		}
		s.dropRevoked()
		s.deliveries = append(s.deliveries, d)
		if s.state == paused && s.deliveries[0].Position != s.failed {
			h.paused = slices.DeleteFunc(h.paused, func(p *sequence) bool { return p == s })
			s.state = idle
		}
		h.schedule(s)
	}
}

// dropRevoked drops the deliveries that will come again, except one that is running.
// They come before the others.
func (s *sequence) dropRevoked() {
	from := 0
	if s.state == running {
		from = 1
	}
	to := from
	for to < len(s.deliveries) && s.deliveries[to].Context().Err() != nil {
		to++
	}
	s.deliveries = slices.Delete(s.deliveries, from, to)
}

// schedule makes an idle sequence ready if it has deliveries, and forgets it
// otherwise.
func (h *handling) schedule(s *sequence) {
	switch {
	case s.state != idle:
	case len(s.deliveries) == 0:
		delete(h.sequences, s.stream)
	default:
		s.state = ready
		h.ready = append(h.ready, s)
	}
}

// resume makes the sequences ready whose pause has passed.
func (h *handling) resume(now time.Time) {
	n := 0
	for n < len(h.paused) && !h.paused[n].due.After(now) {
		s := h.paused[n]
		s.state = idle
		s.dropRevoked()
		h.schedule(s)
		n++
	}
	h.paused = slices.Delete(h.paused, 0, n)
}

// startReady calls the handler for ready sequences, up to the limit.
func (h *handling) startReady(ctx context.Context) {
	for h.running < h.limit && len(h.ready) > 0 && ctx.Err() == nil {
		s := h.ready[0]
		h.ready[0] = nil
		h.ready = h.ready[1:]
		s.state = idle
		s.dropRevoked()
		if len(s.deliveries) == 0 {
			h.schedule(s)
			continue
		}
		s.state = running
		h.running++
		h.begun++
		d, event := s.deliveries[0], s.deliveries[0].GroupEvent
		event.Attempt = 1
		if s.failed == d.Position {
			event.Attempt += s.failures
		}
		a := attempt{sequence: s, number: h.begun, err: errors.New("the handler ended its goroutine")}
		go func() {
			defer func() { h.results <- a }()
			a.err = call(d.Context(), h.handler, event)
		}()
	}
}

// call calls the handler. A panic is an error.
func call(ctx context.Context, handler func(context.Context, GroupEvent) error, event GroupEvent) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the handler panicked: %v\n%s", p, debug.Stack())
		}
	}()
	return handler(ctx, event)
}

func (h *handling) finish(a attempt) {
	s := a.sequence
	d := s.deliveries[0]
	h.running--
	s.state = idle
	var park *parkError
	switch {
	case a.err == nil:
		d.Ack()
		h.succeeded = max(h.succeeded, a.number)
		s.deliveries = slices.Delete(s.deliveries, 0, 1)
		s.failures = 0
	case d.Context().Err() != nil:
		s.deliveries = slices.Delete(s.deliveries, 0, 1)
	case errors.As(a.err, &park):
		h.park(s, park.reason, a.err)
	default:
		h.fail(s, a.err)
	}
	s.dropRevoked()
	h.schedule(s)
}

// fail pauses the sequence or parks it.
func (h *handling) fail(s *sequence, err error) {
	d := s.deliveries[0]
	if s.failures == 0 || s.failed != d.Position {
		s.failed, s.failures, s.since = d.Position, 0, h.begun
	}
	s.failures++
	if s.failures >= parkAfter && h.succeeded > s.since {
		h.park(s, err.Error(), err)
		return
	}
	pause := h.consumer.c.backoff(s.failures-1, firstRetry, maxRetry)
	h.report(d, err, RetryLater, fmt.Sprintf("attempt %d, next in %v", s.failures, pause.Round(time.Millisecond)))
	s.state, s.due = paused, time.Now().Add(pause)
	at, _ := slices.BinarySearchFunc(h.paused, s.due, func(p *sequence, due time.Time) int {
		if p.due.After(due) {
			return 1
		}
		return -1 // behind those with the same time
	})
	h.paused = slices.Insert(h.paused, at, s)
}

// park parks the stream, from its first delivery on.
func (h *handling) park(s *sequence, reason string, err error) {
	d := s.deliveries[0]
	h.report(d, err, RetryNo, "parked")
	d.Park(reason)
	s.failures = 0
	s.deliveries = slices.DeleteFunc(s.deliveries, func(x *Delivery) bool { return x.assignment == d.assignment })
}

// report reports a failure of the handler.
func (h *handling) report(d *Delivery, err error, retry Retry, next string) {
	e := wrap(CodeHandler, retry, fmt.Sprintf("the handler of group %s failed for version %d of %s, position %d (%s)", d.Group, d.Version, d.Stream, d.Position, next), err)
	e.Version = d.Version
	h.consumer.c.mu.Lock()
	defer h.consumer.c.unlock()
	h.consumer.c.report(e)
}
