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
	// answerGrace is added to a request's timeout. If no answer arrives in that
	// time, the client gives up the connection.
	answerGrace = 5 * time.Second
	// defaultTimeout bounds the server's time for a request without a timeout.
	defaultTimeout = 5 * time.Second
	// queueBytes bounds the frames of all pending requests.
	queueBytes = 4 << 20
)

// request is a command or a read whose outcome is not known yet.
type request struct {
	id       string
	seq      uint64
	frame    []byte
	key      string
	lane     *lane
	timeout  time.Duration
	isFinal  bool // "unavailable" is final: a position that the request awaits was not reached in time
	attempts int
	sent     bool      // a server may have received it
	due      time.Time // when the client gives up the connection, if in flight
	finished bool
	stop     func() // stops watching the caller's context

	done   chan struct{} // closed once result or err is set
	result gatewayFrame
	err    error
}

// lane holds the requests of one aggregate, in order.
type lane struct {
	name     string
	waiting  []*request
	inFlight int
	// held means that a request must be sent again. The lane sends nothing until
	// all requests in flight are answered and wait has passed.
	held       bool
	wait       time.Duration
	awaitsMove bool   // held until the next connection
	timer      *timer // until wait has passed
	awaitsRoom bool   // in requests.awaitingRoom
}

// requests holds all pending requests. The requests of a lane are sent in the
// order of the calls, pipelined. When a connection is lost, its unanswered
// requests are sent again on the next one, with the same keys.
type requests struct {
	lanes        map[string]*lane
	inFlight     map[string]*request
	awaitingRoom []*lane // lanes that wait for a request in flight to be answered
	open         map[*request]struct{}
	bytes        int
	seq          uint64
	overdueTimer *timer
}

// startRequest queues a request in the lane with this name, or in a new lane if
// the name is empty. frame returns the request's frame with an id.
func (c *Client) startRequest(ctx context.Context, name, stream, key string, timeout time.Duration, frame func(id string) any) *request {
	return c.start(ctx, &request{key: key, timeout: timeout}, name, stream, frame)
}

func (c *Client) start(ctx context.Context, r *request, name, stream string, frame func(id string) any) *request {
	r.done, r.stop = make(chan struct{}), func() {}
	c.mu.Lock()
	defer c.unlock()
	if err := c.admitRequest(ctx, r, name, stream, frame); err != nil {
		c.finish(r, gatewayFrame{}, err)
	}
	return r
}

