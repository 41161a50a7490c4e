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
)

// handleHello identifies the client, replies with welcome and begins the
// subscriptions of the hello.
func (s reader) handleHello(f frame.Hello, r *request) {
	s.mu.Lock()
	client := s.client
	s.mu.Unlock()
	if client.saidHello {
		s.fail(r, command.BadRequest("op", "hello was sent before: send it once; auth renews a token"))
		return
	}
	identity, failure := s.authenticate(f, client.identity)
	code, reason := frame.CloseUnauthenticated, "unauthenticated"
	switch {
	case failure != nil && failure.Code == command.CodeUnavailable:
		code, reason = frame.CloseLost, "tokens can't be checked at the moment"
	case failure != nil:
	case identity.IsAnonymous() && s.server.Gate.NeedsClient:
		failure = command.Unauthenticated("this gateway accepts no anonymous clients: send a token in hello")
	default:
		if failure = s.server.Roster.Enter(s.Session, identity.Client); failure != nil {
			code, reason = frame.CloseTooMany, "too many sessions"
		}
	}
	if failure != nil {
		s.fail(r, failure)
		s.CloseAfterFlush(code, reason)
		return
	}
	log := s.server.Log.ID()
	s.acceptHello(identity, f.Log, log)
	s.reply(r, frame.Welcome{
		ID: f.ID, Session: s.id, Client: identity.Client, Node: s.server.Node, Server: s.server.Version,
		Log: log, Cursor: history.Cursor(s.server.Hub.Head()), HeartbeatMS: s.server.Heartbeat.Milliseconds(),
		Limits: s.server.Limits.Welcome(),
	})
	for _, bad := range f.Refused {
		s.refuseSubscription(bad)
	}
	for _, sub := range f.Subscriptions {
		s.subscribeInHello(sub, log)
	}
}

// authenticate verifies and returns the identity that a hello claims.
func (s reader) authenticate(f frame.Hello, handshake access.Identity) (access.Identity, *command.Failure) {
	claimed, err := handshake, error(nil)
	switch {
	case f.Token != "":
		claimed, err = s.server.Auth.Token(s.ctx, f.Token)
	case f.Client != "":
		claimed, err = s.server.Auth.Trust(s.ctx, f.Client)
	}
	if err == nil && !handshake.IsAnonymous() && claimed.Client != handshake.Client {
		err = errors.New("hello and the handshake's Authorization name different clients")
	}
	if err != nil {
		return claimed, access.Failure(err)
	}
	return claimed, nil
}

// acceptHello sets the identity of hello, and starts the heartbeats.
func (s reader) acceptHello(identity access.Identity, clientLog, log string) {
	s.mu.Lock()
	s.identify(identity)
	s.client.saidHello = true
	if clientLog != log {
		s.client.otherLog = clientLog
	}
	s.deadlines.hello.Stop()
	s.deadlines.hello = nil
	s.deadlines.heartbeat = time.AfterFunc(s.server.Heartbeat, s.onHeartbeat)
	s.mu.Unlock()
	s.CloseIfRevoked()
}

// subscribeInHello begins a subscription of a hello. Its request has no slot.
func (s reader) subscribeInHello(f frame.Subscribe, log string) {
	s.mu.Lock()
	if s.isTaken(f.ID) {
		s.push(wire.Fault("", "", duplicate(f.ID)))
		s.mu.Unlock()
		return
	}
	r, otherLog := s.requests.add(f.ID, false), s.client.otherLog
	s.mu.Unlock()
	if otherLog != "" && f.Resumes() && f.Query == "" {
		s.fail(r, history.OtherLog(otherLog, log))
		return
	}
	s.subscribe(f, r)
}

// refuseSubscription replies to an invalid subscription of a hello.
func (s reader) refuseSubscription(bad *frame.Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := wire.Fault(bad.ID, "", bad.Failure())
	if s.isTaken(bad.ID) {
		f.ID, f.Message = "", "subscription with the id "+bad.ID+", which is in use: "+bad.Message
	}
	s.push(f)
}

// handleAuth renews the session's identity.
func (s reader) handleAuth(f frame.Auth, r *request) {
	s.mu.Lock()
	mayRenew := s.requests.mayRenew()
	s.mu.Unlock()
	if !mayRenew {
		s.server.Counters.Reached(limits.Renewals)
		s.fail(r, command.RateLimited(time.Second, "this session renews its token too often: its previous token stays in use; renew again after after_ms"))
		return
	}
	identity, err := s.server.Auth.Token(s.ctx, f.Token)
	if err != nil {
		s.fail(r, access.Failure(err))
		return
	}
	s.mu.Lock()
	isSame := identity.Client == s.client.identity.Client
	if isSame {
		s.identify(identity)
		s.client.renewals++
	}
	s.mu.Unlock()
	if !isSame {
		s.fail(r, command.Unauthenticated("the token belongs to another client, and a session keeps its client id: open a new session for it"))
		s.CloseAfterFlush(frame.CloseUnauthenticated, "the token belongs to another client")
		return
	}
	s.CloseIfRevoked()
	s.recheckAccess()
	s.renewQueries()
	s.renewConsumers()
	s.reply(r, frame.Result{ID: f.ID})
}
