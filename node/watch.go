package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/router/cluster"
)

const (
	// watchEvery is how often a node makes sure that the log has not gone back,
	// and that it still hears of new events.
	watchEvery = 500 * time.Millisecond
	// blindMost is how long a node serves without knowing how the log goes on:
	// with events that are known and missing, without an answer from the log or
	// from the domain nodes, or without a domain node in sight.
	blindMost = 5 * time.Second
)

// status is why a node does not serve, or that it does.
type status struct {
	state cluster.State
	lost  error // the log went back
	blind error // the node does not hear of new events, or of a domain node
	away  bool  // sessions are better off elsewhere while blind is set
}

// blindness is why a node can't serve that is ready otherwise.
type blindness struct {
	error
	problem cluster.Problem // what the other nodes are told
}

func (b blindness) Unwrap() error { return b.error }

// problem is why a node does not serve that is ready otherwise, or nil.
func (s *status) problem() error {
	if s.lost != nil {
		return s.lost
	}
	return s.blind
}

// suspended reports whether the gateway has no sessions.
func (s *status) suspended() bool { return s.lost != nil || s.blind != nil && s.away }

// judge changes the status. When it returns, the gateway has closed its
// sessions and takes no new ones if the status says so.
func (n *node) judge(change func(*status)) {
	n.judging.Lock()
	defer n.judging.Unlock()
	was := n.status.Load()
	now := *was
	change(&now)
	n.status.Store(&now)
	switch why := now.problem(); {
	case errors.Is(why, eventstore.ErrWentBack): // leaveLostLog has said so
	case why != nil && was.problem() == nil:
		n.log.Error("not serving", "why", why)
	case why == nil && was.problem() != nil:
		n.log.Info("serving again")
	}
	switch {
	case n.gateway == nil || now.suspended() == was.suspended():
	case now.suspended():
		n.gateway.Suspend(frame.CloseLost, "this gateway lost its way to the cluster or to the log: reconnect to another one")
	default:
		n.gateway.Resume()
	}
}

func (n *node) setState(state cluster.State) {
	n.judge(func(s *status) { s.state = state })
}

// watchLog notices a log that lost events which this node has seen, and stops
// serving until an operator has accepted the loss.
func (n *node) watchLog(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		err := n.store.Check(ctx)
		n.observer.store.checked(err)
		if err == nil {
			err = n.feed.Err()
		}
		switch {
		case errors.Is(err, eventstore.ErrWentBack):
			n.leaveLostLog(ctx, err)
		case err != nil: // watchSight knows how much that matters
			n.log.Debug("the log can't be checked", "error", err)
		}
	}
}

// leaveLostLog stops serving a log that went back, and serves it as it is now
// once that is right. The order matters: the store reads and appends nothing of
// the new history before Resume, and by then this node has closed its sessions
// and forgotten the states that were made of lost events. The feed takes nothing
// of the new history before Reset.
func (n *node) leaveLostLog(ctx context.Context, why error) {
	old := n.store.LogID()
	if n.status.Load().lost == nil {
		facts := []any{"log", old}
		if loss := (*eventstore.WentBackError)(nil); errors.As(why, &loss) {
			facts = append(facts, "seen", loss.Seen, "seen_at", loss.SeenAt.UTC(), "head", loss.Head)
			if loss.Head > 0 {
				facts = append(facts, "head_at", loss.HeadAt.UTC())
			}
			if loss.Head < loss.Seen {
				facts = append(facts, "lost", loss.Seen-loss.Head)
			}
		}
		n.log.Error("the log went back: events that this node has seen are gone; sessions are closed and commands refused "+
			"until the events are restored or the loss is accepted with 'ganglion log accept-loss'", facts...)
	}
	n.judge(func(s *status) { s.lost = why })
	if n.host != nil {
		n.host.Clear()
	}
	head, err := n.store.Resume(ctx)
	if err != nil {
		return // the next tick tries again
	}
	n.feed.Reset(n.store.LogID(), head)
	if n.host != nil {
		n.host.Clear() // the feed may have delivered until Reset
	}
	n.judge(func(s *status) { s.lost = nil })
	what := "the lost events are back: serving the log again"
	if n.store.LogID() != old {
		what = "the loss was accepted: serving the log as it is now"
	}
	n.log.Warn(what, "log", n.store.LogID(), "before", old, "head", head)
}

