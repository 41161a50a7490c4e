package router

import (
	"fmt"
	"slices"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router/internal/lane"
	"github.com/ganglion-es/ganglion/router/link"
	"github.com/ganglion-es/ganglion/router/ring"
)

// route returns the place that a call can be handed to now, and the lowest
// trust that the link there may have. If only is not the zero Place, no other
// place is allowed.
func (r *Router) route(c *call, only lane.Place) (to lane.Place, minTrust link.Trust, ok bool) {
	if c.lane.key.peer == nil {
		to, minTrust, ok = r.candidate(c.Command.Stream, c.Tried, c.Unknown)
		return to, minTrust, ok && (only == (lane.Place{}) || to == only)
	}
	mayHandOn := c.hop == 0
	if only != (lane.Place{}) {
		return only, link.Trusted, only.Link == nil || mayHandOn && only.Link.Trust() == link.Trusted
	}
	if owner, known := r.Ring().Owner(c.Command.Stream); known && mayHandOn && owner != r.cfg.Self && len(c.Tried) == 0 {
		if to, trust := r.reach(owner); trust == link.Trusted {
			return to, trust, true
		}
	}
	to, trust := r.reach(r.cfg.Self)
	return to, trust, trust == link.Trusted
}

const (
	// maxUnknown bounds the nodes at which a command's fate may become unknown.
	// At the bound, the command is answered.
	maxUnknown = 2
	// maxTried bounds the nodes that a command is sent to, including nodes that
	// decline it.
	maxTried = 4
)

// candidate returns the first node that can be reached and was not tried, in
// this order: the owner; the owner of the ring without it; the owner of the
// ring of reachable members. A node whose link is on trial comes last; for such
// a node minTrust is link.Doubted.
func (r *Router) candidate(stream eventstore.StreamID, tried []string, unknown int) (to lane.Place, minTrust link.Trust, ok bool) {
	if unknown >= maxUnknown || len(tried) >= maxTried {
		return lane.Place{}, link.Unusable, false
	}
	var doubted lane.Place
	full := r.Ring()
	look := func(in *ring.Ring, most int) (lane.Place, bool) {
		for range most {
			node, ok := in.Owner(stream)
			if !ok {
				break
			}
			if !slices.Contains(tried, node) {
				switch to, trust := r.reach(node); {
				case trust == link.Trusted:
					return to, true
				case trust == link.Doubted && doubted.Link == nil:
					doubted = to
				}
			}
			in = in.Without(node)
		}
		return lane.Place{}, false
	}
	if to, ok := look(full, 2); ok {
		return to, link.Trusted, true
	}
	if to, ok := look(r.reachableRing(full), len(tried)+2); ok {
		return to, link.Trusted, true
	}
	return doubted, link.Doubted, doubted.Link != nil
}

// reachableRing returns the ring of those members of full that can be reached.
// It is built once for each change of reachability. Removing unreachable
// members from full one by one would build hundreds of rings on a node that
// reaches little of a large cluster.
func (r *Router) reachableRing(full *ring.Ring) *ring.Ring {
	p := &r.reachable
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := r.changes.Load(); p.full != full || p.change != now {
		p.full, p.change = full, now
		p.ring = ring.New(slices.DeleteFunc(full.Members(), func(id string) bool {
			_, trust := r.reach(id)
			return trust == link.Unusable
		}))
	}
	return p.ring
}

// reach returns the place of a node, and its trust at this moment.
func (r *Router) reach(node string) (lane.Place, link.Trust) {
	to := lane.Place{Node: node}
	if node == r.cfg.Self {
		if r.cfg.Executor == nil || r.draining.Load() {
			return to, link.Unusable
		}
		return to, link.Trusted
	}
	if to.Link = (*r.links.Load())[node]; to.Link == nil {
		return to, link.Unusable
	}
	return to, to.Link.Trust()
}

// Reaches reports whether another node can be reached now. Of nodes without the
// domain role the router knows nothing, and reports true.
func (r *Router) Reaches(node string) bool {
	to := (*r.links.Load())[node]
	return to == nil || to.Trust() != link.Unusable
}

// exhausted reports whether no further candidate can be expected. declined is
// the failure of the last node that was tried, if it declined.
func (r *Router) exhausted(tried []string, declined *command.Failure) bool {
	if len(tried) < 2 && !isLasting(declined) {
		return false // the only node may be about to return
	}
	return len(tried) >= maxTried || !slices.ContainsFunc(r.Ring().Members(), func(id string) bool { return !slices.Contains(tried, id) })
}

// isLasting reports whether a node declined and said for how long. A node that
// has lost its database does so. If no other node is left, its failure is the
// answer.
func isLasting(declined *command.Failure) bool { return declined != nil && declined.After > 0 }

// unreachable is the failure of a command that found no node to execute it.
func (r *Router) unreachable(e *lane.Entry) *command.Failure {
	f := command.Unavailable("%s", r.whyUnreachable(e.Command.Stream))
	switch {
	case isLasting(e.Declined) && !r.closed.Load():
		f.Message, f.After, f.Cause = e.Declined.Message, e.Declined.After, e.Declined.Cause
	case e.Unknown > 0:
		f.Message = fmt.Sprintf("a node that may have executed the command for %v fell silent, and no other node answered: send the command again with its key to find out whether it was executed", e.Command.Stream)
	}
	return f
}
