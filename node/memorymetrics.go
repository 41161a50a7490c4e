package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/ganglion-es/ganglion/engine"
)

// memories collects metrics of the projections in memory.
type memories struct{ *engine.Projections }

var memoryMetrics = struct{ position, stopped *prometheus.Desc }{
	position: prometheus.NewDesc("ganglion_memory_projection_position", "The position up to which the state in memory shows the log.", []string{"projection"}, nil),
	stopped:  prometheus.NewDesc("ganglion_memory_projection_stopped", "1 if the state has stopped, because an event cannot be folded.", []string{"projection"}, nil),
}

func (memories) Describe(descs chan<- *prometheus.Desc) {
	descs <- memoryMetrics.position
	descs <- memoryMetrics.stopped
}

func (m memories) Collect(metrics chan<- prometheus.Metric) {
	for _, f := range m.Memory() {
		metrics <- prometheus.MustNewConstMetric(memoryMetrics.position, prometheus.GaugeValue, float64(f.Position), f.Projection)
		metrics <- prometheus.MustNewConstMetric(memoryMetrics.stopped, prometheus.GaugeValue, oneIf[f.Stopped], f.Projection)
	}
}
