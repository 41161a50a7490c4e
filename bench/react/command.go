package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/bench/report"
)

// commandRate is the number of events per second, of which each causes a command.
const commandRate = 500

// shopsEach is the number of shops in which each caller places orders in turn.
const shopsEach = 100

// A carrier reacts to orders with notes.
type carrier interface {
	place(ctx context.Context, shop string, n int64) error
	// sample returns what gets the times of the orders from now on.
	sample() *sightings
}

// reaction is a system with its samples, in milliseconds.
type reaction struct {
	name     string
	carrier  carrier
	p50, p99 []float64
}

// command measures the time from the commit of an event to the commit of the command
// that it causes: for our process manager, and for an outbox by hand. Both commits
// are the ones that the process has heard of.
func (b *bench) command(ctx context.Context, w io.Writer, rounds int, d time.Duration) (_ []report.Ratio, err error) {
	url, err := b.database(ctx, "relay")
	if err != nil {
		return nil, err
	}
	ours, err := startRelay(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ours.stop()) }()
	if url, err = b.database(ctx, "outbox"); err != nil {
		return nil, err
	}
	hand, err := startOutbox(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, hand.stop()) }()

	cases := []*reaction{{name: "ours", carrier: ours}, {name: fmt.Sprintf("outbox by hand, every %v", outboxEvery), carrier: hand}}
	var last atomic.Int64
	for _, c := range cases { // the first second opens connections
		if _, err := c.react(ctx, "warm", time.Second, &last); err != nil {
			return nil, err
		}
	}
	err = report.TakeTurns(ctx, cases, rounds, func(c *reaction, round int) error {
		lags, err := c.react(ctx, fmt.Sprint(round), d, &last)
		if err == nil {
			c.p50 = append(c.p50, report.MS(report.Percentile(lags, 0.5)))
			c.p99 = append(c.p99, report.MS(report.Percentile(lags, 0.99)))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return printCommand(w, cases)
}

// react places orders for d, and returns how long after each its note was there. last
// is the number of the newest order.
func (c *reaction) react(ctx context.Context, round string, d time.Duration, last *atomic.Int64) ([]time.Duration, error) {
	seen := c.carrier.sample()
	err := paced(ctx, commandRate, d, func(ctx context.Context, caller, n int) error {
		return c.carrier.place(ctx, fmt.Sprintf("%s-%d-%d", round, caller, n%shopsEach), last.Add(1))
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	lags, err := seen.complete(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	return lags, nil
}

func printCommand(w io.Writer, cases []*reaction) ([]report.Ratio, error) {
	out := report.Table(w)
	fmt.Fprintf(out, "event to its command's commit, %d events/s\tp50\tp99\t\n", commandRate)
	for _, c := range cases {
		fmt.Fprintf(out, "%s\t%.1f ms\t%.1f ms\t\n", c.name, report.Median(c.p50), report.Median(c.p99))
	}
	ours, hand := cases[0], cases[1]
	return []report.Ratio{
		{Name: "command: p99 of ours, ms", Values: ours.p99, AtMost: 25},
		{Name: "command: p50 of ours to the outbox", Values: report.Pairwise(ours.p50, hand.p50, report.Quotient)},
		{Name: "command: p99 of ours to the outbox", Values: report.Pairwise(ours.p99, hand.p99, report.Quotient)},
	}, out.Flush()
}
