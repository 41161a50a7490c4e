package node

import (
	"context"
	"errors"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/watched"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/router/cluster"
)

// healthInterval is how often a node checks that the log has not gone back, and
// that it is not isolated.
const healthInterval = 500 * time.Millisecond

// status has the reasons why a node does not serve.
type status struct {
	state    cluster.State
	wentBack error // the log lost events that this node has seen
	isolated error // why the node is isolated: see watchIsolation
	better   bool  // sessions of the isolated node are better served elsewhere
}

// problem returns why a node in the state ready does not serve, or nil if it does.
func (s *status) problem() error {
	if s.wentBack != nil {
		return s.wentBack
	}
	return s.isolated
}

// isSuspended reports whether the gateway must have no sessions.
func (s *status) isSuspended() bool { return s.wentBack != nil || s.isolated != nil && s.better }

// updateStatus changes the status. If the new one suspends the gateway, its
// sessions are closed and new ones rejected when updateStatus returns.
func (n *node) updateStatus(change func(*status)) {
	n.updating.Lock()
	defer n.updating.Unlock()
	was := n.status.Load()
	now := *was
	change(&now)
	n.status.Store(&now)
	switch reason := now.problem(); {
	case errors.Is(reason, eventstore.ErrWentBack): // suspend logs it
	case reason != nil && was.problem() == nil:
		n.log.Error("not serving", "reason", reason)
	case reason == nil && was.problem() != nil:
		n.log.Info("serving again")
	}
	switch {
	case n.gateway == nil || now.isSuspended() == was.isSuspended():
	case now.isSuspended():
		n.gateway.Suspend(frame.CloseLost, "this gateway lost its connection to the cluster or to the log: reconnect to another one")
	default:
		n.gateway.Resume()
	}
}

func (n *node) setState(state cluster.State) {
	n.updateStatus(func(s *status) { s.state = state })
}

// ready returns why the node does not serve, or nil if it does.
func (n *node) ready() error {
	switch s := n.status.Load(); {
	case n.leaving.hasLeft():
		return errDrained
	case s.state != cluster.Ready:
		return errors.New(s.state.String())
	case s.problem() != nil:
		return s.problem()
	case n.gateway != nil:
		return n.gateway.Refusing()
	default:
		return nil
	}
}

// problem returns the problem that other members show for this node in the state
// ready. Problems for which /readyz answers 503 come first.
func (n *node) problem() cluster.Problem {
	s := n.status.Load()
	var isolated isolation
	switch {
	case s.state != cluster.Ready:
		return cluster.NoProblem // the state shows it
	case s.wentBack != nil:
		return cluster.LogWentBack
	case errors.As(s.isolated, &isolated):
		return isolated.problem
	case n.gateway != nil && n.gateway.Refusing() != nil:
		return cluster.RefusesSessions
	case !n.observer.Store.Up(time.Now()):
		return cluster.StoreRefuses
	}
	for _, bad := range n.badFiles() {
		if bad() {
			return cluster.FilesBad
		}
	}
	return cluster.NoProblem
}

// badFiles returns a function for each use of the secret files that the node reads
// again while it runs. The function reports whether the newest content is invalid, so
// that earlier content is in use.
func (n *node) badFiles() map[string]func() bool {
	all := map[string]func() bool{}
	if n.tls != nil {
		all["peers"] = n.tls.Bad
	}
	if n.gossip != nil {
		all["gossip"] = n.gossip.Bad
	}
	if auth, ok := n.cfg.Auth.(interface {
		Watched() map[string]*watched.Files
	}); ok {
		for use, files := range auth.Watched() {
			all[use] = files.Bad
		}
	}
	return all
}

// watchLog suspends the node when the log has lost events that the node has seen,
// until an operator accepts the loss or the events are back.
func (n *node) watchLog(ctx context.Context) error {
	return watched.Watch(ctx, healthInterval, func() {
		err := n.store.Check(ctx)
		n.observer.Store.Checked(err)
		if err == nil {
			err = n.feed.Err()
		}
		switch {
		case errors.Is(err, eventstore.ErrWentBack):
			n.suspend(err)
			n.resume(ctx)
		case err != nil: // watchIsolation decides whether the node still serves
			n.log.Debug("the log cannot be checked", "err", err)
		}
	})
}

// suspend stops serving a log that went back: it closes sessions and clears the cache
// of aggregates, whose states may include lost events.
func (n *node) suspend(reason error) {
	if n.status.Load().wentBack == nil {
		facts := []any{"log", n.store.LogID()}
		if loss := (*eventstore.WentBackError)(nil); errors.As(reason, &loss) {
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
	n.updateStatus(func(s *status) { s.wentBack = reason })
	if n.host != nil {
		n.host.Clear()
	}
}

// resume serves the log again if Store.Resume accepts its present content; otherwise
// the next check retries. The order matters. The store reads and appends nothing of
// the new history before Store.Resume, and by then suspend has closed all sessions.
// The feed delivers nothing of it before Reset, but may deliver old events until then.
func (n *node) resume(ctx context.Context) {
	old := n.store.LogID()
	head, err := n.store.Resume(ctx)
	if err != nil {
		return
	}
	n.feed.Reset(n.store.LogID(), head)
	if n.host != nil {
		n.host.Clear()
	}
	n.updateStatus(func(s *status) { s.wentBack = nil })
	message := "the lost events are back: serving the log again"
	if n.store.LogID() != old {
		message = "the loss was accepted: serving the log as it is now"
	}
	n.log.Warn(message, "log", n.store.LogID(), "before", old, "head", head)
}
