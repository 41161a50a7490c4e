package router

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/internal/lane"
	"github.com/ganglion-es/ganglion/router/link"
)

// Get returns an aggregate's public state from its owner, or from the next
// candidate if the owner does not answer. The error is a *command.Failure.
// Gets are not ordered among each other, nor with commands.
func (r *Router) Get(ctx context.Context, g command.Get) (command.State, error) {
	r.count.gets.Add(1)
	if g.Deadline.IsZero() {
		g.Deadline = time.Now().Add(r.cfg.Timeout)
	}
	ctx, cancel := context.WithDeadline(ctx, g.Deadline)
	defer cancel()
	var tried []string
	var declined *command.Failure // the last one's failure, if it declined
	search := time.NewTimer(r.cfg.Search)
	defer search.Stop()
	for {
		changed := r.changed.wait() // before candidate, so that no change is missed
		to, _, ok := r.candidate(g.Stream, tried, 0)
		if !ok {
			if r.closed.Load() || r.exhausted(tried, declined) {
				f := r.unreadable(g)
				if isLasting(declined) && !r.closed.Load() {
					f.Message, f.After, f.Cause = declined.Message, declined.After, declined.Cause
				}
				return command.State{}, f
			}
			select {
			case <-changed:
				continue
			case <-search.C:
			case <-ctx.Done():
			}
			return command.State{}, r.unreadable(g)
		}
		state, f, tryNext := r.ask(ctx, g, to, 0)
		if !tryNext {
			if f != nil {
				return command.State{}, f
			}
			return state, nil
		}
		tried, declined = append(tried, to.Node), f
	}
}

// getFor answers a get of a peer. It asks the owner in this node's view if that
// is another node that can be reached and if the get was not handed on before.
// Otherwise it asks this node's executor.
func (r *Router) getFor(ctx context.Context, g command.Get, hop uint32) (command.State, *command.Failure) {
	if owner, ok := r.Ring().Owner(g.Stream); ok && hop == 0 && owner != r.cfg.Self {
		if to, trust := r.reach(owner); trust == link.Trusted {
			if state, f, tryNext := r.ask(ctx, g, to, 1); !tryNext {
				return state, f
			}
		}
	}
	to, trust := r.reach(r.cfg.Self)
	if trust != link.Trusted {
		return command.State{}, command.Unavailable("this node answers no gets now").OnOtherNodes()
	}
	state, f, _ := r.ask(ctx, g, to, 1)
	return state, f
}

// ask asks one node. tryNext reports whether the next candidate should be asked.
func (r *Router) ask(ctx context.Context, g command.Get, to lane.Place, hop uint32) (state command.State, f *command.Failure, tryNext bool) {
	if to.Link == nil {
		state, f = r.read(ctx, g)
		return state, f, f != nil && f.Elsewhere
	}
	type answer struct {
		reply *peer.Reply
		fate  link.Fate
	}
	answers := make(chan answer, 1)
	msg, f := getRequest(g, hop, time.Now())
	if f != nil {
		return state, f, false
	}
	switch err := to.Link.Send(msg, link.Doubted, func(reply *peer.Reply, fate link.Fate) { answers <- answer{reply, fate} }); err {
	case nil:
	case link.ErrFull:
		return state, command.Busy("too many requests wait for node %s", to.Node), false
	default:
		return state, r.unreadable(g), true
	}
	select {
	case a := <-answers:
		if a.fate != link.Answered {
			return state, r.unreadable(g), true
		}
		state, f = stateOf(a.reply)
		return state, f, f != nil && f.Elsewhere
	case <-ctx.Done():
		return state, command.Timeout(command.RetryLater, "the state of %v did not arrive in time", g.Stream), false
	}
}

// read asks this node's executor for a state.
func (r *Router) read(ctx context.Context, g command.Get) (command.State, *command.Failure) {
	r.own.add(1)
	defer r.own.add(-1)
	state, err := r.cfg.Executor.Get(ctx, g)
	if err == nil {
		return state, nil
	}
	if f, ok := errors.AsType[*command.Failure](err); ok {
		return state, f
	}
	r.cfg.Logger.Error("a get failed with an unknown error", "stream", g.Stream.String(), "err", err)
	return state, command.Internal(command.RetryLater)
}

func (r *Router) unreadable(g command.Get) *command.Failure {
	return command.Unavailable("%s", r.whyUnreachable(g.Stream))
}

// whyUnreachable explains to a person why no node takes requests for a stream.
func (r *Router) whyUnreachable(s eventstore.StreamID) string {
	ring := r.Ring()
	owner, ok := ring.Owner(s)
	switch {
	case r.closed.Load():
		return "this node is stopping"
	case !ok:
		return "the cluster has no domain node that is ready: start one, or wait until it has joined"
	}
	var nodes []string
	for ok && len(nodes) < 2 {
		nodes = append(nodes, owner)
		ring = ring.Without(owner)
		owner, ok = ring.Owner(s)
	}
	return fmt.Sprintf("none of the nodes that may own %v can be reached or takes requests now: %v", s, nodes)
}
