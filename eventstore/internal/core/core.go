// Package core is the part of a store that does not depend on its database: the
// committer, the guard of the log, the checks of pages, and the background tasks.
//
// A store embeds [Log], which implements a part of [eventstore.Store], and uses
// its [Core] for the rest. Both are safe for concurrent use.
package core

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/batch"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// Core is the part that both stores share. Use New, then Start.
type Core struct {
	Guard     *guard.Guard
	Committer *batch.Committer // nil before Start

	logger *slog.Logger
	look   func(ctx context.Context, op string) (guard.Mark, guard.Log, error)
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// New returns the core of a store that has just read log. look returns the
// guard's mark and the log's state at that mark. It does so even if the log went
// back.
func New(log guard.Log, look func(ctx context.Context, op string) (guard.Mark, guard.Log, error)) *Core {
	c := &Core{Guard: guard.New(log), look: look}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Start starts the committer. The guard sees the commits.
func (c *Core) Start(cfg batch.Config) {
	cfg.Saw = c.Guard.Saw
	c.logger = cfg.Logger
	c.Committer = batch.New(cfg)
}

// Go starts a background task. StopTasks cancels its context.
func (c *Core) Go(task func(context.Context)) { c.tasks.Go(func() { task(c.ctx) }) }

// StopTasks ends the background tasks and waits for them.
func (c *Core) StopTasks() {
	c.cancel()
	c.tasks.Wait()
}

// KeepOutcomes is how long a kept outcome is final.
const KeepOutcomes = 24 * time.Hour

// expireEvery is the interval of Housekeep.
const expireEvery = 10 * time.Minute

// Housekeep calls expire now and every 10 minutes, in a background task. expire
// deletes outcomes older than KeepOutcomes.
func (c *Core) Housekeep(expire func(context.Context) (deleted int64, err error)) {
	c.Go(func(ctx context.Context) {
		tick := time.NewTicker(expireEvery)
		defer tick.Stop()
		for {
			if _, err := expire(ctx); err != nil && ctx.Err() == nil {
				c.logger.Warn("could not delete old outcomes", "err", err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
}

// Page checks a page that was read after a position from the incarnation named
// log, and remembers the newest commit.
func (c *Core) Page(log string, page []eventstore.Commit, after eventstore.Position) ([]eventstore.Commit, error) {
	if err := stored.Dense(page, after); err != nil || len(page) == 0 {
		return page, err
	}
	return page, c.Guard.Saw(log, guard.Of(&page[len(page)-1]))
}

// Records is Page for records.
func (c *Core) Records(log string, page []eventstore.Record, after eventstore.Position) ([]eventstore.Record, error) {
	commits := make([]eventstore.Commit, len(page))
	for i := range page {
		commits[i] = page[i].Commit
	}
	_, err := c.Page(log, commits, after)
	return page, err
}

// Restore checks and encodes records, calls store with them, and remembers the
// newest one.
func (c *Core) Restore(records []eventstore.Record, store func([]stored.Restored) error) error {
	list, err := stored.PrepareRestore(records)
	if err != nil || len(list) == 0 {
		return err
	}
	log := c.Guard.Mark().LogID
	if err := store(list); err != nil {
		return err
	}
	return c.Guard.Saw(log, guard.Of(&records[len(records)-1].Commit))
}

// Window describes a range of rows that the database has counted. First is the
// position before the first event, UpTo the position of the last, and Events the
// number of events. All are nil if the range has no row.
type Window struct{ First, UpTo, Events *int64 }

// firstScan is how many positions the first of ReadType's scans has, per commit that
// it may return: few for a type that is most of the log.
const firstScan = 4

// ReadType implements ReadType with scans of growing ranges, until it has enough
// commits. scanType scans a range as ReadType does, with one TypePage.
func ReadType(after eventstore.Position, limit, scan int,
	scanType func(after eventstore.Position, limit, scan int) ([]eventstore.Commit, eventstore.Position, error),
) (all []eventstore.Commit, upTo eventstore.Position, err error) {
	upTo = after
	for size := firstScan * max(limit, 1); ; size *= firstScan {
		size = max(1, min(size, scan))
		from := upTo
		var page []eventstore.Commit
		if page, upTo, err = scanType(from, limit-len(all), size); err != nil {
			return nil, after, err
		}
		all, scan = append(all, page...), scan-int(upTo-from)
		if len(all) >= limit || scan <= 0 || upTo < from+eventstore.Position(size) { // or the range ends at the head
			return all, upTo, nil
		}
	}
}

// TypePage reads a window after a position, for ReadType. read returns the
// commits of the type up to a position.
func TypePage(w Window, after eventstore.Position, limit int, read func(upTo int64) ([]eventstore.Commit, error)) ([]eventstore.Commit, eventstore.Position, error) {
	if w.UpTo == nil {
		return nil, after, nil
	}
	if err := stored.Window(after, *w.First, *w.UpTo, *w.Events); err != nil {
		return nil, after, err
	}
	page, err := read(*w.UpTo)
	if err != nil {
		return nil, after, err
	}
	if len(page) > 0 && len(page) == limit {
		return page, page[len(page)-1].Position, nil
	}
	return page, eventstore.Position(*w.UpTo), nil
}
