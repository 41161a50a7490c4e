package gateway

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/proto/frame"
)

const (
	// partStep is the time between two sessions that are sent away when the
	// gateway drains, if the window is long enough for that.
	partStep = 5 * time.Millisecond
	// reconnectMost bounds what a session is told to wait before it connects
	// again. Each gets a time of its own: the steps between sessions may be
	// short, and what is behind a load balancer may notice late.
	reconnectMost = time.Second
)

// Why sessions are sent away, as goodbye and the close frame say it.
const (
	reasonDraining    = "draining"
	reasonRebalancing = "rebalancing"
)

// Drain refuses new sessions and sends those that there are away, spread over
// the drain window: each is served until its turn comes, then gets the answers
// to what it asked and the events up to the head, goodbye with its own time to
// reconnect, and the close code 1012. When ctx ends, Drain closes the rest
// without ceremony, and reports ctx's error.
func (g *Gateway) Drain(ctx context.Context) error {
	g.mu.Lock()
	g.draining = true
	g.mu.Unlock()
	g.partWith(ctx, g.all(), reasonDraining)
	return g.wait(ctx)
}

// Move sends n sessions away as Drain does, picked at random among those that
// have said hello: another gateway has room for them. It returns how many were
// asked to go once all have been, or ctx has ended. A client decides by itself,
// or its load balancer does, where it connects next.
func (g *Gateway) Move(ctx context.Context, n int) (asked int) {
	sessions := slices.DeleteFunc(g.all(), func(s *session) bool { return !s.isGreeted() })
	rand.Shuffle(len(sessions), func(i, j int) { sessions[i], sessions[j] = sessions[j], sessions[i] })
	return g.partWith(ctx, sessions[:min(max(n, 0), len(sessions))], reasonRebalancing)
}

// partWith sends sessions away one after another, and returns how many it has
// when ctx ends.
func (g *Gateway) partWith(ctx context.Context, sessions []*session, reason string) (asked int) {
	step := min(partStep, g.cfg.DrainWindow/time.Duration(max(1, len(sessions))))
	begun := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, s := range sessions {
		timer.Reset(time.Until(begun.Add(time.Duration(i) * step)))
		select {
		case <-timer.C:
			s.sendAway(reason)
		case <-ctx.Done():
			return i
		}
	}
	return len(sessions)
}

// sendAway takes no more requests from a session, and closes it after what it
// is owed.
func (s *session) sendAway(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaving != "" {
		return
	}
	s.leaving, s.owedTo = reason, s.g.hub.position()
	s.settled()
}

// settled says goodbye to a session that was sent away, once everything that
// it asked has been answered. The caller holds s.mu.
func (s *session) settled() {
	switch {
	case s.leaving == "" || len(s.open) > 0 || s.closing:
	case !s.greeted:
		s.sayGoodbye()
	default: // after a last heartbeat, and what that vouches for
		s.goodbyeDue, s.beatDue = true, true
		s.kick()
	}
}

// owesEvents tells whether a live subscription is still to get some that were
// there when the session was sent away. One that reads back is not waited for:
// the heartbeat says where it is. The caller holds s.mu.
func (s *session) owesEvents() bool {
	for _, sub := range s.busy {
		if sub.live && sub.at < s.owedTo {
			return true
		}
	}
	return false
}

// sayGoodbye closes the session. The caller holds s.mu.
func (s *session) sayGoodbye() {
	s.goodbyeDue = false
	s.say(frame.Goodbye{Reason: s.leaving, ReconnectInMS: rand.Int64N(reconnectMost.Milliseconds())})
	s.part(frame.CloseDraining, s.leaving)
}