func (c *Client) admitRequest(ctx context.Context, r *request, name, stream string, frame func(id string) any) (err error) {
	r.id = c.id()
	if !utf8.ValidString(stream) {
		return &Error{Code: CodeBadRequest, Message: fmt.Sprintf("%q is not UTF-8", stream), Retry: RetryNo, Key: r.key}
	}
	if r.frame, err = json.Marshal(frame(r.id)); err != nil {
		return wrap(CodeBadRequest, RetryNo, "can't encode the data as JSON", err)
	}
	switch {
	case ctx.Err() != nil:
		return c.canceled(ctx, r)
	case c.status == Closed:
		return &Error{Code: CodeClosed, Message: "the client is closed: the request was not sent", Retry: RetryLater, Key: r.key, cause: c.err}
	case len(c.open) >= c.options.Queue || c.bytes+len(r.frame) > queueBytes:
		return &Error{
			Code: CodeQueueFull, Retry: RetryLater, Key: r.key,
			Message: fmt.Sprintf("%d requests are pending, so this one was not sent: wait, or raise Options.Queue", len(c.open)),
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
	r.stop = c.afterContext(ctx, func() {
		c.mu.Lock()
		defer c.unlock()
		if !r.finished {
			c.finish(r, gatewayFrame{}, c.canceled(ctx, r))
			r.lane.waiting = slices.DeleteFunc(r.lane.waiting, func(w *request) bool { return w == r })
			c.sendWaiting(r.lane)
		}
	})
	l.waiting = append(l.waiting, r)
	c.sendWaiting(l)
	return nil
}

// canceled returns the error for a caller whose context has ended.
func (c *Client) canceled(ctx context.Context, r *request) *Error {
	e := wrap(CodeCanceled, RetryLater, "the context ended before the request was sent", context.Cause(ctx))
	if r.sent {
		e = wrap(CodeCanceled, RetrySameKey, "the context ended, and the outcome is unknown", context.Cause(ctx))
	}
	e.Key = r.key
	if !c.welcomed && c.connErr != nil {
		e.Message += fmt.Sprintf(" (no connection: %v)", c.connErr)
	}
	return e
}

// finish completes a request with a result or an error.
func (c *Client) finish(r *request, result gatewayFrame, err error) {
	if _, ok := c.open[r]; ok {
		delete(c.open, r)
		c.bytes -= len(r.frame)
	}
	r.finished, r.result, r.err = true, result, err
	r.stop()
	close(r.done)
}

// sendWaiting sends the waiting requests of a lane unless it is held, as long as
// the gateway has room for them.
func (c *Client) sendWaiting(l *lane) {
	for c.welcomed && !l.held && len(l.waiting) > 0 {
		if !c.hasRoom() {
			if !l.awaitsRoom {
				l.awaitsRoom = true
				c.awaitingRoom = append(c.awaitingRoom, l)
			}
			return
		}
		r := l.waiting[0]
		l.waiting = l.waiting[1:]
		if most := c.limits.FrameBytes; most > 0 && len(r.frame) > most {
			c.finish(r, gatewayFrame{}, &Error{
				Code: CodeTooLarge, Message: fmt.Sprintf("the request has %d bytes, and the gateway accepts at most %d in one message", len(r.frame), most),
				Retry: RetryNo, Key: r.key,
			})
			continue
		}
		r.sent = true
		r.due = time.Now().Add(r.timeout + answerGrace)
		l.inFlight++
		c.inFlight[r.id] = r
		c.enqueue(r.frame)
		if c.overdueTimer == nil {
			c.overdueTimer = c.after(r.timeout+answerGrace, c.checkOverdue)
		}
	}
	if l.inFlight == 0 && !l.held && len(l.waiting) == 0 {
		delete(c.lanes, l.name)
	}
}

// hasRoom reports whether the gateway accepts another open request.
func (c *Client) hasRoom() bool {
	return c.limits.OpenRequests <= 0 || len(c.inFlight) < c.limits.OpenRequests
}

// checkOverdue drops the session if a request is not answered in time, even if
// other frames arrive.
func (c *Client) checkOverdue() {
	c.overdueTimer = nil
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
		c.overdueTimer = c.after(left, c.checkOverdue)
	} else {
		c.dropSession(closeAbnormal, fmt.Errorf("the gateway did not answer request %s within %v", next.id, next.timeout+answerGrace))
	}
}

// handleAnswer handles a result or an error. It returns false if no request in
// flight has its id.
func (c *Client) handleAnswer(a *gatewayFrame) bool {
	r := c.inFlight[a.ID]
	if r == nil {
		return false
	}
	delete(c.inFlight, r.id)
	l := r.lane
	l.inFlight--
	switch {
	case r.finished:
	case a.Op == "result":
		c.finish(r, *a, nil)
	case r.isFinal && a.Code == CodeUnavailable:
		c.finish(r, gatewayFrame{}, a.failure())
	case a.Retry == RetrySameKey || a.Retry == RetryLater || a.Code == CodeNotFound && c.scheduleMove(true):
		c.holdForRetry(r, a)
	default:
		c.finish(r, gatewayFrame{}, a.failure())
	}
	c.releaseLane(l)
	for len(c.awaitingRoom) > 0 && c.hasRoom() {
		next := c.awaitingRoom[0]
		c.awaitingRoom = c.awaitingRoom[1:]
		next.awaitsRoom = false
		c.sendWaiting(next)
	}
	return true
}

// holdForRetry holds the lane of a request that must be sent again. It reports
// one error for all requests of the lane in flight. It does not report "busy",
// the gateway's answer to requests behind a failed one.
func (c *Client) holdForRetry(r *request, a *gatewayFrame) {
	l, e := r.lane, a.failure()
	wait, given := a.after()
	switch {
	case e.Retry == RetryNo:
		l.awaitsMove, e.Retry = true, RetryLater
	case !given && (a.Retry == RetryLater || r.attempts > 0):
		wait = c.backoff(r.attempts, 100*time.Millisecond, maxBackoff)
	}
	if !l.held && a.Code != CodeBusy {
		c.report(e)
	}
	r.attempts++
	l.held = true
	l.wait = max(l.wait, wait)
	r.requeue()
}

// requeue puts a request back in its place in the lane.
func (r *request) requeue() {
	at, _ := slices.BinarySearchFunc(r.lane.waiting, r.seq, func(w *request, seq uint64) int {
		if w.seq < seq {
			return -1
		}
		return 1
	})
	r.lane.waiting = slices.Insert(r.lane.waiting, at, r)
}

// releaseLane sends the waiting requests of a lane. A held lane sends nothing before
// its requests in flight are answered, its pause has passed, and its move is done.
func (c *Client) releaseLane(l *lane) {
	if !l.held {
		c.sendWaiting(l)
		return
	}
	if l.inFlight > 0 || l.timer != nil || l.awaitsMove {
		return
	}
	release := func() {
		l.timer, l.held, l.wait = nil, false, 0
		c.sendWaiting(l)
	}
	if l.wait == 0 {
		release()
	} else {
		l.timer = c.after(l.wait, release)
	}
}

func (c *Client) sendAllLanes() {
	for _, l := range c.lanesByAge() {
		c.sendWaiting(l)
	}
}

// lanesByAge returns the lanes in the order of their oldest waiting requests.
func (c *Client) lanesByAge() []*lane {
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

func (c *Client) requeueInFlight() {
	c.overdueTimer.stop()
	c.overdueTimer = nil
	for _, l := range c.awaitingRoom {
		l.awaitsRoom = false
	}
	c.awaitingRoom = nil
	for _, r := range c.inFlight {
		r.lane.inFlight = 0
		if !r.finished {
			r.requeue()
		}
	}
	clear(c.inFlight)
	for _, l := range c.lanesByAge() {
		l.awaitsMove = false // the next connection is to another gateway
		c.releaseLane(l)
	}
}

func (c *Client) failRequests(err *Error) {
	c.welcomed = false
	c.requeueInFlight()
	for _, l := range c.lanes {
		l.timer.stop()
	}
	clear(c.lanes)
	for r := range c.open {
		e := &Error{Code: CodeClosed, Message: "the client was closed: the request was not sent", Retry: RetryLater, Key: r.key, cause: err}
		if r.sent {
			e.Message, e.Retry = "the client was closed: the outcome is unknown", RetrySameKey
		}
		c.finish(r, gatewayFrame{}, e)
	}
}
