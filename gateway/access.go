package gateway

import (
	"context"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// A Revoker is an Authenticator that may take back what it said: it hears of
// tokens that are good no more before they expire.
type Revoker interface {
	Authenticator
	// Revoked says why an identity that it once returned is good no more, nil
	// if it still is.
	Revoked(Identity) error
	// Revocations returns a channel that is closed when Revoked may say of
	// more identities than now that they are revoked.
	Revocations() <-chan struct{}
}

// watchRevoked closes the sessions whose tokens are revoked, until ctx ends.
func (g *Gateway) watchRevoked(ctx context.Context) {
	revoker, ok := g.cfg.Auth.(Revoker)
	if !ok {
		return
	}
	for {
		more := revoker.Revocations()
		for _, s := range g.all() {
			s.endIfRevoked()
		}
		select {
		case <-more:
		case <-ctx.Done():
			return
		}
	}
}

// endIfRevoked closes the session if its token is revoked. It is called when
// there are new revocations, and when the session has a new identity: either
// whoever revokes finds the identity here, or who comes with it finds the
// revocation.
func (s *session) endIfRevoked() {
	revoker, ok := s.g.cfg.Auth.(Revoker)
	if !ok {
		return
	}
	s.mu.Lock()
	identity, over := s.identity, s.closing
	s.mu.Unlock()
	if over || identity.Client == "" || revoker.Revoked(identity) == nil {
		return
	}
	s.g.stats.revoked.Add(1)
	s.g.cfg.Logger.Info("session closed: its token was revoked", "session", s.id, "client", identity.Client)
	s.closeAfter(frame.CloseUnauthenticated, "the token was revoked")
}

// recheck ends the subscriptions that the session's identity may no longer
// read: events that they have not sent yet are never sent. It is called when
// the identity was renewed, by the session's reader, so that no subscription is
// added in the meantime; and at each heartbeat, for rules that look at more
// than the token, and for Server-Sent Events, whose token is never renewed.
func (s *session) recheck() {
	s.mu.Lock()
	identity, renewals := s.identity, s.renewals
	subs := make([]*subscription, 0, len(s.subs))
	for _, sub := range s.subs {
		subs = append(subs, sub)
	}
	s.mu.Unlock()
	for _, sub := range subs { // the application's rules run without the lock
		if failure := s.g.mayRead(identity, sub.topic); failure != nil {
			s.withhold(sub, renewals, failure)
		}
	}
}

// withhold ends a subscription to which access was withdrawn. It does nothing
// if the identity that was asked about has been renewed: then the rules are
// asked about the new one.
func (s *session) withhold(sub *subscription, renewals int, failure *command.Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sub.ended || s.renewals != renewals {
		return
	}
	s.forget(sub)
	if !sub.started { // begin gives back the slot of its subscribe, which is answered here
		delete(s.open, sub.id)
		s.enqueue(item{frame: fault(sub.id, "", failure).Append(nil)})
		return
	}
	s.say(frame.Unsubscribed{Sub: sub.id, Code: failure.Code, Message: failure.Message, Cursor: sub.cursor()})
	s.bereft()
}
