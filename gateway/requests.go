package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// handle answers one frame. A slot has been taken for it.
func (s *session) handle(f frame.Request) {
	s.mu.Lock()
	greeted := s.greeted
	s.mu.Unlock()
	if !greeted {
		switch f := f.(type) {
		case frame.Hello, frame.Ping:
		default:
			c, _ := f.(frame.Command)
			s.answer(frame.Fault{
				ID: f.RequestID(), Key: c.Key, Code: command.BadRequest, Field: "op", Retry: command.RetryNo,
				Message: "say hello first: {\"op\":\"hello\",\"id\":\"1\"}",
			})
			return
		}
	}
	r := s.claim(f)
	if r == nil {
		return
	}
	switch f := f.(type) {
	case frame.Command:
		s.command(f, r)
	case frame.Get:
		s.get(f, r)
	case frame.Subscribe:
		s.subscribe(f, r, true)
	case frame.Unsubscribe:
		s.unsubscribe(f, r)
	case frame.Ping:
		s.settle(f.ID, r, frame.Pong(f))
	case frame.Hello:
		s.greet(f, r)
	case frame.Auth:
		s.auth(f, r)
	case frame.Query:
		s.settle(f.ID, r, fault(f.ID, "", &command.Failure{
			Code: command.Unsupported, Retry: command.RetryNo, Message: "this gateway answers no queries yet: read aggregates with get",
		}))
	}
}

// greet answers hello.
func (s *session) greet(f frame.Hello, r *request) {
	s.mu.Lock()
	greeted, identity := s.greeted, s.identity
	s.mu.Unlock()
	if greeted {
		s.settle(f.ID, r, fault(f.ID, "", &command.Failure{
			Code: command.BadRequest, Field: "op", Retry: command.RetryNo, Message: "hello was said before: say it once; auth renews a token",
		}))
		return
	}
	var claimed Identity
	var err error
	switch {
	case f.Token != "":
		claimed, err = s.g.cfg.Auth.Token(s.ctx, f.Token)
	case f.Client != "":
		claimed, err = s.g.cfg.Auth.Trust(s.ctx, f.Client)
	default:
		claimed = identity
	}
	if err == nil && identity.Client != "" && claimed.Client != identity.Client {
		err = errors.New("hello and the handshake's Authorization name different clients")
	}
	if err != nil {
		failure := untrusted(err)
		s.settle(f.ID, r, fault(f.ID, "", failure))
		if failure.Code == command.Unavailable {
			s.closeAfter(frame.CloseLost, "tokens can't be checked at the moment")
		} else {
			s.closeAfter(frame.CloseUnauthenticated, "unauthenticated")
		}
		return
	}
	if claimed.Client == "" && s.g.needsClient {
		s.settle(f.ID, r, fault(f.ID, "", needsToken()))
		s.closeAfter(frame.CloseUnauthenticated, "unauthenticated")
		return
	}
	if err := s.g.enter(s, claimed.Client); err != nil {
		failure := tooMany(err)
		s.settle(f.ID, r, fault(f.ID, "", failure))
		s.closeAfter(frame.CloseTooMany, "too many sessions")
		return
	}

	log := s.g.cfg.Store.LogID()
	s.mu.Lock()
	s.identify(claimed)
	s.greeted = true
	if f.Log != log {
		s.otherLog = f.Log
	}
	s.hello.Stop()
	s.hello = nil
	s.heartbeat = time.AfterFunc(s.g.cfg.Heartbeat, s.beat)
	s.mu.Unlock()
	s.endIfRevoked()
	s.settle(f.ID, r, frame.Welcome{
		ID: f.ID, Session: s.id, Client: claimed.Client, Node: s.g.cfg.Node, Server: s.g.cfg.Version,
		Log: log, Cursor: cursor(s.g.hub.position()), HeartbeatMS: s.g.cfg.Heartbeat.Milliseconds(),
		Limits: s.g.cfg.Limits.welcome(),
	})
	for _, bad := range f.Refused {
		s.refuseSubscription(bad)
	}
	for _, sub := range f.Subscriptions {
		var r *request
		s.mu.Lock()
		taken := s.taken(sub.ID)
		if taken {
			s.enqueue(item{frame: duplicate(sub.ID).Append(nil)})
		} else {
			r = &request{}
			s.open[sub.ID] = r
		}
		s.mu.Unlock()
		switch {
		case taken:
		case s.otherLog != "" && sub.Resumes():
			s.refuseStart(sub.ID, cursorOfOtherLog(s.otherLog, log), false)
		default:
			s.subscribe(sub, r, false)
		}
	}
}

// cursorOfOtherLog refuses to resume in this log what was seen in another.
func cursorOfOtherLog(other, log string) *command.Failure {
	return &command.Failure{
		Code: command.CursorAhead, Retry: command.RetryNo,
		Message: "your cursors belong to the log " + other + ", this is " + log + ": what you know was lost here; start from the beginning, and say hello with this log's id from now on",
	}
}

