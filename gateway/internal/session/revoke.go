package session

import (
	"github.com/ganglion-es/ganglion/gateway/internal/access"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// CloseIfRevoked closes the session if its token was revoked. It is called
// after tokens were revoked, and after the session got a new identity. If both
// happen concurrently, at least one of the calls closes the session.
func (s *Session) CloseIfRevoked() {
	revoker, ok := s.server.Auth.(access.Revoker)
	if !ok {
		return
	}
	s.mu.Lock()
	identity, isClosing := s.client.identity, s.out.IsClosing()
	s.mu.Unlock()
	if isClosing || identity.IsAnonymous() || revoker.Revoked(identity) == nil {
		return
	}
	s.server.Revoked.Add(1)
	s.server.Logger.Info("session closed: its token was revoked", "session", s.id, "client", identity.Client)
	s.CloseAfterFlush(frame.CloseUnauthenticated, "the token was revoked")
}

// recheckAccess ends the subscriptions to topics that the session's identity may
// no longer read. Their unsent events are never sent. The reader calls it after
// a renewal of the identity, so no subscription is added in the meantime. Each
// heartbeat calls it, too: rules may depend on more than the token, and the
// token of an event stream is never renewed.
func (s *Session) recheckAccess() {
	s.mu.Lock()
	identity, renewals := s.client.identity, s.client.renewals
	subs := s.subs.list()
	s.mu.Unlock()
	for _, sub := range subs { // the application's rules run without the lock
		if failure := s.server.Gate.MayRead(identity, sub.Topic()); failure != nil {
			s.revokeAccess(sub, renewals, failure)
		}
	}
}

// revokeAccess ends a subscription. It does nothing if the identity was renewed
// since the recheck began: another recheck applies the rules to the new one.
func (s *Session) revokeAccess(sub *subscription, renewals int, failure *command.Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.hasEnded || s.client.renewals != renewals {
		return
	}
	if sub.isStarted {
		s.withdraw(sub, failure)
		return
	}
	s.subs.remove(sub)
	s.requests.remove(sub.request) // begin will free its slot
	s.push(wire.Fault(sub.id, "", failure))
}
