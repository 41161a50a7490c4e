package session

import (
	"errors"
	"time"

	"github.com/ganglion-es/ganglion/gateway/internal/access"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
	"golang.org/x/time/rate"
)

// This file has the way of a request, in the order of the calls: acquire a slot,
// handle, claim the id, then a method for each op, and a reply. hello.go has
// hello and auth, states.go the reads of states, queries.go queries, consumers.go
// consume, ack and park, subs.go unsubscribe.

// requests has the open requests and bounds their number. Session.mu guards all
// fields but slots.
type requests struct {
	slots    chan struct{} // has an element for each request that is open or whose reply is unwritten
	open     map[string]*request
	rate     *limits.Bucket // of commands
	renewals *rate.Limiter  // nil before the first auth
}

// request is a request without a reply.
type request struct {
	id, key string
	hasSlot bool // the subscriptions of a hello have none
}

func newRequests(l *limits.Limits) requests {
	return requests{
		slots: make(chan struct{}, l.OpenRequests),
		open:  make(map[string]*request),
		rate:  limits.NewBucket(l.CommandsPerSecond),
	}
}

// add registers a request under its id.
func (rs *requests) add(id string, hasSlot bool) *request {
	r := &request{id: id, hasSlot: hasSlot}
	rs.open[id] = r
	return r
}

// remove removes a request. It returns false if the request has had its reply.
func (rs *requests) remove(r *request) bool {
	if r == nil || rs.open[r.id] != r {
		return false
	}
	delete(rs.open, r.id)
	return true
}

// free frees the slots of n requests. It does not block, since each has a slot.
func (rs *requests) free(n int) {
	for range n {
		<-rs.slots
	}
}

// How often a session may renew its token, which is expensive to check.
const (
	renewalsInARow = 10
	renewalEvery   = time.Second
)

// mayRenew reports whether the session may renew its token now.
func (rs *requests) mayRenew() bool {
	if rs.renewals == nil {
		rs.renewals = rate.NewLimiter(rate.Every(renewalEvery), renewalsInARow)
	}
	return rs.renewals.Allow()
}

// reader has the methods for the goroutine that reads.
type reader struct{ *Session }

var _ wire.Handler = reader{}

// Limits implements [wire.Handler].
func (s reader) Limits() *limits.Limits { return &s.server.Limits }

// Reached implements [wire.Handler].
func (s reader) Reached(k limits.Kind) { s.server.Counters.Reached(k) }

// Done implements [wire.Handler].
func (s reader) Done() <-chan struct{} { return s.ctx.Done() }

// Acquire implements [wire.Handler]: it blocks until a slot is free and the
// outbox has room. It returns false once the session accepts no more requests.
func (s reader) Acquire() bool {
	select {
	case s.requests.slots <- struct{}{}:
	default:
		s.server.Counters.Reached(limits.OpenRequests)
		s.setPaused(true)
		defer s.setPaused(false)
		select {
		case s.requests.slots <- struct{}{}:
		case <-s.ctx.Done():
			return false
		}
	}
	s.mu.Lock()
	for !s.out.HasRoom() && !s.out.IsClosing() {
		s.deadlines.isPaused = true
		s.mu.Unlock()
		select {
		case <-s.room:
		case <-s.ctx.Done():
		}
		s.mu.Lock()
		s.deadlines.isPaused = false
		s.conn.Touch()
		if s.ctx.Err() != nil {
			break
		}
	}
	isClosing, isDeparting := s.out.IsClosing(), s.departure.reason != ""
	s.mu.Unlock()
	if isDeparting && !isClosing { // its pending replies must still be written
		<-s.ctx.Done()
		return false
	}
	return !isClosing
}

// setPaused records whether the gateway has stopped reading from the client,
// whose silence then does not count.
func (s reader) setPaused(isPaused bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadlines.isPaused = isPaused
	s.conn.Touch()
}

