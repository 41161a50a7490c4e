package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/engine/internal/processor"
	"github.com/ganglion-es/ganglion/engine/sqlprojection"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/relay"
)

// ProjectionsConfig configures Projections. All fields but Owns, TakeAfter, Wrote,
// Relays, Closed and Send are required.
type ProjectionsConfig struct {
	Catalog *aggregate.Catalog
	Store   eventstore.Store
	Rows    rows.Store
	// Owns reports whether this node works on a segment of a projection. Without it,
	// the node keeps only the projections in memory.
	Owns func(projection string, segment int) bool
	// TakeAfter is how long a segment of another node must stand still behind the
	// head of the log before this node works on it too; 0: it never does. The
	// checkpoint decides between them, so this costs work and never a wrong row.
	TakeAfter time.Duration
	// Wrote, if set, is called with the position of a segment when this node begins
	// to work on it, and after each batch of rows that it has written. It must not
	// block.
	Wrote func(projection string, build int64, segment int, position eventstore.Position)
	// Relays publish events to brokers, each on the node that owns segment 0 of
	// RelayPlacement. Nodes that have a relay must agree about its settings.
	Relays []relay.Relay
	// Closed are aggregate types whose events a relay leaves out unless it names them.
	Closed []string
	// Send carries the commands of process managers to their owners. Without it, or
	// without Owns, the node runs none.
	Send   command.SystemSender
	Logger *slog.Logger
}

// Projections keeps the rows of a catalog's projections current, and runs its process
// managers, as far as the node owns their segments. Its methods are safe for
// concurrent use.
type Projections struct {
	tail       *processor.Tail
	begun      chan struct{} // closed by the first Begin
	begin      sync.Once
	processors []*processor.Processor
	processes  []processManager
	relays     []relayProcessor
	memories   *processor.Memories
	unfit      error // what the store cannot do
}

// ProjectionStats are the figures of one projection on one node, SegmentFigures
// those of one segment. ProjectionRetry is why a segment began again or stopped.
type (
	ProjectionStats = processor.Stats
	SegmentFigures  = processor.SegmentFigures
	ProjectionRetry = processor.Retry
)

// StopReasons are the reasons for which a segment stops until its node has newer
// code, or an operator has decided.
var StopReasons = []ProjectionRetry{processor.RetryUnknown, processor.RetryOtherLog}

// NewProjections returns the projections of a catalog without problems. Call Run.
func NewProjections(cfg ProjectionsConfig) *Projections {
	p := &Projections{tail: processor.NewTail(0), begun: make(chan struct{}), unfit: CheckProjections(cfg.Catalog, cfg.Rows)}
	p.memories = newMemories(cfg, p.tail)
	if cfg.Owns == nil {
		return p
	}
	shared := processor.Config{
		Rows: cfg.Rows, Log: cfg.Store, Tail: p.tail, Watch: processor.NewWatch(cfg.Rows), TakeAfter: cfg.TakeAfter, Logger: cfg.Logger,
	}
	if s, ok := cfg.Store.(eventstore.Busy); ok {
		shared.Throttle = processor.NewThrottle(s.Appending)
	}
	add := func(name string, c processor.Config) {
		c.Owns = func(segment int) bool { return cfg.Owns(name, segment) }
		if cfg.Wrote != nil {
			c.Wrote = func(build int64, segment int, position eventstore.Position) {
				cfg.Wrote(name, build, segment, position)
			}
		}
		p.processors = append(p.processors, processor.New(c))
	}
	for _, m := range cfg.Catalog.Models("projection") {
		c := shared
		c.Model = m.(*projection.Definition)
		add(m.Name(), c)
	}
	for _, m := range cfg.Catalog.Models(sqlprojection.Kind) {
		c := shared
		c.SQL = m.(*sqlprojection.Definition)
		add(m.Name(), c)
	}
	p.addProcesses(cfg, shared)
	p.addRelays(cfg, shared)
	return p
}

// Fingerprints returns the fingerprints of a catalog's projections and process
// managers that have builds, by name.
func Fingerprints(c *aggregate.Catalog) map[string]string {
	all := map[string]string{}
	for _, m := range c.Models("projection") {
		all[m.Name()] = m.(*projection.Definition).Fingerprint()
	}
	for _, m := range c.Models(sqlprojection.Kind) {
		all[m.Name()] = m.(*sqlprojection.Definition).Fingerprint()
	}
	for _, d := range process.All(c) {
		all[d.Name()] = d.Fingerprint()
	}
	return all
}

// Begin says where the log's head is, before the first Observe, and after a log
// that went back was resumed.
func (p *Projections) Begin(head eventstore.Position) {
	p.tail.Reset(head)
	p.begin.Do(func() { close(p.begun) })
}

// Observe hands over commits that the node received, in the order of the log. It
// does not block.
func (p *Projections) Observe(commits []eventstore.Commit) { p.tail.Add(commits) }

// Stats returns the figures of each projection and each process manager, sorted by
// name in both groups.
func (p *Projections) Stats() []ProjectionStats {
	all := make([]ProjectionStats, 0, len(p.processors)+len(p.processes))
	for _, one := range p.processors {
		all = append(all, one.Stats())
	}
	for _, one := range p.processes {
		all = append(all, one.processor.Stats())
	}
	return all
}

// CheckProjections reports the projections of a catalog that a store of rows cannot
// keep. A program calls it before it starts.
func CheckProjections(c *aggregate.Catalog, store rows.Store) error {
	var errs []error
	for _, m := range c.Models(sqlprojection.Kind) {
		if _, ok := store.(interface{ WritesSQL() }); !ok {
			errs = append(errs, fmt.Errorf("projection %q writes with SQL, which needs PostgreSQL, and the log is in the embedded store: "+
				"use a store postgres://…, or define the projection as a projection.Table", m.Name()))
		}
	}
	return errors.Join(errs...)
}

// Run works until ctx ends, from the first Begin on. The error is that of
// CheckProjections.
func (p *Projections) Run(ctx context.Context) error {
	if p.unfit != nil {
		return p.unfit
	}
	select {
	case <-p.begun:
	case <-ctx.Done():
		return nil
	}
	var all errgroup.Group
	all.Go(func() error { return p.memories.Run(ctx) })
	for _, one := range p.processors {
		all.Go(func() error { return one.Run(ctx) })
	}
	for _, one := range p.processes {
		all.Go(func() error { return one.processor.Run(ctx) })
	}
	for _, one := range p.relays {
		all.Go(func() error { return one.processor.Run(ctx) })
	}
	return all.Wait()
}
