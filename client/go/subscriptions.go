package ganglion

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// maxHelloBytes bounds the subscriptions in hello. The others follow welcome.
const maxHelloBytes = 16_000

// subscriptions holds all subscriptions of a client.
type subscriptions struct {
	subscribers []*subscriber // in the order in which they began
	byID        map[string]*subscriber
	parks       map[string]*Delivery // by the id of the frame whose answer is pending
}

// subscriber is what all kinds of subscriptions share: how they begin on each
// connection, are refused, and end.
type subscriber struct {
	c        *Client
	delivery delivery

	id   string // on the current connection; empty if not subscribed there
	live bool

	retryTimer  *timer // until the next attempt
	awaitsMove  bool   // waits for the next connection
	attempts    int
	wasAccepted bool // by a gateway, at any time
	ended       bool
	err         error
	ready       chan struct{} // signals an item or the end; has capacity 1
}

// delivery is what one kind of subscription does with its frames. The client's
// lock is held in each call.
type delivery interface {
	// request returns the next subscribe or consume frame, without its id. Without an
	// op it is subscribe.
	request() subscribeFrame
	// isResuming reports whether the next subscribe is valid in one log only.
	isResuming() bool
	// isPaused reports whether the application must read first.
	isPaused() bool
	// handle handles an event, or another frame with the subscription's id.
	handle(a *gatewayFrame)
	// handleSubscribed handles the answer to subscribe or consume.
	handleSubscribed(a *gatewayFrame)
	// handleUnsubscribed is called with the cursor of an end that the client did
	// not ask for, if the frame has one.
	handleUnsubscribed(cursor string)
	// isTransient reports whether the client must try again after an end that it did
	// not ask for.
	isTransient(e *Error) bool
	// handleHeartbeat is called with the heartbeat's cursor, or with that of the
	// subscription if it is behind.
	handleHeartbeat(cursor string, isBehind bool)
	// interrupted reports that the subscription is not served at the moment.
	interrupted()
	// startOver reports that the log is another one.
	startOver()
	// finished reports that the subscription has ended.
	finished()
}

// subscribe begins a subscription. If invalid is not nil, the subscription ends
// with this error.
func (c *Client) subscribe(s *subscriber, d delivery, invalid *Error) {
	s.c, s.delivery, s.ready = c, d, make(chan struct{}, 1)
	c.mu.Lock()
	defer c.unlock()
	if invalid == nil && c.status == Closed {
		invalid = &Error{Code: CodeClosed, Message: "the client is closed", Retry: RetryNo, cause: c.err}
	}
	if invalid != nil {
		s.ended, s.err = true, invalid
		d.finished()
		return
	}
	c.subscribers = append(c.subscribers, s)
	c.sendSubscribe(s)
	c.updateStatus()
}

// wantsSubscribe reports whether a welcomed connection must send its subscribe
// frame.
func (s *subscriber) wantsSubscribe() bool {
	return s.id == "" && !s.delivery.isPaused() && s.retryTimer == nil && !s.awaitsMove && !s.ended
}

// helloSubscriptions returns the subscriptions that fit into hello.
func (c *Client) helloSubscriptions() []subscribeFrame {
	var frames []subscribeFrame
	size := 0
	for _, s := range c.subscribers {
		if !s.wantsSubscribe() {
			continue
		}
		frame := c.registerSubscribe(s)
		if frame.Op != "subscribe" {
			c.unregister(s) // follows welcome
			continue
		}
		if size += len(encode(frame)); size > maxHelloBytes {
			c.unregister(s)
			break
		}
		frames = append(frames, frame)
	}
	return frames
}

func (c *Client) sendSubscribes() {
	for _, s := range c.subscribers {
		if s.wantsSubscribe() {
			c.sendSubscribe(s)
		}
	}
}

func (c *Client) sendSubscribe(s *subscriber) {
	if c.welcomed {
		c.enqueue(encode(c.registerSubscribe(s)))
	}
}

func (c *Client) registerSubscribe(s *subscriber) subscribeFrame {
	s.id = c.id()
	c.byID[s.id] = s
	f := s.delivery.request()
	f.Op, f.ID = cmp.Or(f.Op, "subscribe"), s.id
	return f
}

// unsubscribe stops the frames of a subscription.
func (c *Client) unsubscribe(s *subscriber) {
	if s.id != "" && c.welcomed {
		c.enqueue(encode(smallFrame{Op: "unsubscribe", ID: c.id(), Sub: s.id}))
	}
	c.unregister(s)
	c.updateStatus()
}

func (c *Client) unregister(s *subscriber) {
	delete(c.byID, s.id)
	s.id, s.live = "", false
}

