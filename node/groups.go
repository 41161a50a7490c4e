package node

import (
	"context"
	"slices"

	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/proto/group"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/groups"
	"github.com/ganglion-es/ganglion/router/placement"
	"github.com/ganglion-es/ganglion/router/transport"
)

// Types of the operations on consumer groups.
type (
	GroupOperations = engine.GroupOperations
	GroupSegment    = engine.GroupSegment
	ParkedSequence  = engine.ParkedSequence
)

// OperateGroups returns the operations on the consumer groups of a log, whether or not
// nodes run.
func OperateGroups(store Store) *GroupOperations {
	return engine.NewGroupOperations(store, store.Groups())
}

// consumers has the parts of a node that serve consumer groups.
type consumers struct {
	coordinators *engine.Groups  // nil on a node that runs no projections
	members      *groups.Members // nil without the gateway role
}

// makeConsumers makes the coordinators of groups, and the gateway's way to them. A
// node that can coordinate stores new groups before it serves, so that they get the
// events of its first commands.
func (n *node) makeConsumers(ctx context.Context) (err error) {
	declared := engine.DeclaredGroups(n.cfg.Catalog)
	places := placement.New(placement.Config{Self: n.cfg.Name, View: n.cluster.View, Reachable: n.router.Reaches})
	exchange := groups.ExchangerConfig{Self: n.cfg.Name, Owner: places.Coordinator, View: n.cluster.View, Peer: n.pool.Peer}
	if n.cfg.runsProjections() {
		if err := engine.EnsureGroups(ctx, n.cfg.Catalog, n.store.Groups()); err != nil {
			return err
		}
		n.consumers.coordinators = engine.NewGroups(engine.GroupsConfig{
			Catalog: n.cfg.Catalog, Self: n.cfg.Name, Store: n.store, Groups: n.store.Groups(), Owns: places.Coordinates, Alone: places.Alone,
			Logger: n.log,
		})
		exchange.Local = n.consumers.coordinators
	}
	if !n.cfg.Gateway {
		return nil
	}
	n.consumers.members, err = groups.NewMembers(groups.Config{
		Self: n.cfg.Name, Groups: declared, Store: n.store.Groups(), Coordinator: groups.NewExchanger(exchange), Logger: n.log,
	})
	return err
}

// groupSet is what the node announces to be able to coordinate.
func (n *node) groupSet() (fingerprints []string) {
	for _, g := range engine.DeclaredGroups(n.cfg.Catalog) {
		fingerprints = append(fingerprints, group.Fingerprint(g.Name))
	}
	return slices.Clip(fingerprints)
}

// Groups answers a gateway's report of its members of a group.
func (s peerServer) Groups(ctx context.Context, req *peer.GroupReport) (*peer.GroupAnswer, error) {
	c := s.node.consumers.coordinators
	if c == nil {
		return nil, transport.Errorf(transport.FailedPrecondition, "this node coordinates no consumer groups")
	}
	return groups.Serve(ctx, c, req)
}
