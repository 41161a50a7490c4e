package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ganglion-es/ganglion/bench/report"
	ganglion "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
)

const (
	// followers is the number of groups that follow, each with one member.
	followers = 10
	// callerSessions is the number of sessions that the callers share.
	callerSessions = 4
	// appendFor is the length of a sample.
	appendFor = 3 * time.Second
)

// appending is a case of the experiment: closed-loop callers, with or without groups
// that follow.
type appending struct {
	name     string
	callers  int
	groups   int
	rates    []float64
	p99      []float64 // milliseconds
	followed []float64 // events per second and group that were acknowledged during the round
	behind   []float64 // events per group that were not acknowledged at the end of a round
}

// appends compares the rate of commands of one event, sent to a node over WebSockets,
// while ten groups follow the log with the rate without them. The groups' members are
// a process with a lower priority, so that the figures show the cost of the groups to
// the node.
func (b *bench) appends(ctx context.Context, w io.Writer) ([]report.Ratio, error) {
	var cases []*appending
	for _, callers := range []int{64, 512} {
		name := fmt.Sprintf("%d callers", callers)
		cases = append(cases, &appending{name: name, callers: callers},
			&appending{name: fmt.Sprintf("%s, %d groups", name, followers), callers: callers, groups: followers})
	}
	cases = slices.DeleteFunc(cases, func(c *appending) bool { return !b.cases.MatchString(c.name) })
	log := &ours{server: b.server}
	err := report.TakeTurns(ctx, cases, b.rounds, func(c *appending, _ int) error { return c.sample(ctx, log) })
	if err != nil {
		return nil, errors.Join(err, log.close())
	}
	out := report.Table(w)
	fmt.Fprintln(out, "commands of 1 event\tevents/s\tp99\tacknowledged/s by each group\tnot acknowledged yet\t")
	for _, c := range cases {
		fmt.Fprintf(out, "%s\t%s\t%.1f ms\t%s\t%s\t\n", c.name, report.Thousands(report.Median(c.rates)), report.Median(c.p99),
			report.Known(c.groups > 0, "%.0f", report.Median(c.followed)), report.Known(c.groups > 0, "%.0f", report.Median(c.behind)))
	}
	var ratios []report.Ratio
	for i := 0; i+1 < len(cases); i += 2 {
		ratios = append(ratios, report.Ratio{
			Name:   fmt.Sprintf("appends, %s: with %d groups to without", cases[i].name, followers),
			Values: report.Pairwise(cases[i+1].rates, cases[i].rates, report.Quotient), AtLeast: 0.8,
		})
	}
	return ratios, out.Flush()
}

// sample starts a node on a new log, and measures once.
func (c *appending) sample(ctx context.Context, log *ours) (err error) {
	if err := log.create(ctx); err != nil {
		return err
	}
	node, err := startRole("node", log.server.URL(log.database()), fmt.Sprint(c.groups))
	if err != nil {
		return err
	}
	defer func() { node.stop(); err = errors.Join(err, log.remove()) }()
	if c.groups > 0 {
		members, err := startRole("aside", "members", node.url, fmt.Sprint(c.groups))
		if err != nil {
			return err
		}
		defer members.stop()
		if err := log.joined(ctx, c.groups); err != nil {
			return err
		}
	}
	took, elapsed, err := closedLoop(ctx, node.url, c.callers)
	if err != nil {
		return err
	}
	c.rates = append(c.rates, float64(len(took))/elapsed.Seconds())
	c.p99 = append(c.p99, report.MS(report.Percentile(took, 0.99)))
	list, err := log.store.Groups().Groups(ctx)
	if err != nil {
		return err
	}
	acknowledged := float64(meanPosition(list))
	c.followed, c.behind = append(c.followed, acknowledged/elapsed.Seconds()), append(c.behind, float64(len(took))-acknowledged)
	return nil
}

// joined waits until each segment of the groups has a member.
func (o *ours) joined(ctx context.Context, n int) error {
	const within = time.Minute
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		list, err := o.store.Groups().Groups(ctx)
		if err != nil {
			return err
		}
		isFree := func(s groups.Segment) bool { return s.Holder.Session == "" }
		if len(list) == n && !slices.ContainsFunc(list, func(g groups.Group) bool { return slices.ContainsFunc(g.Segments, isFree) }) {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("not all groups have members after %v", within)
		}
	}
}

// meanPosition returns the mean position of all segments, 0 if there are none: the
// number of events that a group has acknowledged, since every event of the log is its.
func meanPosition(list []groups.Group) eventstore.Position {
	var sum, n eventstore.Position
	for _, g := range list {
		for _, s := range g.Segments {
			sum, n = sum+s.Position, n+1
		}
	}
	return sum / max(n, 1)
}

// closedLoop sends commands for appendFor. Each caller has a stream of its own, and
// waits for a reply before its next command. It returns the sorted latencies.
func closedLoop(ctx context.Context, url string, callers int) (took []time.Duration, elapsed time.Duration, err error) {
	var clients [callerSessions]*ganglion.Client
	for i := range clients {
		if clients[i], err = ganglion.Connect(ctx, ganglion.Options{URLs: []string{url}, ClientID: fmt.Sprintf("caller-%d", i)}); err != nil {
			return nil, 0, err
		}
		defer clients[i].Close()
	}
	var mu sync.Mutex
	calling, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for caller := range callers {
		stream := ganglion.Type[any, any]{Name: "lot"}.Aggregate(clients[caller%callerSessions], lotID(caller))
		calling.Go(func() error {
			var mine []time.Duration
			for n := 0; ; n++ {
				begun := time.Now()
				if begun.Sub(start) > appendFor {
					break
				}
				if _, err := stream.Send(ctx, "offer", bid{Lot: caller, N: n, Bidder: "client-0001", Note: note}); err != nil {
					return err
				}
				mine = append(mine, time.Since(begun))
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
			return nil
		})
	}
	err = calling.Wait()
	slices.Sort(took)
	return took, time.Since(start), err
}