// Handle implements [wire.Handler].
func (s reader) Handle(f frame.Request) {
	if ack, ok := f.(frame.Ack); ok { // it has no id, and no reply
		s.ack(ack)
		return
	}
	r := s.claim(f)
	if r == nil {
		return
	}
	switch f := f.(type) {
	case frame.Command:
		s.sendCommand(f, r)
	case frame.Get:
		s.get(f, r)
	case frame.Subscribe:
		s.subscribe(f, r)
	case frame.Unsubscribe:
		s.unsubscribe(f, r)
	case frame.Ping:
		s.reply(r, frame.Pong(f))
	case frame.Hello:
		s.handleHello(f, r)
	case frame.Auth:
		s.handleAuth(f, r)
	case frame.Query:
		s.query(f, r)
	case frame.Consume:
		s.consume(f, r)
	case frame.Park:
		s.park(f, r)
	}
}

// claim registers a request under its id. If the request is not allowed now,
// claim replies with a failure and returns nil.
func (s reader) claim(f frame.Request) *request {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := f.RequestID()
	switch {
	case !s.client.saidHello && !mayPrecedeHello(f):
		c, _ := f.(frame.Command)
		s.add(wire.Fault(id, c.Key, helloFirst()), true)
		return nil
	case s.isTaken(id):
		s.add(wire.Fault("", "", duplicate(id)), true)
		return nil
	}
	return s.requests.add(id, true)
}

func helloFirst() *command.Failure {
	return command.BadRequest("op", "say hello first: {\"op\":\"hello\",\"id\":\"1\"}")
}

func mayPrecedeHello(f frame.Request) bool {
	switch f.(type) {
	case frame.Hello, frame.Ping:
		return true
	}
	return false
}

// isTaken reports whether an id is in use. The caller holds s.mu.
func (s reader) isTaken(id string) bool {
	_, isRequest := s.requests.open[id]
	_, isSub := s.subs.byID[id]
	_, isQuery := s.queries.byID[id]
	_, isConsumer := s.consumers.byID[id]
	return isRequest || isSub || isQuery || isConsumer
}

// duplicate refuses an id that is in use. The fault has no id, so that it does
// not end the request that uses the id.
func duplicate(id string) *command.Failure {
	return command.BadRequest("id", "the id \"%s\" is in use by an open request or a subscription: choose another", id)
}

// sendCommand passes a command to the router, which keeps the order of the
// calls and replies to each by its deadline. The gateway has no timeout of its
// own: the router would not know about it, and would execute later commands
// before the client's retry.
func (s reader) sendCommand(f frame.Command, r *request) {
	s.mu.Lock()
	identity, after := s.client.identity, s.requests.rate.Take(time.Now())
	s.mu.Unlock()
	r.key = f.Key
	c, log, failure := s.server.Gate.Admit(f, identity, s.id, after)
	if failure != nil {
		s.fail(r, failure)
		return
	}
	s.server.Send(c, func(o command.Outcome) {
		log.End(c.Key, o)
		s.reply(r, wire.Outcome(r.id, c.Key, o))
	})
}

// get reads an aggregate's state once the outbox has room for it.
func (s reader) get(f frame.Get, r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	identity := s.client.identity
	var state command.State
	var failure *command.Failure
	s.readState(&stateRead{
		read: func() int {
			if failure = s.server.Gate.MayRead(identity, history.Topic{Stream: f.Aggregate}); failure != nil {
				return 0
			}
			state, failure = s.server.States.Get(s.ctx, s.caller(identity), command.Get{Stream: f.Aggregate, AtLeast: f.AtLeast, Strong: f.Strong})
			return len(state.Data)
		},
		done: func() {
			if failure != nil {
				s.replyLocked(r, wire.Fault(r.id, "", failure))
				return
			}
			s.replyLocked(r, frame.Result{ID: r.id, Version: state.Version, Position: state.Position, Data: state.Data})
		},
	})
}

// caller returns the client and session for which history counts reads.
func (s reader) caller(id access.Identity) history.Caller {
	return history.Caller{Client: id.Client, Session: s.id}
}

