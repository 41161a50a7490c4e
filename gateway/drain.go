package gateway

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/gateway/internal/session"
	"github.com/ganglion-es/ganglion/proto/command"
)

// drainStep is the time between the drains of two sessions. It is shorter if the
// drain window is too short for it.
const drainStep = 5 * time.Millisecond

// The reasons of a drain in goodbye and the close frame.
const (
	reasonDraining    = "draining"
	reasonRebalancing = "rebalancing"
)

// Drain refuses new sessions and drains the open ones, spread over the drain
// window. Each session is served until its turn. Then it gets the replies to its
// open requests, the events up to the head, goodbye with a random time to wait
// before it reconnects, and the close code 1012. If ctx ends first, Drain ends
// the remaining sessions without a close frame and returns ctx's cause.
func (g *Gateway) Drain(ctx context.Context) error {
	g.roster.setState(func(s *rosterState) { s.isDraining = true })
	g.pollers.endAll(command.Unavailable("the node is draining: call another gateway"))
	g.drainSessions(ctx, g.roster.all(), reasonDraining)
	return g.roster.wait(ctx)
}

// Move drains n sessions, as Drain does, in favor of gateways with more room. It
// picks them at random among the sessions that have said hello. It returns after
// the last drain has begun, or when ctx ends, with the number of drains that it
// began. The client, or its load balancer, decides where it connects next.
func (g *Gateway) Move(ctx context.Context, n int) (drained int) {
	sessions := slices.DeleteFunc(g.roster.all(), func(s *session.Session) bool { return !s.HasSaidHello() })
	rand.Shuffle(len(sessions), func(i, j int) { sessions[i], sessions[j] = sessions[j], sessions[i] })
	return g.drainSessions(ctx, sessions[:min(max(n, 0), len(sessions))], reasonRebalancing)
}

// drainSessions begins to drain sessions, one after another. It returns the
// number that it began to drain before ctx ended.
func (g *Gateway) drainSessions(ctx context.Context, sessions []*session.Session, reason string) (drained int) {
	step := min(drainStep, g.cfg.DrainWindow/time.Duration(max(1, len(sessions))))
	began := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i, s := range sessions {
		timer.Reset(time.Until(began.Add(time.Duration(i) * step)))
		select {
		case <-timer.C:
			s.Drain(reason)
		case <-ctx.Done():
			return i
		}
	}
	return len(sessions)
}
