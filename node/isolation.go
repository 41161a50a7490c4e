package node

import (
	"context"
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/watched"
	"github.com/ganglion-es/ganglion/router/cluster"
)

// maxIsolation is how long a node serves while it cannot know the newest events. That
// is so if known events are missing, if neither the log nor all domain nodes answer,
// or if no domain node is in sight.
const maxIsolation = 5 * time.Second

// isolation is the reason why a node is isolated.
type isolation struct {
	error
	problem cluster.Problem // for the other members
}

func (i isolation) Unwrap() error { return i.error }

// watchIsolation stops serving while the node is isolated. It asks the store
// nothing, so a silent database does not block it.
func (n *node) watchIsolation(ctx context.Context) error {
	began := time.Now()
	c := contacts{allDomain: began, anyDomain: began}
	return watched.Watch(ctx, healthInterval, func() {
		isolated, better := c.check(n, time.Now())
		n.updateStatus(func(s *status) { s.isolated, s.better = isolated, better })
		n.cluster.SetProblem(n.problem())
	})
}

// contacts is the state that a node keeps between checks of its isolation.
type contacts struct {
	allDomain time.Time // when all domain nodes were last heard
	anyDomain time.Time // when a ready domain node was last in sight

	head   eventstore.Position // watermark when a domain node was last in sight
	better bool                // whether sessions are better served elsewhere
}

// check returns why the node is isolated, and whether its sessions are better
// served elsewhere.
func (c *contacts) check(n *node, now time.Time) (isolated error, better bool) {
	if n.feed.Streaming() {
		c.allDomain = now
	}
	if n.status.Load().state != cluster.Ready {
		c.allDomain, c.anyDomain = now, now
		return nil, false
	}
	if behind := n.feed.Behind(); behind > maxIsolation {
		err := fmt.Errorf("events arrive late: the newest known ones have been missing for %v", behind.Round(time.Second))
		return isolation{err, cluster.EventsLate}, true
	}
	if n.gateway == nil {
		return nil, false
	}
	answered, err := n.feed.Answered()
	if heard := later(answered, c.allDomain); now.Sub(heard) > maxIsolation {
		silent := fmt.Errorf("the log has not answered, and some domain node was not heard, for %v", now.Sub(heard).Round(time.Second))
		if err != nil {
			silent = fmt.Errorf("%w: %w", silent, err)
		}
		return isolation{silent, cluster.NothingHeard}, true
	}
	return c.checkOwners(n, now)
}

// checkOwners returns an error if no domain node has been in sight for maxIsolation.
// If all domain nodes are down, no other gateway serves sessions better than this one.
// Another gateway does if the log grows, so that some node executes commands, or if
// this node sees no other member, so that it is probably cut off.
func (c *contacts) checkOwners(n *node, now time.Time) (isolated error, better bool) {
	if len(n.router.Ring().Members()) > 0 {
		c.anyDomain = now
	}
	if now.Sub(c.anyDomain) <= maxIsolation {
		c.head, c.better = n.feed.Watermark(), false
		return nil, false
	}
	if len(n.cluster.View().Members) <= 1 || n.feed.Watermark() > c.head {
		c.better = true
	}
	err := fmt.Errorf("no ready domain node has been in sight for %v: check the gossip key, the gossip port and Cluster (--cluster) of this node, "+
		"and whether domain nodes run", now.Sub(c.anyDomain).Round(time.Second))
	return isolation{err, cluster.NoOwnerInSight}, c.better
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
