package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
)

// lotsEach is the number of lots to which each caller appends in turn.
const lotsEach = 100

// nthAppend returns the lot of a caller's nth append in a run, and which of the
// lot's events it is.
func nthAppend(run, caller, n int) (lot string, event int) {
	return fmt.Sprintf("run-%d-%d-%d", run, caller, n%lotsEach), n / lotsEach
}

// unitOf returns a caller's nth append in a run as a unit of the log.
func unitOf(run, caller, n int) eventstore.Unit {
	lot, event := nthAppend(run, caller, n)
	c := command(n, event)
	c.Key = fmt.Sprintf("%d-%d-%d", run, caller, n)
	return eventstore.Unit{Stream: eventstore.StreamID{Type: "lot", ID: lot}, Expected: eventstore.Version(event), Commands: []eventstore.Command{c}}
}

// appendTo appends a caller's nth event to the log, and returns its position.
func appendTo(store *postgres.Store) func(ctx context.Context, run, caller, n int) (int64, error) {
	return func(ctx context.Context, run, caller, n int) (int64, error) {
		a, err := store.Append(ctx, unitOf(run, caller, n))
		if err != nil {
			return 0, err
		}
		if !a.Stored() {
			return 0, fmt.Errorf("append %d of caller %d was not stored: %+v", n, caller, a)
		}
		return int64(a.Commands[0].Position), nil
	}
}

// acked is an acknowledged event.
type acked struct {
	pos int64
	at  time.Time
}

// paced appends perSecond events per second for d. The clock paces the callers,
// not the replies. It returns the acknowledged events, by position.
func paced(ctx context.Context, run, perSecond int, d time.Duration, do func(ctx context.Context, run, caller, n int) (int64, error)) ([]acked, error) {
	const callers = 50
	var (
		mu      sync.Mutex
		all     []acked
		failure error
		working sync.WaitGroup
		begun   = time.Now()
		every   = time.Second * callers / time.Duration(perSecond)
	)
	for c := range callers {
		working.Go(func() {
			var mine []acked
			var err error
			for n := 0; err == nil && ctx.Err() == nil; n++ {
				next := begun.Add(time.Duration(n)*every + every*time.Duration(c)/callers)
				if next.Sub(begun) >= d {
					break
				}
				time.Sleep(time.Until(next))
				var pos int64
				if pos, err = do(ctx, run, c, n); err == nil {
					mine = append(mine, acked{pos, time.Now()})
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
			if err != nil {
				failure = err
			}
		})
	}
	working.Wait()
	slices.SortFunc(all, func(a, b acked) int { return int(a.pos - b.pos) })
	return all, failure
}

// moved is a checkpoint as an observer saw it.
type moved struct {
	pos int64
	at  time.Time
}

// watch reads a checkpoint every millisecond until it has reached the position
// that last returns, which is 0 while events are still being appended, or until
// patience has passed after that.
func watch(ctx context.Context, checkpoint func(context.Context) (int64, error), last func() int64, patience time.Duration) ([]moved, error) {
	var list []moved
	var deadline time.Time
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		pos, err := checkpoint(ctx)
		if err != nil {
			return nil, err
		}
		now := time.Now()
		if len(list) == 0 || list[len(list)-1].pos != pos {
			list = append(list, moved{pos, now})
		}
		if upTo := last(); upTo > 0 {
			if deadline.IsZero() {
				deadline = now.Add(patience)
			}
			if pos >= upTo || now.After(deadline) {
				return list, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lags returns how long after its acknowledgement each event was visible, at
// least 0. An event that never was counts with the time until the last look.
func lags(events []acked, seen []moved, end time.Time) []time.Duration {
	list := make([]time.Duration, 0, len(events))
	i := 0
	for _, e := range events {
		for i < len(seen) && seen[i].pos < e.pos {
			i++
		}
		at := end
		if i < len(seen) {
			at = seen[i].at
		}
		list = append(list, max(0, at.Sub(e.at)))
	}
	slices.Sort(list)
	return list
}
