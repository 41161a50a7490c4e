package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// projections collects metrics of the projections that a node runs.
type projections struct{ *engine.Projections }

var projectionMetrics = struct{ segments, position, events, seconds, blocked, stopped, builds, batches, rows, retries *prometheus.Desc }{
	segments: projectionMetric("segments", "Segments of builds in a state that this node works on.", "state"),
	position: projectionMetric("position", "The lowest position that their rows show; 0 without any.", "state"),
	events:   projectionMetric("lag_events", "The largest number of events between that position and the newest event of this node.", "state"),
	seconds:  projectionMetric("lag_seconds", "The longest time for which rows have not shown the newest event of their moment.", "state"),
	blocked:  projectionMetric("blocked_rows", "Rows whose later events wait for an operator, in the segments that this node works on.", "state"),
	stopped:  projectionMetric("stopped_segments", "Segments that do not follow the log, by reason.", "reason"),
	builds:   projectionMetric("builds", "Builds of the projection, of all programs, by state.", "state"),
	batches:  projectionMetric("batches_total", "Batches that this node has written."),
	rows:     projectionMetric("rows_total", "Rows that this node has written."),
	retries:  projectionMetric("retries_total", "Batches and events that this node had to try again, by cause.", "cause"),
}

func projectionMetric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("ganglion_projection_"+name, help, append([]string{"projection"}, labels...), nil)
}

func (projections) Describe(descs chan<- *prometheus.Desc) {
	m := &projectionMetrics
	for _, d := range []*prometheus.Desc{m.segments, m.position, m.events, m.seconds, m.blocked, m.stopped, m.builds, m.batches, m.rows, m.retries} {
		descs <- d
	}
}

func (p projections) Collect(metrics chan<- prometheus.Metric) {
	m := &projectionMetrics
	for _, s := range p.Stats() {
		send := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
			metrics <- prometheus.MustNewConstMetric(d, kind, value, append([]string{s.Projection}, labels...)...)
		}
		for _, state := range []rows.State{rows.Building, rows.Active} {
			sum := sumOf(s.Segments, state)
			for d, value := range map[*prometheus.Desc]float64{
				m.segments: sum.segments, m.position: sum.position, m.events: sum.events, m.seconds: sum.seconds, m.blocked: sum.blocked,
			} {
				send(d, prometheus.GaugeValue, value, string(state))
			}
		}
		for state, n := range s.Builds {
			send(m.builds, prometheus.GaugeValue, float64(n), string(state))
		}
		for _, reason := range engine.StopReasons {
			send(m.stopped, prometheus.GaugeValue, stopped(s.Segments, reason), string(reason))
		}
		send(m.batches, prometheus.CounterValue, float64(s.Batches))
		send(m.rows, prometheus.CounterValue, float64(s.Rows))
		for cause, n := range s.Retries {
			send(m.retries, prometheus.CounterValue, float64(n), string(cause))
		}
	}
}

// segmentSum has the figures of several segments.
type segmentSum struct{ segments, position, events, seconds, blocked float64 }

func sumOf(segments []engine.SegmentFigures, state rows.State) (sum segmentSum) {
	for _, f := range segments {
		if f.State != state {
			continue
		}
		if at := float64(f.Position); sum.segments == 0 || at < sum.position {
			sum.position = at
		}
		sum.segments++
		sum.events = max(sum.events, float64(f.Behind))
		sum.seconds = max(sum.seconds, f.Stale.Seconds())
		sum.blocked += float64(f.Blocked)
	}
	return sum
}

func stopped(segments []engine.SegmentFigures, reason engine.ProjectionRetry) (n float64) {
	for _, f := range segments {
		n += oneIf[f.Stopped == reason]
	}
	return n
}

// liveMetrics registers the figures of live queries.
func (n *node) liveMetrics(r registry) {
	of := func(value func(engine.LiveStats) int64) func() float64 {
		return func() float64 { return float64(value(n.readSide.live())) }
	}
	r.gauge("ganglion_live_queries", "Live queries of this gateway's clients.", of(func(s engine.LiveStats) int64 { return s.Live }))
	r.gauge("ganglion_live_questions", "Different questions of live queries.", of(func(s engine.LiveStats) int64 { return s.Questions }))
	r.gauge("ganglion_live_entries", "Rows that these questions hold, counted for each.", of(func(s engine.LiveStats) int64 { return s.Entries }))
	r.gauge("ganglion_live_scans", "Questions whose condition no index finds.", of(func(s engine.LiveStats) int64 { return s.Scans }))
	r.gauge("ganglion_live_cache_bytes", "Bytes of rows that are kept for live queries.", of(func(s engine.LiveStats) int64 { return s.CacheBytes }))
	r.counter("ganglion_live_changes_total", "Changed rows that were read for live queries.", of(func(s engine.LiveStats) int64 { return s.Changes }))
	r.counter("ganglion_live_evaluations_total", "Questions that were asked in the database for live queries.", of(func(s engine.LiveStats) int64 { return s.Evaluations }))
	r.counter("ganglion_live_loads_total", "Rows whose data was read for a client of a live query.", of(func(s engine.LiveStats) int64 { return s.Loads }))
	resets := map[string]func() float64{}
	for reason := range n.readSide.live().Resets {
		resets[reason] = of(func(s engine.LiveStats) int64 { return s.Resets[reason] })
	}
	r.counters("ganglion_live_resets_total", "Live queries that began again with a new state, by reason.", "reason", resets)
}

// wakeMetrics registers the figures of wake-ups.
func (n *node) wakeMetrics(r registry) {
	of := func(value func(engine.WakeStats) float64) func() float64 {
		return func() float64 { return value(n.readSide.wakes.Stats()) }
	}
	r.gauge("ganglion_wakes_segments", "Segments of the table of wake-ups that this node works on.", of(func(s engine.WakeStats) float64 { return float64(s.Segments) }))
	r.gauge("ganglion_wakes_due", "Aggregates of these segments that are due to be woken.", of(func(s engine.WakeStats) float64 { return float64(s.Due) }))
	r.gauge("ganglion_wakes_overdue_seconds", "How long the first of them has been due, by the database's clock.", of(func(s engine.WakeStats) float64 { return s.Late.Seconds() }))
	r.gauge("ganglion_wakes_refused", "Aggregates of these segments whose wake-up had no events; they wait for another state, or for an operator.", of(func(s engine.WakeStats) float64 { return float64(s.Refused) }))
	r.gauge("ganglion_wakes_lag_events", "The largest number of events between a segment and the newest event of this node.", of(func(s engine.WakeStats) float64 { return float64(s.Behind) }))
	r.gauge("ganglion_wakes_paused", "1 while wake-ups are paused.", of(func(s engine.WakeStats) float64 { return oneIf[s.Paused] }))
	r.counters("ganglion_wakes_total", "Questions of this node to aggregates whether they must be woken, by outcome.", "outcome", map[string]func() float64{
		"woken":   of(func(s engine.WakeStats) float64 { return float64(s.Woken) }),
		"refused": of(func(s engine.WakeStats) float64 { return float64(s.RefusedTotal) }),
		"failed":  of(func(s engine.WakeStats) float64 { return float64(s.Failed) }),
		"not_due": of(func(s engine.WakeStats) float64 { return float64(s.NotDue) }),
	})
	r.MustRegister(n.observer.Wakes)
}