// watchSight notices that this node no longer hears of new events or of any
// domain node, and stops serving until it does. It asks nothing of the store, so
// a database that is silent does not hold it up.
func (n *node) watchSight(ctx context.Context) error {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	began := time.Now() // before that nobody was looked for
	s := sight{streaming: began, owned: began}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		blind, away := s.look(n, time.Now())
		n.judge(func(s *status) { s.blind, s.away = blind, away })
		n.cluster.SetProblem(n.problem())
	}
}

// problem is what is wrong with a node whose state is ready: first what makes
// /readyz say 503.
func (n *node) problem() cluster.Problem {
	s := n.status.Load()
	var blind blindness
	switch {
	case s.state != cluster.Ready:
		return cluster.NoProblem // the state says it
	case s.lost != nil:
		return cluster.LogWentBack
	case errors.As(s.blind, &blind):
		return blind.problem
	case n.gateway != nil && n.gateway.Refusing() != nil:
		return cluster.RefusesSessions
	case !n.observer.store.up(time.Now()):
		return cluster.StoreRefuses
	}
	for _, bad := range n.badFiles() {
		if bad() {
			return cluster.FilesBad
		}
	}
	return cluster.NoProblem
}

// sight is what a node remembers from one look around to the next.
type sight struct {
	streaming time.Time // when every domain node was last heard
	owned     time.Time // when a ready domain node was last in sight

	head      eventstore.Position // of the log when the node said that none is in sight
	elsewhere bool                // others are better off
}

// look reports why the node can't serve, and whether its sessions are better off
// elsewhere.
func (s *sight) look(n *node, now time.Time) (blind error, away bool) {
	if n.feed.Streaming() {
		s.streaming = now
	}
	if n.status.Load().state != cluster.Ready {
		s.streaming, s.owned = now, now
		return nil, false
	}
	if behind := n.feed.Behind(); behind > blindMost {
		err := fmt.Errorf("events arrive late: the newest ones have been known of for %v", behind.Round(time.Second))
		return blindness{err, cluster.EventsLate}, true
	}
	if n.gateway == nil {
		return nil, false
	}
	answered, err := n.feed.Answered()
	if heard := later(answered, s.streaming); now.Sub(heard) > blindMost {
		blind = fmt.Errorf("neither the log has answered nor have all domain nodes been heard for %v", now.Sub(heard).Round(time.Second))
		if err != nil {
			blind = fmt.Errorf("%w: %w", blind, err)
		}
		return blindness{blind, cluster.NothingHeard}, true
	}
	return s.lookForOwners(n, now)
}

// lookForOwners notices that no domain node is in sight. While all of them may
// be down, sessions are as well off here as elsewhere. They are not if the log
// grows, so somebody executes commands, or if this node sees no other member and
// is probably the one that is cut off.
func (s *sight) lookForOwners(n *node, now time.Time) (blind error, away bool) {
	if len(n.router.Ring().Members()) > 0 {
		s.owned = now
	}
	if now.Sub(s.owned) <= blindMost {
		s.head, s.elsewhere = n.feed.Watermark(), false
		return nil, false
	}
	if len(n.cluster.View().Members) <= 1 || n.feed.Watermark() > s.head {
		s.elsewhere = true
	}
	err := fmt.Errorf("no domain node that is ready has been in sight for %v: look at the gossip key, the gossip port and --cluster of this node, "+
		"and whether domain nodes run", now.Sub(s.owned).Round(time.Second))
	return blindness{err, cluster.NoOwnerInSight}, s.elsewhere
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
