package node

import (
	"maps"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/node/internal/console"
	"github.com/ganglion-es/ganglion/node/internal/observe"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/placement"
	"github.com/ganglion-es/ganglion/router/progress"
)

// readSide has the parts of a node that keep rows and answer queries.
type readSide struct {
	projections *engine.Projections       // those with rows only if the node runs them
	publisher   *progress.Publisher       // nil on a node that runs none
	queries     ask.Queries               // nil without the gateway role
	head        func(eventstore.Position) // of queries
	live        func() engine.LiveStats   // of queries
	progress    *progress.Subscriber      // nil without the gateway role
	wakes       *engine.Wakes             // nil on a node that runs no projections
}

// projectionSet is what the node announces that it can run and coordinate: projections,
// the table of wake-ups, consumer groups and relays.
func (n *node) projectionSet() string {
	if !n.cfg.runsProjections() {
		return ""
	}
	set := append(slices.Collect(maps.Values(engine.Fingerprints(n.cfg.Catalog))), n.groupSet()...)
	if wakes := engine.WakeFingerprint(n.cfg.Catalog); wakes != "" {
		set = append(set, wakes)
	}
	for _, r := range n.cfg.Relays {
		set = append(set, engine.RelayPlacement(r.Name))
	}
	return cluster.ProjectionSet(set)
}

// makeReadSide makes the projections, which announce their positions to all
// gateways and to the node's own queries. Projections in memory run on every node.
func (n *node) makeReadSide() (err error) {
	var queries *engine.Queries
	n.makeProjections(func(s progress.Segment, position eventstore.Position) {
		n.readSide.publisher.Publish(s, position)
		if queries != nil {
			queries.Announce(s.Projection, s.Build, s.Number, position)
		}
	})
	if !n.cfg.Gateway {
		return nil
	}
	queries = engine.NewQueries(engine.QueriesConfig{
		Catalog: n.cfg.Catalog, Rows: n.store.Rows(), Projections: n.readSide.projections, LogID: n.store.LogID, Logger: n.log,
	})
	n.readSide.head, n.readSide.live = queries.Head, queries.LiveStats
	n.readSide.queries = observe.NewQueries(queries, n.observer, queryNames(n.cfg.Catalog))
	n.readSide.progress, err = progress.NewSubscriber(progress.SubscriberConfig{
		Self: n.cfg.Name, Watch: n.cluster.Watch, Open: n.pool.Progress, Logger: n.log,
		Announce: func(s progress.Segment, position eventstore.Position) {
			queries.Announce(s.Projection, s.Build, s.Number, position)
		},
	})
	return err
}

func queryNames(c *aggregate.Catalog) (names []string) {
	for _, m := range c.Models("query") {
		names = append(names, m.Name())
	}
	return names
}

// takeSegmentsAfter is how long a segment of rows or wake-ups must stand still behind
// the head before a node works on it that does not own it.
const takeSegmentsAfter = 5 * time.Second

func (n *node) makeProjections(announce func(progress.Segment, eventstore.Position)) {
	var places *placement.Placement
	cfg := engine.ProjectionsConfig{Catalog: n.cfg.Catalog, Store: n.store, Rows: n.store.Rows(), Logger: n.log}
	if n.cfg.runsProjections() {
		n.readSide.publisher = progress.NewPublisher()
		fingerprints := engine.Fingerprints(n.cfg.Catalog)
		places = placement.New(placement.Config{Self: n.cfg.Name, View: n.cluster.View, Reachable: n.router.Reaches})
		for _, r := range n.cfg.Relays { // whatever its settings, so that nodes with other ones don't publish beside each other
			fingerprints[engine.RelayPlacement(r.Name)] = engine.RelayPlacement(r.Name)
		}
		cfg.Relays, cfg.Closed = n.cfg.Relays, n.closedTypes()
		cfg.Owns = func(projection string, segment int) bool {
			return places.Owns(projection, fingerprints[projection], segment)
		}
		cfg.TakeAfter = takeSegmentsAfter
		cfg.Send = n.router.SendSystem
		cfg.Wrote = func(projection string, build int64, segment int, position eventstore.Position) {
			announce(progress.Segment{Projection: projection, Build: build, Number: segment}, position)
		}
	}
	n.readSide.projections = engine.NewProjections(cfg)
	if n.cfg.runsProjections() {
		n.makeWakes(places)
	}
}

// closedTypes returns the type of the console's own records, unless an aggregate of the
// application has it.
func (n *node) closedTypes() []string {
	if slices.ContainsFunc(n.cfg.Catalog.Types(), func(d *aggregate.Definition) bool { return d.Name() == console.OpsType }) {
		return nil
	}
	return []string{console.OpsType}
}

// makeWakes makes the wake-ups, whose segments are placed like those of a projection.
func (n *node) makeWakes(places *placement.Placement) {
	fingerprint := engine.WakeFingerprint(n.cfg.Catalog)
	n.readSide.wakes = engine.NewWakes(engine.WakesConfig{
		Catalog: n.cfg.Catalog, Store: n.store, Wakes: n.store.Wakes(), Projections: n.readSide.projections,
		Owns:      func(segment int) bool { return places.Owns(engine.WakePlacement, fingerprint, segment) },
		TakeAfter: takeSegmentsAfter, Send: n.router.SendSystem, Late: func(d time.Duration) { n.observer.Wakes.Observe(d.Seconds()) }, Logger: n.log,
	})
}
