package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/relay"
)

// Types of the operations on relays.
type (
	Relay           = relay.Relay
	RelayOperations = engine.RelayOperations
	RelayState      = engine.RelayState
)

// OperateRelays returns the operations on the relays of a log, whether or not nodes run.
func OperateRelays(store Store) RelayOperations {
	return RelayOperations{Store: store, Rows: store.Rows()}
}

// An OwnedRelay is a relay with the members that work on it: one, none if unknown,
// several for moments.
type OwnedRelay struct {
	RelayState
	Owners []string `json:"owners"`
	// Waits has what these members wait for, by member.
	Waits map[string]string `json:"waits,omitempty"`
}

// AddRelayOwner adds a member to the relays that it works on.
func AddRelayOwner(list []OwnedRelay, member string, w ProjectionWork) {
	for _, one := range w.Segments {
		for i := range list {
			r := &list[i]
			if one.Projection != engine.RelayPlacement(r.Relay) {
				continue
			}
			r.Owners = append(r.Owners, member)
			if one.Stopped != "" {
				if r.Waits == nil {
					r.Waits = map[string]string{}
				}
				r.Waits[member] = one.Stopped
			}
		}
	}
}

// relayWaits returns why a relay of this node publishes nothing, "" if it does. Details
// is what a person reads.
func relayWaits(s engine.RelayStats, f engine.SegmentFigures) (reason, details string) {
	switch {
	case f.Blocked > 0:
		return "blocked", ""
	case s.Broker.Connected && s.Broker.Waits != "":
		return "stalled", s.Broker.Waits
	case s.Broker.Waits != "":
		return "broker", s.Broker.Waits
	case f.Stopped != "" && !s.Broker.Connected:
		return string(f.Stopped), string(f.Stopped)
	}
	return "", ""
}

// relayReasons are the reasons of relayWaits that last.
var relayReasons = []string{"blocked", "stalled", "broker", "store", "paused", "other_log"}

// relays collects metrics of the relays that a node can run.
type relays struct{ *engine.Projections }

var relayMetrics = struct{ working, connected, position, events, seconds, unconfirmed, waiting, published, confirmed, runs *prometheus.Desc }{
	working:     relayMetric("working", "1 while this node works on the relay."),
	connected:   relayMetric("connected", "1 while this node has a connection to the broker."),
	position:    relayMetric("position", "Position up to which the broker has confirmed all events; 0 on nodes that do not work on the relay."),
	events:      relayMetric("lag_events", "Events between that position and the newest event of this node."),
	seconds:     relayMetric("lag_seconds", "The time for which the broker has not had the newest event of its moment."),
	unconfirmed: relayMetric("unconfirmed", "Messages that were published and not confirmed."),
	waiting:     relayMetric("waiting", "1 while the relay publishes nothing for a reason.", "reason"),
	published:   relayMetric("published_total", "Messages that this node has published, repeats included."),
	confirmed:   relayMetric("confirmed_total", "Messages that the broker has confirmed to this node."),
	runs:        relayMetric("runs_total", "Connections over which this node has begun to publish."),
}

func relayMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("ganglion_relay_"+name, help, append([]string{"relay"}, labels...), nil)
}

func (relays) Describe(descs chan<- *prometheus.Desc) {
	m := &relayMetrics
	for _, d := range []*prometheus.Desc{m.working, m.connected, m.position, m.events, m.seconds, m.unconfirmed, m.waiting, m.published, m.confirmed, m.runs} {
		descs <- d
	}
}

func (p relays) Collect(metrics chan<- prometheus.Metric) {
	m := &relayMetrics
	for _, s := range p.Relays() {
		send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
			metrics <- prometheus.MustNewConstMetric(d, kind, value, append([]string{s.Relay}, labels...)...)
		}
		var f engine.SegmentFigures // zero on nodes that do not work on the relay
		if len(s.Segments) > 0 {
			f = s.Segments[0]
		}
		send(m.working, prometheus.GaugeValue, oneIf[len(s.Segments) > 0])
		send(m.connected, prometheus.GaugeValue, oneIf[s.Broker.Connected])
		send(m.position, prometheus.GaugeValue, float64(f.Position))
		send(m.events, prometheus.GaugeValue, float64(f.Behind))
		send(m.seconds, prometheus.GaugeValue, f.Stale.Seconds())
		send(m.unconfirmed, prometheus.GaugeValue, float64(s.Broker.Unconfirmed))
		why, _ := relayWaits(s, f)
		for _, reason := range relayReasons {
			send(m.waiting, prometheus.GaugeValue, oneIf[reason == why], reason)
		}
		send(m.published, prometheus.CounterValue, float64(s.Broker.Published))
		send(m.confirmed, prometheus.CounterValue, float64(s.Broker.Confirmed))
		send(m.runs, prometheus.CounterValue, float64(s.Broker.Runs))
	}
}