// subscribe begins a subscription.
func (s reader) subscribe(f frame.Subscribe, r *request) {
	if f.Query != "" {
		s.follow(f, r)
		return
	}
	topic := history.Topic{Stream: f.Stream, Category: f.Category}
	s.mu.Lock()
	client, count := s.client, s.countSubscriptions()
	s.mu.Unlock()
	var failure *command.Failure
	switch {
	case client.otherLog != "" && f.Resumes() && !f.FromBeginning():
		failure = history.OtherLog(client.otherLog, s.server.Log.ID())
	case count >= s.server.Limits.Subscriptions:
		failure = s.tooManySubscriptions()
	default:
		failure = s.server.Gate.MayRead(client.identity, topic)
	}
	if failure != nil {
		s.fail(r, failure)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.newSubscription(r.id, topic, f.State)
	sub.request = r
	s.locate(sub, f)
}

// countSubscriptions returns the number of subscriptions. The caller holds s.mu.
func (s reader) countSubscriptions() int {
	return len(s.subs.byID) + len(s.queries.byID) + len(s.consumers.byID)
}

func (s reader) tooManySubscriptions() *command.Failure {
	s.server.Counters.Reached(limits.Subscriptions)
	failure := command.RateLimited(0, "too many subscriptions: welcome.limits states the maximum; unsubscribe from one first")
	failure.Retry = command.RetryNo
	return failure
}

// locate finds where a subscription begins, and calls begin. The caller holds
// s.mu.
func (s reader) locate(sub *subscription, req frame.Subscribe) {
	var from history.Start
	var failure *command.Failure
	caller := s.caller(s.client.identity)
	read := &stateRead{
		read: func() int {
			from, failure = s.server.Log.Locate(s.ctx, caller, sub.Topic(), req)
			return len(from.State)
		},
		done: func() { s.begin(sub, req.State == frame.StateFirst, from, failure) },
	}
	if req.State == frame.StateFirst {
		s.readState(read)
		return
	}
	s.spawn(func() {
		read.read()
		s.mu.Lock()
		defer s.mu.Unlock()
		read.done()
	})
}

// begin replies to a subscribe and starts the subscription at its place. The
// caller holds s.mu.
func (s reader) begin(sub *subscription, withState bool, from history.Start, failure *command.Failure) {
	r := sub.request
	switch {
	case sub.hasEnded: // by unsubscribe, or because access was revoked
		s.requests.remove(r)
		if r.hasSlot {
			s.requests.free(1)
		}
		s.sayGoodbyeIfDone()
	case failure != nil:
		s.subs.remove(sub)
		s.replyLocked(r, wire.Fault(r.id, "", failure))
	default:
		sub.isStarted, sub.Place = true, from.Place
		s.requests.remove(r)
		s.add(frame.Subscribed{ID: r.id, Cursor: history.Cursor(from.Head)}, r.hasSlot)
		if withState {
			s.push(frame.State{Sub: sub.id, Version: from.Version, Position: from.StatePosition, Data: from.State})
		}
		s.subs.markReady(sub)
		s.out.ScheduleWrite()
		s.sayGoodbyeIfDone()
	}
}

// Malformed implements [wire.Handler]. If the frame's id is in use, the reply
// has no id, so that it does not end the request that uses the id.
func (s reader) Malformed(err error) command.Code {
	var bad *frame.Error
	if !errors.As(err, &bad) {
		bad = &frame.Error{Code: command.CodeInternal, Message: "internal error"}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := wire.Fault(bad.ID, bad.Key, bad.Failure())
	if s.isTaken(bad.ID) {
		f.ID, f.Key = "", ""
		f.Message = "frame with the id " + bad.ID + ", which is in use: " + bad.Message
	}
	s.add(f, true)
	return bad.Code
}

// fail replies to a request with a failure.
func (s *Session) fail(r *request, failure *command.Failure) {
	s.reply(r, wire.Fault(r.id, r.key, failure))
}

// reply replies to a request, unless it has had its reply.
func (s *Session) reply(r *request, f frame.Frame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replyLocked(r, f)
}

// replyLocked is reply for callers that hold s.mu.
func (s *Session) replyLocked(r *request, f frame.Frame) {
	if s.requests.remove(r) {
		s.add(f, r.hasSlot)
		s.sayGoodbyeIfDone()
	}
}

// push sends a frame that is not a reply. The caller holds s.mu.
func (s *Session) push(f frame.Frame) { s.add(f, false) }

// add adds a frame to the outbox. If it is a reply, writing it frees a slot.
// The caller holds s.mu.
func (s *Session) add(f frame.Frame, isReply bool) {
	b := s.wire.Frame(f)
	if (len(b) == 0 || !s.out.Add(b, isReply)) && isReply {
		s.requests.free(1)
	}
	if code, reason := s.wire.CloseAfter(f); code != 0 {
		s.closeAfterFlush(code, reason)
	}
}
