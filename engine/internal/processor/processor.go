package processor

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/engine/internal/outbox"
	"github.com/ganglion-es/ganglion/engine/sqlprojection"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/relay"
)

// Log is what a processor reads of an eventstore.Store.
type Log interface {
	Read(ctx context.Context, after eventstore.Position, limit int) ([]eventstore.Commit, error)
	LogID() string
}

// Config configures a Processor. All fields but Watch, TakeAfter, Wrote and Throttle
// are required, of Model, SQL, Process and Relay one, Outbox with Process, and
// RelayReads with Relay.
type Config struct {
	Model   *projection.Definition
	SQL     *sqlprojection.Definition
	Process *process.Definition
	Outbox  *outbox.Outbox // of the process manager
	Relay   *relay.Relay
	// RelayReads reports whether the events of an aggregate type are published.
	RelayReads func(typ string) bool
	Rows       rows.Store
	Log        Log
	Tail       *Tail
	// Watch is shared by the processors of a node. Nil: the processor has its own.
	Watch *Watch
	// Owns reports whether this node works on a segment. It is asked every 250 ms.
	Owns func(segment int) bool
	// TakeAfter is how long another node's segment must stand still behind the head
	// before this node works on it too. 0: it never does.
	TakeAfter time.Duration
	// Wrote, if set, is called with the position of a segment when the segment
	// begins, and after each batch that was written. It must not block.
	Wrote func(build int64, segment int, position eventstore.Position)
	// Throttle is that of all processors of the node.
	Throttle *Throttle
	Logger   *slog.Logger
}

const (
	// checkEvery is how often a processor looks at builds and ownership.
	checkEvery = 250 * time.Millisecond
	// retryAfter is the pause after a segment was stopped by the database or by
	// another node. An operator who interrupts a segment has this time to mend.
	retryAfter = 100 * time.Millisecond
	// pausedFor is how often a paused segment tries to continue.
	pausedFor = time.Second
	// withdrawFor is the pause after a segment met an event or a log that is not
	// this program's.
	withdrawFor = 10 * time.Second
	// abandonedAfter is how long the build that sends for a process manager must stand
	// still behind the head before an older build takes over.
	abandonedAfter = 5 * time.Second
	// dropAfter is how long a build is kept that no program uses.
	dropAfter = 24 * time.Hour
	// careEvery is how often a node says that it uses its builds, and looks for ones
	// to drop and for tombstones to purge.
	careEvery = 10 * time.Minute
)

// A Processor keeps the builds of one projection current, as far as this node
// owns their segments.
type Processor struct {
	cfg  Config
	spec rows.Spec
	kind string // for log lines
	log  *slog.Logger

	mu       sync.Mutex
	segments map[place]*worker
	builds   map[rows.State]int // of the projection, by any program
	running  sync.WaitGroup
	counts   counts
	relay    relayFigures
	used     map[int64]bool // builds of a process manager that nodes of this program fold
	holds    map[int64]hold // how far builds of a process manager may fold

	// For the goroutine of Run.
	still     map[place]still
	cared     time.Time          // when care last began
	stopDrain context.CancelFunc // nil while this node does not watch the outbox
	// failing is set while the looks fail.
	failing bool
}

// A worker runs a segment.
type worker struct {
	stop   context.CancelFunc
	state  rows.State // of its build, as last read
	stats  SegmentStats
	taken  bool         // the segment is another node's
	fenced atomic.Bool  // another node has moved the checkpoint since it was taken
	began  atomic.Bool  // it has read the checkpoint
	mends  atomic.Int64 // of the checkpoint then
	term   atomic.Pointer[rows.Term]
	// For a process manager.
	signal outbox.Signal
	bound  atomic.Uint64 // up to which a build folds that does not send; 0: not known
	// For a relay; it belongs to the goroutine of runSegment.
	tries relayTries
}

// A place is one segment of one build.
type place struct {
	build   int64
	segment int
}

// New returns a processor. Call Run.
func New(cfg Config) *Processor {
	var spec rows.Spec
	kind := "projection"
	switch {
	case cfg.Relay != nil:
		kind, spec = "relay", SpecOfRelay(cfg.Relay.Name)
	case cfg.SQL != nil:
		spec = SpecOfSQL(cfg.SQL)
	case cfg.Process != nil:
		spec = SpecOfProcess(cfg.Process)
	default:
		spec = SpecOf(cfg.Model)
	}
	if cfg.Watch == nil {
		cfg.Watch = NewWatch(cfg.Rows)
	}
	return &Processor{
		cfg: cfg, spec: spec, kind: kind, log: cfg.Logger.With(kind, strings.TrimPrefix(spec.Projection, RelayPrefix)),
		segments: map[place]*worker{}, still: map[place]still{}, holds: map[int64]hold{},
	}
}

// SpecOf describes the build of a projection to a rows.Store.
func SpecOf(d *projection.Definition) rows.Spec {
	spec := rows.Spec{Projection: d.Name(), Fingerprint: d.Fingerprint(), Segments: d.Segments()}
	names := map[string]int{}
	for i, c := range d.Columns() {
		spec.Columns = append(spec.Columns, rows.Column{Name: c.Name, Kind: rows.Kind(c.Kind), Nullable: c.Nullable})
		names[c.Name] = i
	}
	for _, index := range d.Indexes() {
		columns := make([]int, len(index))
		for i, name := range index {
			columns[i] = names[name]
		}
		spec.Indexes = append(spec.Indexes, columns)
	}
	return spec
}