func (s *session) refuseSubscription(bad *frame.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := frame.Fault{ID: bad.ID, Code: bad.Code, Message: bad.Message, Field: bad.Field, Retry: command.RetryNo}
	if s.taken(bad.ID) {
		f.ID, f.Message = "", "subscription with the id "+bad.ID+", which is in use: "+bad.Message
	}
	s.enqueue(item{frame: f.Append(nil)})
}

// auth renews the session's identity.
func (s *session) auth(f frame.Auth, r *request) {
	if !s.mayRenew() {
		s.g.reached(limitRenewals)
		s.settle(f.ID, r, fault(f.ID, "", &command.Failure{
			Code: command.RateLimited, Retry: command.RetryLater, After: time.Second,
			Message: "this session renews its token too often: the one from before stays in use; renew again after after_ms",
		}))
		return
	}
	identity, err := s.g.cfg.Auth.Token(s.ctx, f.Token)
	if err != nil {
		s.settle(f.ID, r, fault(f.ID, "", untrusted(err)))
		return
	}
	s.mu.Lock()
	same := identity.Client == s.identity.Client
	if same {
		s.identify(identity)
		s.renewals++
	}
	s.mu.Unlock()
	if !same {
		s.settle(f.ID, r, fault(f.ID, "", &command.Failure{
			Code: command.Unauthenticated, Retry: command.RetryNo,
			Message: "the token is another client's: a session keeps its client id; connect anew",
		}))
		s.closeAfter(frame.CloseUnauthenticated, "the token is another client's")
		return
	}
	s.endIfRevoked()
	s.recheck()
	s.settle(f.ID, r, frame.Result{ID: f.ID})
}

// command passes a command to the router, which keeps the order of the calls
// and answers each by its deadline. The gateway adds no deadline of its own: a
// timeout that the router does not know of would let the commands behind it be
// executed first.
func (s *session) command(f frame.Command, r *request) {
	s.mu.Lock()
	identity, after := s.identity, s.rate.take(time.Now())
	s.mu.Unlock()
	log := s.g.logCommand(&f, identity)
	var c command.Command
	var failure *command.Failure
	if after > 0 {
		failure = s.g.tooFast(after)
	} else {
		c, failure = s.g.prepare(f, identity, s.id)
	}
	if failure != nil {
		log.end(f.Key, command.Failed(failure))
		s.settle(f.ID, r, fault(f.ID, f.Key, failure))
		return
	}
	s.g.stats.commands.Add(1)
	s.g.cfg.Router.Send(c, func(o command.Outcome) {
		log.end(c.Key, o)
		s.settle(f.ID, r, answer(f.ID, c.Key, o))
	})
}

// prepare checks a command and makes it ready for the router.
func (g *Gateway) prepare(f frame.Command, identity Identity, session string) (command.Command, *command.Failure) {
	cat := g.cfg.Catalog
	typ, id := f.Aggregate.Type, f.Aggregate.ID
	switch {
	case !cat.HasType(typ):
		return command.Command{}, unknownType(typ)
	case !cat.HasCommand(typ, f.Command):
		return command.Command{}, &command.Failure{
			Code: command.NotFound, Retry: command.RetryNo, Message: "aggregates of type " + typ + " have no command \"" + clip(f.Command) + "\"",
		}
	case !cat.MaySend(identity.Client, identity.Claims, typ, id, f.Command):
		return command.Command{}, refused(identity, "send \""+f.Command+"\" to "+f.Aggregate.String())
	}
	if field, err := cat.CheckCommand(typ, f.Command, f.Data); err != nil {
		return command.Command{}, &command.Failure{Code: command.BadRequest, Retry: command.RetryNo, Field: field, Message: err.Error()}
	}
	c := command.Command{
		Stream: f.Aggregate, Name: f.Command, Data: f.Data, Checked: true,
		Key: f.Key, ClientKey: f.Key != "",
		Client: identity.Client, Claims: identity.Claims,
		Session: session, Expect: f.Expect,
		Deadline: time.Now().Add(f.Timeout()),
		Attempt:  1, Trace: f.Trace,
	}
	if c.Key == "" {
		c.Key = newID()
	}
	return c, nil
}

func (s *session) get(f frame.Get, r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	identity := s.identity
	var state command.State
	var failure *command.Failure
	s.ask(&ask{
		read: func() int {
			state, failure = s.g.state(s.ctx, f, identity, s.id)
			return len(state.Data)
		},
		done: func() {
			if failure != nil {
				s.settleLocked(f.ID, r, fault(f.ID, "", failure))
				return
			}
			s.settleLocked(f.ID, r, frame.Result{ID: f.ID, Version: state.Version, Position: state.Position, Data: state.Data})
		},
	})
}

// state reads an aggregate's public state. session is "" over HTTP.
func (g *Gateway) state(ctx context.Context, f frame.Get, identity Identity, session string) (command.State, *command.Failure) {
	if failure := g.mayRead(identity, topic{stream: f.Aggregate}); failure != nil {
		return command.State{}, failure
	}
	return g.askRouter(ctx, asker{identity.Client, session}, command.Get{Stream: f.Aggregate, AtLeast: f.AtLeast, Strong: f.Strong})
}

