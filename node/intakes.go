package node

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/node/operator"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/relay"
	"github.com/ganglion-es/ganglion/router/cluster"
)

// An Intake executes the commands that arrive in a queue of a broker.
type Intake = relay.Intake

// makeIntakes makes the servers of Config.Intakes, which use the gateway.
func (n *node) makeIntakes() {
	execute := func(ctx context.Context, c frame.Command, client string) frame.Frame {
		return n.gateway.Execute(ctx, c, gateway.Identity{Client: client})
	}
	for _, in := range n.cfg.Intakes {
		n.intakes = append(n.intakes, relay.NewIntakeServer(in, execute, n.log))
	}
}

// runIntakes serves the intakes while the node serves, until it drains or ctx ends. A
// node that does not serve leaves their queues, so that another node consumes them.
func (n *node) runIntakes(ctx, draining context.Context) error {
	defer close(n.taken)
	if len(n.intakes) == 0 {
		return nil
	}
	draining, cancel := context.WithCancel(draining)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	tick := time.NewTicker(healthInterval)
	defer tick.Stop()
	for draining.Err() == nil {
		if n.serves() {
			n.serveIntakes(draining, tick.C)
		}
		select {
		case <-tick.C:
		case <-draining.Done():
		}
	}
	return nil
}

// serveIntakes serves the intakes until ctx ends or the node does not serve, which it
// checks at each tick.
func (n *node) serveIntakes(ctx context.Context, tick <-chan time.Time) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var servers sync.WaitGroup
	for _, s := range n.intakes {
		servers.Go(func() { s.Run(ctx) })
	}
	for ctx.Err() == nil {
		select {
		case <-tick:
			if !n.serves() {
				stop()
			}
		case <-ctx.Done():
		}
	}
	servers.Wait()
}

// serves reports whether commands from queues should be executed here.
func (n *node) serves() bool {
	s := n.status.Load()
	return s.state == cluster.Ready && s.problem() == nil
}

// awaitIntakes waits until the intakes have finished the commands that they have sent,
// which takes a bounded time, so that the gateway drains after that.
func (n *node) awaitIntakes(ctx context.Context) {
	select {
	case <-n.taken:
	case <-ctx.Done():
	}
}

// servedIntakes describes the node's intakes.
func (n *node) servedIntakes() []operator.Intake {
	list := []operator.Intake{}
	for _, one := range n.intakes {
		s := one.Stats()
		list = append(list, operator.Intake{
			Intake: s.Intake, Queue: s.Where, State: string(s.State), Since: s.Since, Problem: s.Problem, ProblemAt: s.ProblemAt,
			Unfinished: s.Unfinished, Commands: s.Commands, Retries: s.Retries,
		})
	}
	return list
}

// intakes collects the metrics of a node's intakes.
type intakes []*relay.IntakeServer

var intakeMetrics = struct{ connected, away, failures, unfinished, commands, retries *prometheus.Desc }{
	connected:  intakeMetric("connected", "1 while this node has a connection to the queue; others may consume before it."),
	away:       intakeMetric("away_seconds", "The time for which this node has lacked a connection to the queue, 0 while it has one. Missing while the node does not serve."),
	failures:   intakeMetric("failures_total", "Connections of this node that could not be opened, or ended."),
	unfinished: intakeMetric("unfinished", "Messages that this node has taken and not finished."),
	commands:   intakeMetric("commands_total", "Messages that this node has finished, by their outcome.", "outcome"),
	retries:    intakeMetric("retries_total", "Commands that this node has sent again, since their outcome was not final."),
}

func intakeMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("ganglion_intake_"+name, help, append([]string{"intake"}, labels...), nil)
}

func (intakes) Describe(descs chan<- *prometheus.Desc) {
	m := &intakeMetrics
	for _, d := range []*prometheus.Desc{m.connected, m.away, m.failures, m.unfinished, m.commands, m.retries} {
		descs <- d
	}
}

func (list intakes) Collect(metrics chan<- prometheus.Metric) {
	m := &intakeMetrics
	for _, one := range list {
		s := one.Stats()
		metrics <- prometheus.MustNewConstMetric(m.connected, prometheus.GaugeValue, oneIf[s.Connected()], s.Intake)
		metrics <- prometheus.MustNewConstMetric(m.failures, prometheus.CounterValue, float64(s.Failures), s.Intake)
		switch {
		case s.Connected():
			metrics <- prometheus.MustNewConstMetric(m.away, prometheus.GaugeValue, 0, s.Intake)
		case s.State == relay.IntakeAway:
			metrics <- prometheus.MustNewConstMetric(m.away, prometheus.GaugeValue, time.Since(s.Since).Seconds(), s.Intake)
		}
		metrics <- prometheus.MustNewConstMetric(m.unfinished, prometheus.GaugeValue, float64(s.Unfinished), s.Intake)
		metrics <- prometheus.MustNewConstMetric(m.retries, prometheus.CounterValue, float64(s.Retries), s.Intake)
		for outcome, count := range s.Commands {
			metrics <- prometheus.MustNewConstMetric(m.commands, prometheus.CounterValue, float64(count), s.Intake, outcome)
		}
	}
}
