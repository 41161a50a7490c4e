package ganglion

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode/utf8"
)

const (
	// patience is how long past its time an answer may be before its
	// connection is given up.
	patience = 5 * time.Second
	// defaultTimeout is how long a server may take for a request that says
	// nothing about it.
	defaultTimeout = 5 * time.Second
	// queueBytes bounds all requests that wait.
	queueBytes = 4 << 20
)

// request is a command or a read until its outcome is known.
type request struct {
	id       string
	seq      uint64
	frame    []byte
	key      string
	lane     *lane
	timeout  time.Duration
	attempts int
	sent     bool      // perhaps received by a server
	due      time.Time // in flight: when its answer is too late
	settled  bool
	stop     func() // waits no more for the caller's context

	done   chan struct{} // closed once one of these is known
	result answer
	err    error
}

// lane holds the requests of one aggregate, in order.
type lane struct {
	name     string
	waiting  []*request
	inFlight int
	// held: something has to be sent again. Nothing leaves until all that is
	// out came back, and a while has passed.
	held  bool
	wait  time.Duration
	moves bool // held until there is another connection
	timer *timer
	full  bool // is in requests.full
}

// requests are those until their outcome is known. Those of one lane leave in
// the order of their calls, pipelined. What was sent and not answered when a
// connection is lost is sent again on the next one, with the same key.
type requests struct {
	lanes    map[string]*lane
	inFlight map[string]*request
	full     []*lane // wait for one in flight to be answered
	open     map[*request]struct{}
	bytes    int
	seq      uint64
	overdue  *timer
}

// start queues the request that frame makes, given its id. name is its lane;
// empty is a lane of its own.
func (c *Client) start(ctx context.Context, name, stream, key string, timeout time.Duration, frame func(id string) any) *request {
	r := &request{key: key, timeout: timeout, done: make(chan struct{}), stop: func() {}}
	c.mu.Lock()
	defer c.unlock()
	if err := c.queue(ctx, r, name, stream, frame); err != nil {
		c.settled(r, answer{}, err)
	}
	return r
}

func (c *Client) queue(ctx context.Context, r *request, name, stream string, frame func(id string) any) (err error) {
	r.id = c.id()
	if !utf8.ValidString(stream) {
		return &Error{Code: CodeBadRequest, Message: fmt.Sprintf("%q is not UTF-8", stream), Retry: RetryNo, Key: r.key}
	}
	if r.frame, err = json.Marshal(frame(r.id)); err != nil {
		return wrap(CodeBadRequest, RetryNo, "the data is no JSON", err)
	}
	switch {
	case ctx.Err() != nil:
		return c.canceled(ctx, r)
	case c.status == Closed:
		return &Error{Code: CodeClosed, Message: "the client is closed: this was not sent", Retry: RetryLater, Key: r.key, cause: c.err}
	case len(c.open) >= c.options.Queue || c.bytes+len(r.frame) > queueBytes:
		return &Error{
			Code: CodeQueueFull, Retry: RetryLater, Key: r.key,
			Message: fmt.Sprintf("%d requests wait for their answers: this one was not sent; wait, or raise Options.Queue", len(c.open)),
		}
	}
	if name == "" {
		name = r.id
	}
	l := c.lanes[name]
	if l == nil {
		l = &lane{name: name}
		c.lanes[name] = l
	}
	r.lane, r.seq = l, c.seq
	c.seq++
	c.open[r] = struct{}{}
	c.bytes += len(r.frame)
	r.stop = c.when(ctx, func() {
		c.mu.Lock()
		defer c.unlock()
		if !r.settled {
			c.settled(r, answer{}, c.canceled(ctx, r))
			r.lane.waiting = slices.DeleteFunc(r.lane.waiting, func(w *request) bool { return w == r })
			c.pump(r.lane)
		}
	})
	l.waiting = append(l.waiting, r)
	c.pump(l)
	return nil
}

// canceled is what a caller gets whose context has ended.
func (c *Client) canceled(ctx context.Context, r *request) *Error {
	e := wrap(CodeCanceled, RetryLater, "gave up waiting, it was not sent", context.Cause(ctx))
	if r.sent {
		e = wrap(CodeCanceled, RetrySameKey, "gave up waiting, its outcome is unknown", context.Cause(ctx))
	}
	e.Key = r.key
	if !c.welcomed && c.connErr != nil {
		e.Message += fmt.Sprintf(" (there is no connection: %v)", c.connErr)
	}
	return e
}

// settled ends a request with its outcome.
func (c *Client) settled(r *request, result answer, err error) {
	if _, ok := c.open[r]; ok {
		delete(c.open, r)
		c.bytes -= len(r.frame)
	}
	r.settled, r.result, r.err = true, result, err
	r.stop()
	close(r.done)
}

