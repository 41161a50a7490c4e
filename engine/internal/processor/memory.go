package processor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sort"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/eventstore"
)

const (
	// currentWithin is how far behind the log a memory may be when it is first
	// read.
	currentWithin = time.Second
	// logIDEvery is how often an idle Memories looks at the log's incarnation.
	logIDEvery = time.Second
)

// MemoryLog is what Memories reads of an eventstore.Store.
type MemoryLog interface {
	Log
	Head(ctx context.Context) (eventstore.Position, error)
}

// MemoriesConfig configures Memories. All fields are required.
type MemoriesConfig struct {
	Models []*projection.MemoryDefinition
	Log    MemoryLog
	Tail   *Tail
	Logger *slog.Logger
}

// Memories folds the log into the states of a node's projections in memory, all
// of them in one pass. It implements projection.Memories, and is safe for
// concurrent use. Call Run.
//
// A memory has a state to read from when it was first within a second of the head
// of the log. If one of its events cannot be folded, it stops, and has no state
// until the node is started again with a program that can fold the event; other
// memories continue. If the log is another incarnation, all are folded again.
type Memories struct {
	cfg     MemoriesConfig
	all     map[*projection.MemoryDefinition]*memory
	settled chan struct{}
	settle  sync.Once

	// Resets of the tail while the log was the incarnation before: it may still
	// hold commits of that one. -1 for the first incarnation.
	stale int64

	mu      sync.Mutex
	at      eventstore.Position
	changed chan struct{} // closed and replaced when at moves or a memory stops
}

// A memory is one state. Run's goroutine alone changes it.
type memory struct {
	model *projection.MemoryDefinition

	mu      sync.RWMutex
	state   any
	at      eventstore.Position
	current bool
	stopped error // why it has no state
}

// NewMemories returns memories that have no states yet.
func NewMemories(cfg MemoriesConfig) *Memories {
	m := &Memories{cfg: cfg, all: map[*projection.MemoryDefinition]*memory{}, stale: -1, settled: make(chan struct{}), changed: make(chan struct{})}
	for _, model := range cfg.Models {
		m.all[model] = &memory{model: model}
	}
	if len(m.all) == 0 {
		close(m.settled)
		m.settle.Do(func() {})
	}
	return m
}

// Settled is closed once every memory has been current, or has stopped.
func (m *Memories) Settled() <-chan struct{} { return m.settled }

// ReadMemory implements projection.Memories.
func (m *Memories) ReadMemory(d *projection.MemoryDefinition, read func(state any, position uint64)) error {
	one := m.all[d]
	if one == nil {
		return fmt.Errorf("%w: this node does not keep %q", projection.ErrNotCurrent, d.Name())
	}
	one.mu.RLock()
	defer one.mu.RUnlock()
	if err := one.err(); err != nil {
		return err
	}
	read(one.state, uint64(one.at))
	return nil
}

// err says why there is no state to read. one.mu is held.
func (one *memory) err() error {
	switch {
	case one.stopped != nil:
		return fmt.Errorf("%w: %q has stopped: %w", projection.ErrNotCurrent, one.model.Name(), one.stopped)
	case !one.current:
		return fmt.Errorf("%w: %q is still being folded", projection.ErrNotCurrent, one.model.Name())
	}
	return nil
}

// MemoryFigures are the figures of one projection in memory.
type MemoryFigures struct {
	Projection string
	Position   eventstore.Position
	// Current reports that it has a state to read. Stopped reports that it has none,
	// because an event cannot be folded.
	Current, Stopped bool
}

// Figures returns those of all memories, sorted by name.
func (m *Memories) Figures() []MemoryFigures {
	var all []MemoryFigures
	for _, one := range m.all {
		one.mu.RLock()
		all = append(all, MemoryFigures{one.model.Name(), one.at, one.current && one.stopped == nil, one.stopped != nil})
		one.mu.RUnlock()
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Projection < all[j].Projection })
	return all
}

// Await returns when a memory is current and shows a position, or it has stopped, or
// ctx ends. at is how far it has come.
func (m *Memories) Await(ctx context.Context, d *projection.MemoryDefinition, position eventstore.Position) (at eventstore.Position, err error) {
	for {
		m.mu.Lock()
		changed := m.changed
		m.mu.Unlock()
		stopped := false
		if one := m.all[d]; one != nil {
			one.mu.RLock()
			stopped = one.stopped != nil
			one.mu.RUnlock()
		}
		err := m.ReadMemory(d, func(_ any, p uint64) { at = eventstore.Position(p) })
		if stopped || err == nil && at >= position {
			return at, err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return at, errors.Join(err, ctx.Err())
		}
	}
}

// Run folds until ctx ends.
func (m *Memories) Run(ctx context.Context) error {
	if len(m.all) == 0 {
		<-ctx.Done()
		return nil
	}
	for {
		m.fold(ctx)
		if ctx.Err() != nil {
			return nil
		}
		m.cfg.Logger.Info("the projections in memory are folded again: the log is another incarnation")
	}
}