func (c *Client) isCatchingUp() bool {
	return slices.ContainsFunc(c.subscribers, func(s *subscriber) bool { return !s.live })
}

// handleSubscriptionFrame handles a frame of a subscription. It returns false for
// other frames.
func (c *Client) handleSubscriptionFrame(a *gatewayFrame) bool {
	switch a.Op {
	case "event", "state", "live", "update", "keys", "synced", "reset", "assigned", "revoking", "revoked":
		if s := c.byID[a.Sub]; s != nil { // frames may still arrive after unsubscribe
			s.delivery.handle(a)
			if a.Op != "event" {
				c.updateStatus()
			}
		}
	case "heartbeat":
		c.handleHeartbeat(a)
	case "subscribed", "consuming":
		if s := c.byID[a.ID]; s != nil {
			s.attempts, s.wasAccepted = 0, true
			s.delivery.handleSubscribed(a)
		}
	case "unsubscribed":
		if s := c.byID[a.Sub]; s != nil && a.ID == "" {
			s.delivery.handleUnsubscribed(a.Cursor)
			e := a.failure()
			e.Retry = RetryNo
			if s.delivery.isTransient(e) {
				e.Retry = RetryLater
			}
			s.handleRefusal(e, a, e.Code == CodeUnavailable)
		}
	case "result":
		return c.handleParked(a)
	case "error":
		if c.handleParked(a) {
			return true
		}
		s := c.byID[a.ID]
		if s == nil {
			return false
		}
		s.handleRefusal(a.failure(), a, a.Code == CodeNotFound)
	default:
		return false
	}
	return true
}

// handleHeartbeat passes a heartbeat to each subscription. A subscription in
// Behind is no longer live and has a cursor of its own.
func (c *Client) handleHeartbeat(a *gatewayFrame) {
	behind := make(map[string]string, len(a.Behind))
	for _, b := range a.Behind {
		behind[b.Sub] = b.Cursor
	}
	for id, s := range c.byID {
		cursor, isBehind := behind[id]
		s.delivery.handleHeartbeat(cmp.Or(cursor, a.Cursor), isBehind)
	}
	c.updateStatus()
}

// handleRefusal handles a subscription that the server does not serve: it ends
// permanently or tries again later. If movable is set, another gateway may serve
// it, and the client moves.
func (s *subscriber) handleRefusal(e *Error, a *gatewayFrame, movable bool) {
	c := s.c
	c.unregister(s)
	e.Resumed = s.wasAccepted
	if movable && c.scheduleMove(e.Code == CodeNotFound) {
		s.awaitsMove, e.Retry = true, RetryLater
	}
	if e.Retry == RetryNo {
		s.endWith(e)
		return
	}
	c.report(e)
	s.delivery.interrupted()
	if s.awaitsMove {
		c.updateStatus()
		return
	}
	wait, given := a.after()
	if !given {
		wait = c.backoff(s.attempts, 500*time.Millisecond, maxBackoff)
		s.attempts++
	}
	s.retryTimer = c.after(wait, func() {
		s.retryTimer = nil
		if s.wantsSubscribe() {
			c.sendSubscribe(s)
		}
	})
	c.updateStatus()
}

func (s *subscriber) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// endWith ends the subscription. Buffered items are still delivered.
func (s *subscriber) endWith(err error) {
	if s.ended {
		return
	}
	c := s.c
	s.ended, s.err = true, err
	s.delivery.finished()
	s.signal()
	s.retryTimer.stop()
	c.unregister(s)
	if at := slices.Index(c.subscribers, s); at >= 0 {
		c.subscribers = slices.Delete(c.subscribers, at, at+1)
	}
	c.updateStatus()
}

// endForApplication ends the subscription, and its frames, because the
// application no longer wants it.
func (s *subscriber) endForApplication(err error) {
	if !s.ended {
		s.c.unsubscribe(s)
		s.endWith(err)
	}
}

func (c *Client) detachAll() {
	for _, s := range c.byID {
		s.id, s.live = "", false
		s.delivery.interrupted()
	}
	clear(c.byID)
	for _, s := range c.subscribers {
		s.awaitsMove = false
	}
}

// endOtherLog ends the subscriptions that refer to another log, and lets the
// others start over.
func (c *Client) endOtherLog() {
	for _, s := range slices.Clone(c.subscribers) {
		if s.delivery.isResuming() {
			s.endWith(&Error{
				Code: CodeCursorAhead, Retry: RetryNo,
				Message: fmt.Sprintf("the cursor belongs to another log than %s, which lacks events that you know: discard your copy and start again", c.log),
			})
		} else {
			s.delivery.startOver()
		}
	}
}

func (c *Client) endSubscriptions(err *Error) {
	for _, s := range slices.Clone(c.subscribers) {
		s.endWith(err)
	}
}
