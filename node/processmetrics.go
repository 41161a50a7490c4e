package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ganglion-es/ganglion/engine"
)

// processes collects metrics of the outboxes of the process managers that a node
// runs. Their folds are among the projections.
type processes struct{ *engine.Projections }

var processMetrics = struct{ commands, oldest, held, outcomes, retries, failures, recorded *prometheus.Desc }{
	commands: processMetric("outbox_commands", "Commands whose outcome is not final; 0 on nodes that do not watch the outbox."),
	oldest:   processMetric("outbox_oldest_seconds", "The age of the oldest of these commands."),
	held:     processMetric("held_targets", "Aggregates to which commands wait for an operator."),
	outcomes: processMetric("commands_total", "Commands with a final outcome that this node has sent.", "outcome"),
	retries:  processMetric("retries_total", "Attempts to send that this node repeats under the same key."),
	failures: processMetric("failures_total", "Attempts to send that failed for a reason of their target."),
	recorded: processMetric("recorded_total", "Events that this node has recorded for the process manager.", "event"),
}

func processMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("ganglion_process_manager_"+name, help, append([]string{"process"}, labels...), nil)
}

func (processes) Describe(descs chan<- *prometheus.Desc) {
	m := &processMetrics
	for _, d := range []*prometheus.Desc{m.commands, m.oldest, m.held, m.outcomes, m.retries, m.failures, m.recorded} {
		descs <- d
	}
}

func (p processes) Collect(metrics chan<- prometheus.Metric) {
	m := &processMetrics
	for _, s := range p.Processes() {
		send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
			metrics <- prometheus.MustNewConstMetric(d, kind, value, append([]string{s.Projection}, labels...)...)
		}
		o := s.Outbox
		send(m.commands, prometheus.GaugeValue, float64(o.Commands))
		send(m.oldest, prometheus.GaugeValue, o.Oldest.Seconds())
		send(m.held, prometheus.GaugeValue, float64(o.Held))
		for outcome, n := range map[string]uint64{"result": o.Sent - o.Reused, "key_reused": o.Reused, "refused": o.Refused} {
			send(m.outcomes, prometheus.CounterValue, float64(n), outcome)
		}
		send(m.retries, prometheus.CounterValue, float64(o.Retries))
		send(m.failures, prometheus.CounterValue, float64(o.Failures))
		for event, n := range map[string]uint64{"rejected": o.Recorded, "woken": o.Woken} {
			send(m.recorded, prometheus.CounterValue, float64(n), event)
		}
	}
}
