package session

import (
	"time"

	"github.com/ganglion-es/ganglion/gateway/internal/access"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// deadlines has the timers of a session. Session.mu guards it.
type deadlines struct {
	hello     *time.Timer // until hello
	heartbeat *time.Timer // since hello
	expiry    *time.Timer // of the identity; nil if it does not expire

	isHeartbeatPending bool // the next message with events ends with a heartbeat
	isPaused           bool // the gateway does not read, so the client's silence does not count
}

func (d *deadlines) stop() {
	for _, t := range []*time.Timer{d.heartbeat, d.hello, d.expiry} {
		if t != nil {
			t.Stop()
		}
	}
}

// onHelloTimeout closes a session that has not said hello.
func (s *Session) onHelloTimeout() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.client.saidHello {
		s.server.Counters.Reached(limits.HelloTimeout)
		s.closeAfterFlush(frame.CloseNoHello, "no hello in time")
	}
}

// onHeartbeat sends a heartbeat. If the client has been silent for three
// intervals, it closes the session instead.
func (s *Session) onHeartbeat() {
	interval := s.server.Heartbeat
	s.mu.Lock()
	isSilent := s.wire.Silence(s.conn.Silence()) >= 3*interval && !s.deadlines.isPaused
	isClosing := s.out.IsClosing()
	if !isClosing {
		s.deadlines.heartbeat.Reset(interval)
	}
	if !isClosing && !isSilent {
		s.deadlines.isHeartbeatPending = true
		s.out.Ping()
		if len(s.subs.byID) > 0 {
			s.spawn(s.recheckAccess)
		}
		if len(s.queries.byID) > 0 {
			s.spawn(s.renewQueries)
		}
		if len(s.consumers.byID) > 0 {
			s.spawn(s.renewConsumers)
		}
	}
	s.mu.Unlock()
	if isSilent && !isClosing {
		s.server.Logger.Info("session closed: silent for three heartbeats", "session", s.id)
		s.CloseAfterFlush(frame.CloseGoingAway, "silent for three heartbeats")
	}
}

// expiryWarning is how long before a token expires its session is warned. If the
// token is valid for less than twice that, the warning comes after half of its
// validity.
const expiryWarning = time.Minute

// identify sets the session's identity. If it expires when the previous one
// does, the timer stays: a client that sends the same token again, for instance
// from a cache, is not warned again. The caller holds s.mu.
func (s *Session) identify(identity access.Identity) {
	isSame := s.deadlines.expiry != nil && identity.Expires.Equal(s.client.identity.Expires)
	s.client.identity = identity
	if !isSame {
		s.armExpiry()
	}
}

// armExpiry starts the timer for the warning before the identity expires, and
// then for the expiry. The caller holds s.mu.
func (s *Session) armExpiry() {
	if s.deadlines.expiry != nil {
		s.deadlines.expiry.Stop()
		s.deadlines.expiry = nil
	}
	expires := s.client.identity.Expires
	if expires.IsZero() {
		return
	}
	left := time.Until(expires)
	warn := max(0, left-min(expiryWarning, left/2))
	var timer *time.Timer
	timer = time.AfterFunc(warn, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.deadlines.expiry != timer {
			return // renewed
		}
		if left := time.Until(expires); left > 0 {
			s.push(frame.Expiring{InMS: left.Milliseconds()})
			timer.Reset(left)
			return
		}
		s.closeAfterFlush(frame.CloseUnauthenticated, "the token has expired")
	})
	s.deadlines.expiry = timer
}
