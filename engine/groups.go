package engine

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	domaingroup "github.com/ganglion-es/ganglion/domain/group"
	"github.com/ganglion-es/ganglion/engine/internal/group"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	protogroup "github.com/ganglion-es/ganglion/proto/group"
)

// GroupsConfig configures Groups. All fields are required.
type GroupsConfig struct {
	Catalog *aggregate.Catalog
	// Self is this node's id.
	Self   string
	Store  eventstore.Store
	Groups groups.Store
	// Owns reports whether this node coordinates a group, by the ring.
	Owns func(group string) bool
	// Alone reports whether this node reaches no other domain node now.
	Alone  func() bool
	Logger *slog.Logger
}

// Groups coordinates the consumer groups of a catalog, as far as the node owns them. It
// implements the coordinator of package proto/group. Its methods are safe for
// concurrent use.
type Groups struct {
	cfg          GroupsConfig
	coordinators map[string]*group.Coordinator

	mu   sync.Mutex
	head eventstore.Position // of the log, as of the last second
}

// GroupStats are the figures of one consumer group on one node.
type GroupStats = group.Stats

// EnsureGroups stores the consumer groups of a catalog that are new. They begin at the
// head of the log, so that a group does not get the events from before it was declared.
func EnsureGroups(ctx context.Context, c *aggregate.Catalog, store groups.Store) error {
	var errs []error
	for _, m := range c.Models(domaingroup.Kind) {
		_, err := store.Ensure(ctx, m.Name(), m.(*domaingroup.Definition).Segments())
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// DeclaredGroups returns the consumer groups of a catalog, as gateways need them.
func DeclaredGroups(c *aggregate.Catalog) (list []protogroup.Group) {
	for _, m := range c.Models(domaingroup.Kind) {
		d := m.(*domaingroup.Definition)
		list = append(list, protogroup.Group{
			Name: d.Name(), AckWithin: d.AckWithin(), Types: d.Types(),
			Reads: func(typ, event string) bool { return d.Reads(aggregate.EventName{Type: typ, Event: event}) },
			Allows: func(client string, claims map[string]any) bool {
				return d.Allows(aggregate.Caller{Client: client, Claims: claims})
			},
		})
	}
	return list
}

// NewGroups returns the coordinators of a catalog's groups. Call Run.
func NewGroups(cfg GroupsConfig) *Groups {
	g := &Groups{cfg: cfg, coordinators: map[string]*group.Coordinator{}}
	for _, m := range cfg.Catalog.Models(domaingroup.Kind) {
		name := m.Name()
		g.coordinators[name] = group.New(group.Config{
			Group: name, Self: cfg.Self, Store: cfg.Groups, Read: cfg.Store.Read, LogID: cfg.Store.LogID, Logger: cfg.Logger,
			Owns: func() bool { return cfg.Owns(name) }, Alone: cfg.Alone,
		})
	}
	return g
}

// Run coordinates until ctx ends.
func (g *Groups) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for _, one := range g.coordinators {
		all.Go(func() { _ = one.Run(ctx) }) // it returns no error
	}
	if len(g.coordinators) > 0 {
		all.Go(func() { g.followHead(ctx) })
	}
	all.Wait()
	return nil
}

// followHead reads the head of the log every second, for the figures of the lag.
func (g *Groups) followHead(ctx context.Context) {
	every := time.NewTicker(time.Second)
	defer every.Stop()
	for {
		if head, err := g.cfg.Store.Head(ctx); err == nil {
			g.mu.Lock()
			g.head = head
			g.mu.Unlock()
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		}
	}
}

// Exchange implements the coordinator of package proto/group.
func (g *Groups) Exchange(ctx context.Context, r protogroup.Report) (protogroup.Answer, error) {
	one, ok := g.coordinators[r.Group]
	if !ok {
		return protogroup.Answer{}, protogroup.ErrNotCoordinator
	}
	return one.Exchange(ctx, r)
}

// Stats returns the figures of all groups, in no order, and the head of the log.
func (g *Groups) Stats() (list []GroupStats, head eventstore.Position) {
	for _, one := range g.coordinators {
		list = append(list, one.Stats())
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return list, g.head
}
