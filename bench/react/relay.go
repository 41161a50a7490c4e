package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// A relay carries orders to ledgers, and records when both were committed.
type relay struct {
	*ours
	seen atomic.Pointer[sightings] // of the current sample
}

// startRelay starts our process manager, and returns once it handles new orders: its
// first build begins at the head of the log.
func startRelay(ctx context.Context, url string) (*relay, error) {
	catalog, err := defineRelay()
	if err != nil {
		return nil, err
	}
	r := new(relay)
	r.seen.Store(newSightings())
	if r.ours, err = startOurs(ctx, url, catalog, func(batch []eventstore.Commit) { r.seen.Load().record(batch) }); err != nil {
		return nil, err
	}
	for {
		builds, err := r.store.Rows().Builds(ctx)
		if err == nil && len(builds) > 0 {
			return r, nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("the process manager has no build: %w", ctx.Err()), r.stop())
		}
	}
}

// record takes the time of orders and notes. The store announces commits before the
// append of a client returns.
func (s *sightings) record(batch []eventstore.Commit) {
	now := time.Now()
	for i := range batch {
		for _, e := range batch[i].Events {
			var of place // a note has the same form
			switch {
			case e.Type == "placed" && json.Unmarshal(e.Data, &of) == nil:
				s.cause(of.N, now)
			case e.Type == "noted" && json.Unmarshal(e.Data, &of) == nil:
				s.effected(of.N, now)
			}
		}
	}
}

// place places an order in a shop.
func (r *relay) place(ctx context.Context, shop string, n int64) error {
	return r.send(ctx, eventstore.StreamID{Type: "shop", ID: shop}, "place", strconv.FormatInt(n, 10), place{N: n})
}

// sample begins a new sample. The one before is complete.
func (r *relay) sample() *sightings {
	s := newSightings()
	r.seen.Store(s)
	return s
}
