package main

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
)

// log is one log of this project's store, opened by two nodes.
type log struct {
	server  *server
	schema  string
	nodes   [2]*postgres.Store
	batches atomic.Int64
	events  int64 // number of stored events
}

func openLog(ctx context.Context, s *server, schema string) (*log, error) {
	l := &log{server: s, schema: schema}
	for i := range l.nodes {
		store, err := postgres.Open(ctx, postgres.Config{
			URL: s.ConnURL, Schema: schema,
			Committed: func(string, []eventstore.Commit) { l.batches.Add(1) },
		})
		if err != nil {
			return nil, errors.Join(err, l.close())
		}
		l.nodes[i] = store
	}
	return l, nil
}

func (l *log) close() error {
	var errs []error
	for _, s := range l.nodes {
		if s != nil {
			errs = append(errs, s.Close())
		}
	}
	return errors.Join(errs...)
}

// append measures commands of the given number of events. The callers are
// spread over the nodes, as their aggregates would be.
func (l *log) append(ctx context.Context, nodes, callers, events int, d time.Duration) (sample, error) {
	var before, after runtime.MemStats
	run := runs.Add(1)
	batches := l.batches.Load()
	runtime.ReadMemStats(&before)
	s, err := closedLoop(ctx, callers, d, func(ctx context.Context, caller, n int) (int, error) {
		_, err := l.nodes[caller%nodes].Append(ctx, nth(run, caller, n, events).unit(events))
		return events, err
	})
	runtime.ReadMemStats(&after)
	l.events += int64(s.events)
	s.batches = int(l.batches.Load() - batches)
	if s.commands > 0 {
		s.allocs = float64(after.Mallocs-before.Mallocs) / float64(s.commands)
	}
	return s, err
}
