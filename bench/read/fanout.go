package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/ganglion-es/ganglion/bench/gateway/load"
	"github.com/ganglion-es/ganglion/bench/report"
)

const (
	fanoutSessions = 1000
	fanoutRate     = 50 // events per second, of one stream
)

// crowd is a group of sessions at the gateway, with its samples.
type crowd struct {
	name, topic string
	clients     *process
	p50, p99    []float64 // milliseconds, from the time at which the command is due
	cpu         []float64 // of the gateway, in microseconds per delivery of a version, merged ones included
	perMessage  []float64 // the same per message
	messages    []float64 // per version
	skipped     []float64 // share of the versions that a newer one replaced
	bytes       []float64 // per delivery
}

// fanout compares 1,000 sessions that follow one question with 1,000 that follow
// one stream, at the same gateway, which is a process of its own. The row of the
// question changes with each event of the stream.
//
// Events that arrive together are one message, and so are versions of a row, of which
// the client gets only the newest. So a busy machine makes both cheaper per delivery;
// the processor time per message shows the cost of one that is not merged.
func (b *bench) fanout(ctx context.Context, w io.Writer, rounds int, d time.Duration, admin string) (_ []report.Ratio, err error) {
	if _, err := b.server.Admin.Exec(ctx, `create database fanout`); err != nil {
		return nil, err
	}
	gossip, err := freeAddress()
	if err != nil {
		return nil, err
	}
	var f fleet
	defer f.stop()
	_, origin, err := f.start(nodeReady, "node", "domain", b.server.URL("fanout"), gossip, "", "")
	if err != nil {
		return nil, err
	}
	gateway, addr, err := f.start(nodeReady, "node", "gateway", b.server.URL("fanout"), "127.0.0.1:0", gossip, admin)
	if err != nil {
		return nil, err
	}
	cases := []*crowd{{name: "events of one stream", topic: "events"}, {name: "one live query", topic: "rows"}}
	for i, dialect := range []string{"ganglion", "live"} {
		c := cases[i]
		if c.clients, _, err = f.start("", "clients", dialect, addr, origin); err != nil {
			return nil, err
		}
		if err := c.open(); err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	err = report.TakeTurns(ctx, cases, rounds, func(c *crowd, _ int) error { return c.sample(gateway.pid(), d) })
	if err != nil {
		return nil, err
	}
	return printFanout(w, cases)
}

// open opens the sessions. The first command loads the aggregate.
func (c *crowd) open() error {
	for _, o := range []load.Order{
		{Do: "publish", Topics: []string{c.topic}, Events: 1, Burst: 1},
		{Do: "open", Sessions: fanoutSessions, Topics: []string{c.topic}},
		{Do: "pace", Topics: []string{c.topic}, Rate: fanoutRate, For: time.Second / 2},
	} {
		o.Group = "all"
		if _, err := c.clients.do(o); err != nil {
			return err
		}
	}
	return nil
}

func (c *crowd) sample(gateway int, d time.Duration) error {
	r, err := c.clients.do(load.Order{Do: "pace", Group: "all", Topics: []string{c.topic}, Rate: fanoutRate, For: d, Watch: []int{gateway}})
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	versions := float64(r.Deliveries)
	c.p50, c.p99 = append(c.p50, report.MS(r.P50)), append(c.p99, report.MS(r.P99))
	c.cpu = append(c.cpu, r.CPU[0].Seconds()*1e6/versions)
	c.perMessage = append(c.perMessage, r.CPU[0].Seconds()*1e6/float64(r.Messages))
	c.messages = append(c.messages, float64(r.Messages)/versions)
	c.skipped = append(c.skipped, float64(r.Skipped)/versions)
	c.bytes = append(c.bytes, float64(r.Bytes)/float64(r.Messages))
	return nil
}

func printFanout(w io.Writer, cases []*crowd) ([]report.Ratio, error) {
	out := report.Table(w)
	fmt.Fprintf(out, "%s sessions, %d events/s\tp50\tp99\tgateway µs/delivery\tµs/message\tmessages/delivery\tbytes/message\tmerged\t\n", report.Thousands(fanoutSessions), fanoutRate)
	for _, c := range cases {
		fmt.Fprintf(out, "%s\t%.1f ms\t%.1f ms\t%.2f\t%.2f\t%.2f\t%.0f\t%.0f %%\t\n", c.name, report.Median(c.p50), report.Median(c.p99),
			report.Median(c.cpu), report.Median(c.perMessage), report.Median(c.messages), report.Median(c.bytes), 100*report.Median(c.skipped))
	}
	events, rows := cases[0], cases[1]
	return []report.Ratio{
		{Name: "fanout: gateway's processor time of a live update to an event's", Values: report.Pairwise(rows.cpu, events.cpu, report.Quotient), AtMost: 1.3},
		{Name: "fanout: the same per message", Values: report.Pairwise(rows.perMessage, events.perMessage, report.Quotient), AtMost: 1.3},
		{Name: "fanout: p99 of live updates minus that of events, ms", Values: report.Pairwise(rows.p99, events.p99, report.Difference), AtMost: 10},
	}, out.Flush()
}
