package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/bench/report"
)

// deliverWithin bounds the delivery of one backlog.
const deliverWithin = 5 * time.Minute

// system is what delivers a backlog to the members of a group.
type system interface {
	// fill writes a backlog that no member has seen, and returns the events per second
	// that were confirmed.
	fill(ctx context.Context, events int) (rate float64, err error)
	// drain delivers the backlog to the members until t.all is closed, and removes it.
	// It fails if the system has not recorded all acknowledgements then.
	drain(ctx context.Context, t *tally) error
	close() error
}

// delivering is a case of the experiment.
type delivering struct {
	name     string
	open     func(context.Context) (system, error)
	system   system
	written  []float64 // events per second
	rates    []float64 // events per second, delivered and acknowledged
	repeated int
}

// errOrder means that a member got an event before an earlier one of its stream.
var errOrder = errors.New("events arrived out of order")

// deliver compares the rates at which three members get a backlog, and acknowledge it.
func (b *bench) deliver(ctx context.Context, w io.Writer) (_ []report.Ratio, err error) {
	ours := &delivering{name: "ganglion", open: func(context.Context) (system, error) { return &ours{server: b.server}, nil }}
	rabbit := &delivering{name: "RabbitMQ, confirmed", open: openRabbit}
	jet := &delivering{name: "JetStream", open: openJetStream}
	cases := []*delivering{ours, rabbit, jet}
	cases = slices.DeleteFunc(cases, func(c *delivering) bool { return !b.cases.MatchString(c.name) })
	defer func() {
		for _, c := range cases {
			if c.system != nil {
				err = errors.Join(err, c.system.close())
			}
		}
	}()
	for _, c := range cases {
		if c.system, err = c.open(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	err = report.TakeTurns(ctx, cases, b.rounds, func(c *delivering, _ int) error {
		if err := c.sample(ctx, b.events); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return slices.Concat(compare(ours, rabbit, 1), compare(ours, jet, 0)), printDeliver(w, b.events, cases)
}

func (c *delivering) sample(ctx context.Context, events int) error {
	written, err := c.system.fill(ctx, events)
	if err != nil {
		return fmt.Errorf("fill: %w", err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, deliverWithin, fmt.Errorf("the backlog was not delivered within %v", deliverWithin))
	defer cancel()
	t := newTally(events)
	if err := c.system.drain(ctx, t); err != nil {
		return fmt.Errorf("drain: %w", errors.Join(err, context.Cause(ctx)))
	}
	rate, repeated, misplaced := t.result()
	if misplaced > 0 {
		return fmt.Errorf("%w: %d", errOrder, misplaced)
	}
	c.written, c.rates = append(c.written, written), append(c.rates, rate)
	c.repeated += repeated
	return nil
}

// compare compares the rates of measured cases round by round, with a floor; 0 means
// none.
func compare(ours, rival *delivering, floor float64) []report.Ratio {
	values := report.Pairwise(ours.rates, rival.rates, report.Quotient)
	if len(values) == 0 {
		return nil
	}
	return []report.Ratio{
		{Name: "deliver: to " + rival.name, Values: values, AtLeast: floor},
		{Name: "deliver: written and then delivered, to " + rival.name, Values: report.Pairwise(ours.through(), rival.through(), report.Quotient)},
	}
}

// through returns the events per second of writing and delivering together.
func (c *delivering) through() []float64 {
	rates := make([]float64, len(c.rates))
	for i := range rates {
		rates[i] = 1 / (1/c.written[i] + 1/c.rates[i])
	}
	return rates
}

func printDeliver(w io.Writer, events int, cases []*delivering) error {
	out := report.Table(w)
	fmt.Fprintf(out, "%s events of %d streams, %d members\twritten/s\tdelivered and acknowledged/s\tout of order\trepeated\t\n", report.Thousands(float64(events)), lots, members)
	for _, c := range cases {
		fmt.Fprintf(out, "%s\t%s\t%s\t0\t%d\t\n", c.name, report.Thousands(report.Median(c.written)), report.Thousands(report.Median(c.rates)), c.repeated)
	}
	return out.Flush()
}
