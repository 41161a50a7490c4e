package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/bench/report"
	"github.com/ganglion-es/ganglion/eventstore"
)

// followed are the projections of the experiment with appends.
var followed = []string{"first", "second", "third", "fourth"}

// appending is a case of the experiment: closed-loop callers, with or without
// projections that follow.
type appending struct {
	name     string
	callers  int
	projects bool
	rates    []float64
	p99      []float64 // milliseconds
	behind   []float64 // events that were not folded yet at the end of a round
	folded   []float64 // events per second and projection during the round
}

// appends compares the rate of appends while four projections of one row per
// stream follow with the rate without them.
func (b *bench) appends(ctx context.Context, w io.Writer, rounds int, d time.Duration) ([]report.Ratio, error) {
	var cases []*appending
	for _, callers := range []int{64, 512} {
		for _, projects := range []bool{false, true} {
			name := fmt.Sprintf("%d callers", callers)
			if projects {
				name += ", 4 projections"
			}
			cases = append(cases, &appending{name: name, callers: callers, projects: projects})
		}
	}
	cases = slices.DeleteFunc(cases, func(c *appending) bool { return !b.cases.MatchString(c.name) })
	run := 1_000_000
	err := report.TakeTurns(ctx, cases, rounds, func(c *appending, _ int) error {
		run++
		return b.sampleAppends(ctx, c, run, d)
	})
	if err != nil {
		return nil, err
	}
	out := report.Table(w)
	fmt.Fprintln(out, "appends of 1 event\tevents/s\tp99\tfolded/s by each projection\tnot folded yet\t")
	for _, c := range cases {
		fmt.Fprintf(out, "%s\t%s\t%.1f ms\t%s\t%s\t\n", c.name, report.Thousands(report.Median(c.rates)), report.Median(c.p99),
			report.Thousands(report.Median(c.folded)), report.Thousands(report.Median(c.behind)))
	}
	if err := out.Flush(); err != nil {
		return nil, err
	}
	var ratios []report.Ratio
	for i := 0; i+1 < len(cases); i += 2 {
		ratios = append(ratios, report.Ratio{
			Name:   "appends, " + cases[i].name + ": with 4 projections to without",
			Values: report.Pairwise(cases[i+1].rates, cases[i].rates, report.Quotient), AtLeast: 0.8,
		})
	}
	return ratios, nil
}

func (b *bench) sampleAppends(ctx context.Context, c *appending, run int, d time.Duration) (err error) {
	var o *ours
	var builds []int64
	if c.projects {
		if o, err = follow(ctx, b.store, 1, followed...); err != nil {
			return err
		}
		observe := func(batch []eventstore.Commit) { o.Observe(batch) }
		b.committed.Store(&observe)
		defer func() { b.committed.Store(nil); err = errors.Join(err, o.halt()) }()
		if builds, err = o.active(ctx); err == nil {
			err = b.caughtUp(ctx, builds)
		}
		if err != nil {
			return err
		}
	}
	head, err := b.store.Head(ctx)
	if err != nil {
		return err
	}
	took, elapsed, err := b.closedLoop(ctx, run, c.callers, d)
	if err != nil {
		return err
	}
	c.rates = append(c.rates, float64(len(took))/elapsed.Seconds())
	c.p99 = append(c.p99, report.MS(report.Percentile(took, 0.99)))
	folded, behind := 0.0, 0.0
	if c.projects {
		sum, err := b.positions(ctx, builds)
		if err != nil {
			return err
		}
		folded = float64(sum)/float64(len(builds)) - float64(head)
		behind = float64(len(took)) - folded
	}
	c.folded, c.behind = append(c.folded, folded/elapsed.Seconds()), append(c.behind, behind)
	return nil
}

// positions returns the sum of the checkpoints of builds.
func (b *bench) positions(ctx context.Context, builds []int64) (sum int64, err error) {
	err = b.server.Admin.QueryRow(ctx, `select sum(pos)::bigint from ours.processor_checkpoint where build = any($1)`, builds).Scan(&sum)
	return sum, err
}

// caughtUp waits until builds stand at the head of the log.
func (b *bench) caughtUp(ctx context.Context, builds []int64) error {
	head, err := b.store.Head(ctx)
	if err != nil {
		return err
	}
	for {
		sum, err := b.positions(ctx, builds)
		if err != nil || sum == int64(head)*int64(len(builds)) {
			return err
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// closedLoop appends for d. Each caller waits for a reply before its next append.
// It returns the sorted latencies.
func (b *bench) closedLoop(ctx context.Context, run, callers int, d time.Duration) (took []time.Duration, elapsed time.Duration, err error) {
	var (
		mu      sync.Mutex
		working sync.WaitGroup
		start   = time.Now()
		do      = appendTo(b.store)
	)
	for caller := range callers {
		working.Go(func() {
			var mine []time.Duration
			var failure error
			for n := 0; failure == nil && ctx.Err() == nil; n++ {
				begun := time.Now()
				if begun.Sub(start) > d {
					break
				}
				if _, failure = do(ctx, run, caller, n); failure == nil {
					mine = append(mine, time.Since(begun))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
			err = errors.Join(err, failure)
		})
	}
	working.Wait()
	slices.Sort(took)
	return took, time.Since(start), err
}
