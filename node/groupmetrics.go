package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ganglion-es/ganglion/proto/group"
)

// groupCollector collects metrics of the consumer groups of a node's program.
type groupCollector struct{ *consumers }

var groupMetrics = struct{ coordinated, members, lag, position, vacant, parked, stopped, takeovers, lost, served, pending, silent *prometheus.Desc }{
	coordinated: groupMetric("coordinated", "1 if this node coordinates the group, otherwise 0."),
	members:     groupMetric("members", "Members of the group in the cluster, on the node that coordinates it."),
	lag:         groupMetric("lag_events", "The largest number of events between a segment's acknowledged position and the head of the log, on the node that coordinates the group."),
	position:    groupMetric("position", "The lowest acknowledged position of its segments, on the node that coordinates it."),
	vacant:      groupMetric("vacant_segments", "Segments without a member, on the node that coordinates the group."),
	parked:      groupMetric("parked_sequences", "Sequences that are left out until an operator retries them, on the node that coordinates the group."),
	stopped:     groupMetric("stopped", "1 if the group stands still for this reason, on the node that coordinates it.", "reason"),
	takeovers:   groupMetric("takeovers_total", "Segments that this node gave to another member, by cause: failed means that events were pending.", "cause"),
	lost:        groupMetric("coordinator_lost_total", "Times that another node has coordinated a group which this node owned."),
	served:      groupMetric("gateway_members", "Members of the group on this gateway."),
	pending:     groupMetric("pending_segments", "Segments on this gateway with events that are not acknowledged."),
	silent:      groupMetric("silent", "1 if this gateway has members of the group and does not hear its coordinator, so it sends them nothing."),
}

func groupMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("ganglion_group_"+name, help, append([]string{"group"}, labels...), nil)
}

func (groupCollector) Describe(descs chan<- *prometheus.Desc) {
	m := &groupMetrics
	for _, d := range []*prometheus.Desc{m.coordinated, m.members, m.lag, m.position, m.vacant, m.parked, m.stopped, m.takeovers, m.lost, m.served, m.pending, m.silent} {
		descs <- d
	}
}

func (c groupCollector) Collect(metrics chan<- prometheus.Metric) {
	if c.coordinators != nil {
		c.collectCoordinated(metrics)
	}
	if c.members == nil {
		return
	}
	m := &groupMetrics
	for _, s := range c.members.Stats() {
		for d, value := range map[*prometheus.Desc]float64{m.served: float64(s.Members), m.pending: float64(s.Pending), m.silent: oneIf[s.Silent]} {
			metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, s.Group)
		}
	}
}

func (c groupCollector) collectCoordinated(metrics chan<- prometheus.Metric) {
	m := &groupMetrics
	list, head := c.coordinators.Stats()
	for _, s := range list {
		send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
			metrics <- prometheus.MustNewConstMetric(d, kind, value, append([]string{s.Group}, labels...)...)
		}
		send(m.coordinated, prometheus.GaugeValue, oneIf[s.Leads])
		send(m.takeovers, prometheus.CounterValue, float64(s.Failed), "failed")
		send(m.takeovers, prometheus.CounterValue, float64(s.Moved), "moved")
		send(m.lost, prometheus.CounterValue, float64(s.Lost))
		if !s.Leads {
			continue
		}
		lag := 0.0
		if head > s.Position {
			lag = float64(head - s.Position)
		}
		for d, value := range map[*prometheus.Desc]float64{
			m.members: float64(s.Members), m.lag: lag, m.position: float64(s.Position), m.vacant: float64(s.Vacant), m.parked: float64(s.Parked),
		} {
			send(d, prometheus.GaugeValue, value)
		}
		for _, reason := range []group.Halt{group.Paused, group.WentBack, group.ParkedFull} {
			send(m.stopped, prometheus.GaugeValue, oneIf[s.Halt == reason], string(reason))
		}
	}
}