// mayRead checks a topic and the right to read it.
func (g *Gateway) mayRead(identity Identity, t topic) *command.Failure {
	cat := g.cfg.Catalog
	switch {
	case !cat.HasType(t.typ()):
		return unknownType(t.typ())
	case t.category != "" && !cat.MayReadAll(identity.Client, identity.Claims, t.category):
		f := refused(identity, "read every "+t.category)
		if f.Code == command.Forbidden {
			f.Message += ": set Access.ReadAll of " + t.category + " to a rule that allows it (Read by a rule of one's own opens no category)"
		}
		return f
	case t.category == "" && !cat.MayRead(identity.Client, identity.Claims, t.stream.Type, t.stream.ID):
		return refused(identity, "read "+t.stream.String())
	}
	return nil
}

// subscribe begins a subscription, whose id has been claimed. slot says that a
// slot was taken for it; those in hello have none.
func (s *session) subscribe(f frame.Subscribe, r *request, slot bool) {
	t := topic{stream: f.Stream, category: f.Category}
	s.mu.Lock()
	identity, count := s.identity, len(s.subs)
	s.mu.Unlock()
	var failure *command.Failure
	switch {
	case f.Query != "":
		failure = &command.Failure{Code: command.Unsupported, Retry: command.RetryNo, Message: "this gateway answers no queries yet: subscribe to a stream or a category"}
	case s.otherLog != "" && f.Resumes() && !f.FromBeginning():
		failure = cursorOfOtherLog(s.otherLog, s.g.cfg.Store.LogID())
	case count >= s.g.cfg.Limits.Subscriptions:
		s.g.reached(limitSubscriptions)
		failure = &command.Failure{Code: command.RateLimited, Retry: command.RetryNo, Message: "too many subscriptions: welcome.limits says how many; unsubscribe from one first"}
	default:
		failure = s.g.mayRead(identity, t)
	}
	if failure != nil {
		s.refuseStart(f.ID, failure, slot)
		return
	}
	sub := &subscription{session: s, id: f.ID, request: r, topic: t, head: string(frame.AppendEventHead(nil, f.ID))}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs[f.ID] = sub
	s.begin(sub, f, slot)
}

// refuseStart answers a subscribe that can't begin.
func (s *session) refuseStart(id string, failure *command.Failure, slot bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, id)
	s.enqueue(item{frame: fault(id, "", failure).Append(nil), slot: slot})
	s.settled()
}

func (s *session) unsubscribe(f frame.Unsubscribe, r *request) {
	s.mu.Lock()
	sub := s.subs[f.Sub]
	if sub != nil {
		s.forget(sub)
		if s.open[sub.id] == sub.request {
			delete(s.open, sub.id) // unsubscribed settles it
		}
	}
	s.mu.Unlock()
	if sub == nil {
		s.settle(f.ID, r, fault(f.ID, "", &command.Failure{
			Code: command.BadRequest, Field: "sub", Retry: command.RetryNo, Message: "there is no subscription \"" + f.Sub + "\"",
		}))
		return
	}
	s.settle(f.ID, r, frame.Unsubscribed{ID: f.ID, Sub: f.Sub})
}

// answer turns an outcome into its frame.
func answer(id, key string, o command.Outcome) frame.Frame {
	if o.Failure != nil {
		return fault(id, key, o.Failure)
	}
	r := o.Result
	return frame.Result{ID: id, Key: key, Version: r.Version, Position: r.Position, Replayed: r.Replayed, Data: r.Data}
}

// fault turns a failure into its frame.
func fault(id, key string, f *command.Failure) frame.Fault {
	out := frame.Fault{
		ID: id, Key: key, Code: f.Code, Reason: f.Reason, Message: f.Message, Retry: f.Retry,
		AfterMS: f.After.Milliseconds(), Version: f.Version, Field: f.Field, Replayed: f.Replayed,
	}
	if out.Retry == "" {
		out.Retry = command.RetryNo
	}
	return out
}

// asFailure turns the router's error into a failure; what is not one is
// nobody's business outside.
func asFailure(err error, retry command.Retry) *command.Failure {
	var f *command.Failure
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, context.DeadlineExceeded):
		return &command.Failure{Code: command.Timeout, Retry: retry, Message: "no answer in time: try again"}
	case errors.Is(err, context.Canceled):
		return &command.Failure{Code: command.Unavailable, Retry: retry, Message: "the gateway stops: try again"}
	}
	return &command.Failure{Code: command.Internal, Retry: retry, Message: "internal error: the node's log has the details"}
}

func unknownType(typ string) *command.Failure {
	return &command.Failure{Code: command.NotFound, Retry: command.RetryNo, Message: "there are no aggregates of type \"" + clip(typ) + "\""}
}

// refused says that a caller may not do something: to nobody, that it should
// say who it is.
func refused(identity Identity, what string) *command.Failure {
	if identity.Client == "" {
		return &command.Failure{Code: command.Unauthenticated, Retry: command.RetryNo, Message: "say who you are (a token, in development a client id) to " + what}
	}
	return &command.Failure{Code: command.Forbidden, Retry: command.RetryNo, Message: identity.Client + " may not " + what}
}

func clip(s string) string { return s[:min(len(s), eventstore.MaxIDBytes)] }
