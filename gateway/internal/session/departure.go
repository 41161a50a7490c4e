package session

import (
	"math/rand/v2"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// departure is the state of a session that is drained. It gets the replies to
// its open requests, the events up to the head, a last heartbeat, goodbye and
// the close code 1012. Session.mu guards it.
type departure struct {
	reason           string              // "" until the session is drained
	upTo             eventstore.Position // the head when the departure began
	isGoodbyePending bool                // the next heartbeat is the last
}

// maxReconnect bounds the random time that goodbye tells a client to wait before
// it reconnects. Without it, clients would reconnect almost together, and to a
// node that a load balancer may not yet know to be draining.
const maxReconnect = time.Second

// Drain makes the session accept no more requests, and closes it after its
// pending replies and events.
func (s *Session) Drain(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.departure.reason == "" {
		s.departure.reason, s.departure.upTo = reason, s.server.Hub.Head()
		for _, c := range s.consumers.list() { // other members get its segments
			s.leaveGroup(c)
		}
		s.sayGoodbyeIfDone()
	}
}

// sayGoodbyeIfDone says goodbye to a departing session that has no open
// request. The caller holds s.mu.
func (s *Session) sayGoodbyeIfDone() {
	switch {
	case s.departure.reason == "" || len(s.requests.open) > 0 || s.out.IsClosing():
	case !s.client.saidHello:
		s.sayGoodbye()
	default: // after the last heartbeat, and the events up to its cursor
		s.departure.isGoodbyePending, s.deadlines.isHeartbeatPending = true, true
		s.out.ScheduleWrite()
	}
}

// sayGoodbye closes the session. The caller holds s.mu.
func (s *Session) sayGoodbye() {
	s.departure.isGoodbyePending = false
	s.push(frame.Goodbye{Reason: s.departure.reason, ReconnectInMS: rand.Int64N(maxReconnect.Milliseconds())})
	s.closeAfterFlush(frame.CloseDraining, s.departure.reason)
}
