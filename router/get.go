package router

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/link"
)

// Get asks the owner for an aggregate's public state, and the next candidate
// if the owner does not answer. The error is a *command.Failure. Gets have no
// order among each other or with commands.
func (r *Router) Get(ctx context.Context, g command.Get) (command.State, error) {
	r.count.gets.Add(1)
	if g.Deadline.IsZero() {
		g.Deadline = time.Now().Add(r.cfg.Timeout)
	}
	ctx, cancel := context.WithDeadline(ctx, g.Deadline)
	defer cancel()
	var tried []string
	var declined *command.Failure // by the last of them
	search := time.NewTimer(r.cfg.Search)
	defer search.Stop()
	for {
		changed := r.changed.wait() // before the look that may be in vain
		to, ok := r.candidate(&call{cmd: command.Command{Stream: g.Stream}, tried: tried})
		if !ok {
			if r.closed.Load() || r.exhausted(tried, declined) {
				f := r.unread(g)
				if lasting(declined) && !r.closed.Load() {
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
			return command.State{}, r.unread(g)
		}
		state, f, again := r.ask(ctx, g, to, 0)
		if !again {
			if f != nil {
				return command.State{}, f
			}
			return state, nil
		}
		tried, declined = append(tried, to.node), f
	}
}

// getFor answers a get of a peer: from the owner in this node's view, if that
// is another one that can be reached and the get was not handed on before,
// else from here.
func (r *Router) getFor(ctx context.Context, g command.Get, hop uint32) (command.State, *command.Failure) {
	if owner, ok := r.Ring().Owner(g.Stream); ok && hop == 0 && owner != r.cfg.Self {
		if to, trust := r.reach(owner); trust == link.Trusted {
			if state, f, again := r.ask(ctx, g, to, 1); !again {
				return state, f
			}
		}
	}
	to, trust := r.reach(r.cfg.Self)
	if trust != link.Trusted {
		return command.State{}, elsewhere("this node answers no gets now")
	}
	state, f, _ := r.ask(ctx, g, to, 1)
	return state, f
}

// ask asks one node. again says that another one may answer.
func (r *Router) ask(ctx context.Context, g command.Get, to place, hop uint32) (state command.State, f *command.Failure, again bool) {
	if to.link == nil {
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
	switch err := to.link.Send(msg, link.Doubted, func(reply *peer.Reply, fate link.Fate) { answers <- answer{reply, fate} }); err {
	case nil:
	case link.ErrFull:
		return state, busy("too many requests wait for node %s", to.node), false
	default:
		return state, r.unread(g), true
	}
	select {
	case a := <-answers:
		if a.fate != link.Answered {
			return state, r.unread(g), true
		}
		state, f = stateOf(a.reply)
		return state, f, f != nil && f.Elsewhere
	case <-ctx.Done():
		return state, &command.Failure{
			Code: command.Timeout, Retry: command.RetryLater,
			Message: fmt.Sprintf("the state of %v did not come in time", g.Stream),
		}, false
	}
}

// read asks this node's executor.
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
	r.cfg.Logger.Error("an executor's get failed in an unknown way", "stream", g.Stream.String(), "error", err)
	return state, &command.Failure{Code: command.Internal, Retry: command.RetryLater, Message: "internal error"}
}

func (r *Router) unread(g command.Get) *command.Failure {
	return &command.Failure{Code: command.Unavailable, Retry: command.RetryLater, Message: r.why(g.Stream)}
}

// why says, for people, why nobody can be asked about a stream.
func (r *Router) why(s eventstore.StreamID) string {
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
