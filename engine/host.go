package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
)

// Host executes commands on aggregates. It is safe for concurrent use.
type Host struct {
	config  Config
	catalog *aggregate.Catalog
	store   eventstore.Store
	log     *slog.Logger
	born    time.Time // start of the watchdogs' clock

	// ctx ends when Run's context ends. Loads and appends run under it.
	ctx     context.Context
	cancel  context.CancelFunc
	started atomic.Bool // Run was called
	workers sync.WaitGroup

	loadSlots chan struct{} // one element for each aggregate that is being loaded
	wakeSlots chan struct{} // the same for aggregates that only wake-ups wait for: half as many
	snapshots chan eventstore.Snapshot
	tip       tip
	pauses    pauseDetector
	reports   reports
	counters  counters

	mu      sync.Mutex
	cache   cache
	pending pending
}

// New returns a Host. It does not access the store.
func New(config Config) (*Host, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &Host{
		config:    config,
		catalog:   config.Catalog,
		store:     config.Store,
		log:       config.Logger,
		born:      time.Now(),
		ctx:       ctx,
		cancel:    cancel,
		loadSlots: make(chan struct{}, config.Loads),
		wakeSlots: make(chan struct{}, max(1, config.Loads/2)),
		snapshots: make(chan eventstore.Snapshot, snapshotQueue),
		pauses:    pauseDetector{limit: pauseLimit},
		pending:   pending{maxRequests: config.PendingCommands, maxBytes: config.PendingBytes},
	}
	h.cache = newCache(config.CachedStates, config.CachedBytes, &h.counters.evicted)
	h.tip.init()
	return h, nil
}

// Run does the background work until ctx ends: it writes snapshots and detects
// pauses of the process. It then refuses the commands that have not begun, with
// failures marked Elsewhere, waits for the appends in progress, and returns once
// every goroutine of the host has ended. Run may be called once.
func (h *Host) Run(ctx context.Context) error {
	if h.started.Swap(true) {
		return errors.New("engine: Run was called twice")
	}
	var background sync.WaitGroup
	background.Go(h.writeSnapshots)
	background.Go(h.watchForPauses)

	<-ctx.Done()
	h.mu.Lock()
	h.pending.closed = true // no cell gets a worker from here on
	h.mu.Unlock()
	h.cancel()
	background.Wait()
	h.workers.Wait()
	return nil
}

// Drain refuses new commands and gets, with failures marked Elsewhere. It blocks
// until those in flight have their replies or ctx ends. It cannot be undone.
func (h *Host) Drain(ctx context.Context) error {
	h.mu.Lock()
	idle := h.pending.drain()
	h.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		h.mu.Lock()
		defer h.mu.Unlock()
		return fmt.Errorf("engine: drain: %d commands and gets are still in flight: %w", h.pending.requests, ctx.Err())
	}
}

// Observe receives the commits of all nodes, in order. A cached state that is
// older than a commit is brought up to date before its next use. Observe does
// not block.
func (h *Host) Observe(commits []eventstore.Commit) {
	if len(commits) == 0 {
		return
	}
	h.tip.advance(commits[len(commits)-1].Position)
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range commits {
		c := h.cache.cells[commits[i].Stream]
		// The feed often reports a commit before its own worker has advanced
		// the state. By the time the worker compares, its version equals known.
		if c == nil || commits[i].Version <= c.known {
			continue
		}
		c.known = commits[i].Version
		if !c.working {
			h.counters.invalidated.Add(1)
		}
	}
}

// Keep forgets the aggregates for which owned returns false: idle ones
// immediately, the others when their mailbox is empty. Call it when the ring
// changes. owned is called without a lock.
func (h *Host) Keep(owned func(eventstore.StreamID) bool) {
	h.mu.Lock()
	cells := make([]*cell, 0, len(h.cache.cells))
	for _, c := range h.cache.cells {
		cells = append(cells, c)
	}
	h.mu.Unlock()

	disowned := cells[:0]
	for _, c := range cells {
		if !owned(c.stream) {
			disowned = append(disowned, c)
		}
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range disowned {
		switch {
		case c.working:
			c.disowned = true
		case h.cache.cells[c.stream] == c: // not removed in the meantime
			h.cache.remove(c)
		}
	}
}

// Clear forgets every state and everything known about the log. Call it when the
// log went back.
func (h *Host) Clear() {
	h.tip.reset()
	h.invalidate()
	for {
		select {
		case <-h.snapshots: // of events that may be lost
		default:
			return
		}
	}
}

// invalidate forgets every state: that of an idle cell immediately, the others
// before their next use.
func (h *Host) invalidate() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.cache.cells {
		if c.working {
			c.invalid, c.known = true, 0
			h.cache.uncount(c)
		} else {
			h.cache.remove(c)
		}
	}
}