// pump sends what a lane may send.
func (c *Client) pump(l *lane) {
	for c.welcomed && !l.held && len(l.waiting) > 0 {
		if !c.hasRoom() {
			if !l.full {
				l.full = true
				c.full = append(c.full, l)
			}
			return
		}
		r := l.waiting[0]
		l.waiting = l.waiting[1:]
		if most := c.limits.FrameBytes; most > 0 && len(r.frame) > most {
			c.settled(r, answer{}, &Error{
				Code: CodeTooLarge, Message: fmt.Sprintf("the gateway takes %d bytes in one message, this has %d", most, len(r.frame)),
				Retry: RetryNo, Key: r.key,
			})
			continue
		}
		r.sent = true
		r.due = time.Now().Add(r.timeout + patience)
		l.inFlight++
		c.inFlight[r.id] = r
		c.say(r.frame)
		if c.overdue == nil {
			c.overdue = c.after(r.timeout+patience, c.checkOverdue)
		}
	}
	if l.inFlight == 0 && !l.held && len(l.waiting) == 0 {
		delete(c.lanes, l.name)
	}
}

// hasRoom reports whether the gateway takes another request.
func (c *Client) hasRoom() bool {
	return c.limits.OpenRequests <= 0 || len(c.inFlight) < c.limits.OpenRequests
}

// checkOverdue gives up a gateway that does not answer a request in time,
// whatever else arrives.
func (c *Client) checkOverdue() {
	c.overdue = nil
	var next *request
	for _, r := range c.inFlight {
		if next == nil || r.due.Before(next.due) {
			next = r
		}
	}
	if next == nil {
		return
	}
	if left := time.Until(next.due); left > 0 {
		c.overdue = c.after(left, c.checkOverdue)
	} else {
		c.drop(lostAbnormally, fmt.Errorf("the gateway did not answer request %s within %v", next.id, next.timeout+patience))
	}
}

// answered takes a result or an error. It returns false if that is no
// request's.
func (c *Client) answered(a *answer) bool {
	r := c.inFlight[a.ID]
	if r == nil {
		return false
	}
	delete(c.inFlight, r.id)
	l := r.lane
	l.inFlight--
	switch {
	case r.settled:
	case a.Op == "result":
		c.settled(r, *a, nil)
	case a.Retry == RetrySameKey || a.Retry == RetryLater || a.Code == CodeNotFound && c.elsewhere(true):
		c.retry(r, a)
	default:
		c.settled(r, answer{}, a.failure())
	}
	c.turn(l)
	for len(c.full) > 0 && c.hasRoom() {
		next := c.full[0]
		c.full = c.full[1:]
		next.full = false
		c.pump(next)
	}
	return true
}

// retry holds the lane of a request that has to be sent again. It reports why
// once for all that the lane has sent; "busy" is the answer to what was sent
// behind something, and no news.
func (c *Client) retry(r *request, a *answer) {
	l, e := r.lane, a.failure()
	wait, told := a.after()
	switch {
	case e.Retry == RetryNo:
		l.moves, e.Retry = true, RetryLater
	case !told && (a.Retry == RetryLater || r.attempts > 0):
		wait = c.backoff(r.attempts, 100*time.Millisecond, longestWait)
	}
	if !l.held && a.Code != CodeBusy {
		c.report(e)
	}
	r.attempts++
	l.held = true
	l.wait = max(l.wait, wait)
	r.again()
}

// again puts a request back to where it was in its lane.
func (r *request) again() {
	at, _ := slices.BinarySearchFunc(r.lane.waiting, r.seq, func(w *request, seq uint64) int {
		if w.seq < seq {
			return -1
		}
		return 1
	})
	r.lane.waiting = slices.Insert(r.lane.waiting, at, r)
}

// turn sends what a lane may send by now.
func (c *Client) turn(l *lane) {
	if !l.held {
		c.pump(l)
		return
	}
	if l.inFlight > 0 || l.timer != nil || l.moves {
		return
	}
	release := func() {
		l.timer, l.held, l.wait = nil, false, 0
		c.pump(l)
	}
	if l.wait == 0 {
		release()
	} else {
		l.timer = c.after(l.wait, release)
	}
}

func (c *Client) openRequests() {
	for _, l := range c.inOrder() {
		c.pump(l)
	}
}

// inOrder returns the lanes by the age of what waits in them.
func (c *Client) inOrder() []*lane {
	oldest := func(l *lane) uint64 {
		if len(l.waiting) == 0 {
			return c.seq
		}
		return l.waiting[0].seq
	}
	return slices.SortedFunc(maps.Values(c.lanes), func(a, b *lane) int {
		if oldest(a) < oldest(b) {
			return -1
		}
		return 1
	})
}

func (c *Client) lostRequests() {
	c.overdue.stop()
	c.overdue = nil
	for _, l := range c.full {
		l.full = false
	}
	c.full = nil
	for _, r := range c.inFlight {
		r.lane.inFlight = 0
		if !r.settled {
			r.again()
		}
	}
	clear(c.inFlight)
	for _, l := range c.inOrder() {
		l.moves = false // the next connection is another one
		c.turn(l)
	}
}

func (c *Client) closeRequests(err *Error) {
	c.welcomed = false
	c.lostRequests()
	for _, l := range c.lanes {
		l.timer.stop()
	}
	clear(c.lanes)
	for r := range c.open {
		e := &Error{Code: CodeClosed, Message: "the client was closed: this was not sent", Retry: RetryLater, Key: r.key, cause: err}
		if r.sent {
			e.Message, e.Retry = "the client was closed: the outcome is unknown", RetrySameKey
		}
		c.settled(r, answer{}, e)
	}
}