// Run works until ctx ends.
func (p *Processor) Run(ctx context.Context) error {
	defer p.running.Wait()
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for began := false; ; {
		if !began {
			_, err := p.cfg.Rows.Ensure(ctx, p.spec)
			began = err == nil
			p.cfg.Watch.Refresh()
			p.reportFirst("find its build", err)
		}
		if began {
			p.reportFirst("look at its builds", p.look(ctx))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			p.stopAll()
			return nil
		}
	}
}

func (p *Processor) report(doing string, err error) {
	if err != nil && !errors.Is(err, context.Canceled) {
		p.log.Warn("a "+p.kind+" waits: could not "+doing, "err", err)
	}
}

// reportFirst reports the first of several failures of Run in a row.
func (p *Processor) reportFirst(doing string, err error) {
	if !p.failing {
		p.report(doing, err)
	}
	p.failing = err != nil
}

func (p *Processor) stopAll() { p.adjust(context.Background(), nil) }

// runSegment follows the log for one segment, and begins again after a pause when
// something has stopped it.
func (p *Processor) runSegment(ctx context.Context, at place, w *worker) {
	stats := &w.stats
	defer p.relay.waits.Store(nil)
	log := p.log.With("build", at.build, "segment", at.segment)
	if p.cfg.Process != nil {
		p.running.Go(func() { p.cfg.Outbox.Segment(ctx, at.build, at.segment, &w.signal) })
		p.running.Go(func() { p.wake(ctx, at, w) })
	}
	for ctx.Err() == nil {
		err := p.followOnce(ctx, at, w, log)
		pause, cause := retryAfter, RetryStore
		var broker *brokerError
		switch {
		case ctx.Err() != nil:
			return
		case err == nil: // a relay was blocked
			continue
		case errors.Is(err, ErrReset):
			continue
		case errors.Is(err, rows.ErrFenced):
			cause = RetryFenced
			w.fenced.Store(true)
			if p.cfg.Relay != nil {
				pause = relayFencedFor + rand.N(relayFencedFor)
			}
			log.Debug("another node has moved the checkpoint, or an operator has mended rows")
		case errors.Is(err, rows.ErrPaused):
			pause, cause = pausedFor, RetryPaused
			log.Debug("the " + p.kind + " is paused")
		case errors.As(err, &broker):
			pause, cause = w.tries.pause(), RetryBroker
			p.relay.waits.Store(new(err.Error()))
			if !stats.isStopped(RetryBroker) { // once per absence of the broker
				log.Warn("a relay waits for its broker", "err", err)
			}
		case errors.Is(err, aggregate.ErrUnknownEvent):
			pause, cause = withdrawFor, RetryUnknown
			log.Warn("an event is newer than this program: leaving the projection to other nodes", "err", err)
		case errors.Is(err, eventstore.ErrWentBack):
			pause, cause = withdrawFor, RetryOtherLog // the node logs it; Resume ends the pause
		case errors.Is(err, errOtherLog):
			pause, cause = withdrawFor, RetryOtherLog
			log.Error("a "+p.kind+" stops", "err", err)
		default:
			if !stats.isStopped(RetryStore) { // once per absence of the database
				log.Warn("a "+p.kind+" waits", "err", err)
			}
		}
		stats.stopped(cause)
		stats.retried(cause)
		p.pause(ctx, pause)
	}
}

// pause waits, but not beyond a Reset of the tail or the end of ctx.
func (p *Processor) pause(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	_ = p.cfg.Tail.Wait(ctx, math.MaxInt64, p.cfg.Tail.Resets())
}

func (p *Processor) followOnce(ctx context.Context, at place, w *worker, log *slog.Logger) error {
	table, err := p.cfg.Rows.Open(ctx, p.spec, at.build)
	if err != nil {
		return err
	}
	if p.cfg.Relay != nil {
		return p.relayOnce(ctx, w, table, log)
	}
	s := &segment{
		fold: fold{model: modelOf(p.cfg.Model, p.cfg.Process), segment: at.segment}, cfg: &p.cfg, table: table, log: log, stats: &w.stats, worker: w,
	}
	if p.cfg.SQL != nil {
		if s.sql, err = prepareSQL(ctx, p.cfg.SQL, table); err != nil {
			return err
		}
	}
	if table.Build().State == rows.Building {
		active := false
		s.caughtUp = func(head eventstore.Position) {
			if !active {
				active, err = p.activate(ctx, table, head)
				p.report("activate its build", err)
			}
		}
	}
	return s.follow(ctx)
}

// activate makes a build active if all of its segments have reached a head, and
// reports whether they have.
func (p *Processor) activate(ctx context.Context, table rows.Table, head eventstore.Position) (bool, error) {
	list, err := table.Checkpoints(ctx)
	if err != nil {
		return false, err
	}
	for _, c := range list {
		if c.Position < head {
			return false, nil
		}
	}
	p.log.Info("a build has caught up with the log", "build", table.Build().ID, "position", head)
	p.cfg.Watch.Refresh()
	return true, p.cfg.Rows.SetState(ctx, table.Build().ID, rows.Active)
}