// fold folds the log from its beginning. It returns when ctx ends, or the log is
// another incarnation than it was at the beginning.
func (m *Memories) fold(ctx context.Context) {
	logID := m.cfg.Log.LogID()
	m.reset()
	var begun mark
	current, warned := false, false
	resets := m.stale
	for {
		before := int64(m.cfg.Tail.Resets())
		commits, err := m.next(ctx, current)
		if err == nil && !current {
			err = begun.renew(ctx, m.cfg.Log, m.at)
		}
		if ctx.Err() != nil || m.cfg.Log.LogID() != logID {
			m.stale = resets
			return
		}
		resets = before
		if err != nil {
			if !warned {
				m.cfg.Logger.Warn("the projections in memory wait for the log", "position", m.at, "err", err)
			}
			warned = true
			if errors.Is(err, eventstore.ErrWentBack) {
				m.reset() // the log may lack what they show
				current, begun = false, mark{}
			}
			pause(ctx)
			continue
		}
		warned = false
		m.apply(commits)
		if !current && begun.reached(m.at) {
			current = true
			m.publish()
		}
	}
}

// A mark is where the head of the log was at a time.
type mark struct {
	head  eventstore.Position
	since time.Time
}

// renew reads the head again if at has passed it too late, or it was never read.
func (b *mark) renew(ctx context.Context, log MemoryLog, at eventstore.Position) (err error) {
	if !b.since.IsZero() && (at < b.head || time.Since(b.since) <= currentWithin) {
		return nil
	}
	now := time.Now()
	if b.head, err = log.Head(ctx); err == nil {
		b.since = now
	}
	return err
}

// reached reports whether at is within a second of the head.
func (b *mark) reached(at eventstore.Position) bool {
	return at >= b.head && time.Since(b.since) <= currentWithin
}

func pause(ctx context.Context) {
	select {
	case <-time.After(retryAfter):
	case <-ctx.Done():
	}
}

// next returns the commits after the ones that were folded. While the memories are
// current it waits for them, for at most logIDEvery.
func (m *Memories) next(ctx context.Context, wait bool) ([]eventstore.Commit, error) {
	if wait && int64(m.cfg.Tail.Resets()) == m.stale {
		pause(ctx) // the tail is of the incarnation before
	} else if wait {
		limited, cancel := context.WithTimeout(ctx, logIDEvery)
		defer cancel()
		if err := m.cfg.Tail.Wait(limited, m.at, m.cfg.Tail.Resets()); err != nil {
			return nil, nil //nolint:nilerr // no event arrived
		}
		if commits, ok := m.cfg.Tail.After(m.at, batchCommits); ok {
			return commits, nil
		}
	}
	return m.cfg.Log.Read(ctx, m.at, batchCommits)
}

// reset begins all memories again, without a state to read.
func (m *Memories) reset() {
	for _, one := range m.all {
		one.mu.Lock()
		one.state, one.at, one.current, one.stopped = one.model.NewState(), 0, false, nil
		one.mu.Unlock()
	}
	m.moved(0)
}

// publish makes the states readable.
func (m *Memories) publish() {
	for _, one := range m.all {
		one.mu.Lock()
		one.current = true
		one.mu.Unlock()
	}
	m.moved(m.at)
	m.cfg.Logger.Info("the projections in memory are current", "position", m.at)
	m.settle.Do(func() { close(m.settled) })
}

func (m *Memories) moved(at eventstore.Position) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = at
	close(m.changed)
	m.changed = make(chan struct{})
}

// apply folds commits into all states.
func (m *Memories) apply(commits []eventstore.Commit) {
	if len(commits) == 0 {
		return
	}
	to := commits[len(commits)-1].Position
	for _, one := range m.all {
		one.mu.Lock()
		if one.stopped == nil {
			if position, err := one.apply(commits); err != nil {
				one.stopped, one.state = fmt.Errorf("the event at position %d cannot be folded: %w", position, err), nil
				m.cfg.Logger.Error("an event cannot be folded: the projection in memory has stopped, and its queries are unavailable on this node",
					"projection", one.model.Name(), "position", position, "err", err)
			}
			one.at = to
		}
		one.mu.Unlock()
	}
	m.moved(to)
}

// apply folds the events of commits after one.at. one.mu is held.
func (one *memory) apply(commits []eventstore.Commit) (position eventstore.Position, err error) {
	defer recovered(&err)
	for i := range commits {
		c := &commits[i]
		for n, e := range c.Events {
			name := aggregate.EventName{Type: c.Stream.Type, Event: e.Type}
			if position = c.First() + eventstore.Position(n); position <= one.at || !one.model.Reads(name) {
				continue
			}
			event, err := one.model.Decode(name, e.Form, e.Data)
			if err != nil {
				return position, err
			}
			one.model.Apply(atOf(c, n), name, event, one.state)
		}
	}
	return 0, nil
}
