package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/bench/gateway/load"
	"github.com/ganglion-es/ganglion/bench/report"
)

// Metrics of one sample.
func cpuEach(r load.Report) float64 { return r.CPU[0].Seconds() * 1e6 / float64(r.Deliveries) } // µs of the server
func elapsed(r load.Report) float64 { return r.Elapsed.Seconds() }
func p99(r load.Report) float64     { return report.MS(r.P99) }

func bytesEach(r load.Report) float64 { return float64(r.Bytes) / float64(r.Deliveries) }

// othersEach is the processor time of origin and log per delivery, in µs.
func othersEach(r load.Report) float64 {
	var sum time.Duration
	for _, d := range r.CPU[1:] {
		sum += d
	}
	return sum.Seconds() * 1e6 / float64(r.Deliveries)
}

func (m *measurement) all(metric func(load.Report) float64) []float64 {
	list := make([]float64, len(m.samples))
	for i, r := range m.samples {
		list[i] = metric(r)
	}
	return list
}

func (m *measurement) median(metric func(load.Report) float64) float64 {
	return report.Median(m.all(metric))
}

// compare compares two servers round by round.
func compare(of, to *measurement, metric func(load.Report) float64, how func(a, b float64) float64) []float64 {
	return report.Pairwise(of.all(metric), to.all(metric), how)
}

// share returns the median of a processor time as a share of the elapsed time.
func (m *measurement) share(of func(load.Report) time.Duration) float64 {
	return m.median(func(r load.Report) float64 { return of(r).Seconds() / r.Elapsed.Seconds() })
}

func serverTime(r load.Report) time.Duration { return r.CPU[0] }
func clientTime(r load.Report) time.Duration { return r.Own }

// print prints a case with one line per server.
func (c *scenario) print(w io.Writer) {
	fmt.Fprintln(w, c.name)
	t := report.Table(w)
	fmt.Fprintln(t, "\tdeliveries/s\tper core-second\tserver µs each\torigin and log µs each\tserver busy\tclients busy\tbytes each\tp50\tp99\ttook\t")
	for _, m := range c.of {
		if m.failed != nil {
			defer fmt.Fprintf(w, "%s failed: %v\n\n", m.server.name, m.failed)
			continue
		}
		share := func(of func(load.Report) time.Duration) string { return fmt.Sprintf("%.0f %%", 100*m.share(of)) }
		isTimed, resumes := m.samples[0].P99 > 0, strings.Contains(c.name, "resume")
		fmt.Fprintf(t, "%s\t%s\t%s\t%.2f\t%s\t%s\t%s\t%.0f\t%s\t%s\t%s\t\n", m.server.name,
			report.Thousands(m.median(func(r load.Report) float64 { return float64(r.Deliveries) / r.Elapsed.Seconds() })),
			report.Thousands(1e6/m.median(cpuEach)), m.median(cpuEach),
			report.Known(m.server.origin != nil, "%.2f", m.median(othersEach)),
			share(serverTime),
			share(clientTime),
			m.median(bytesEach),
			report.Known(isTimed, "%.1f ms", m.median(func(r load.Report) float64 { return report.MS(r.P50) })),
			report.Known(isTimed, "%.1f ms", m.median(p99)),
			report.Known(resumes, "%.2f s", m.median(elapsed)))
	}
	t.Flush()
	fmt.Fprintln(w)
}
