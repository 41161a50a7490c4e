package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/bench/report"
)

// sample is one measurement of a case.
type sample struct {
	events   int
	commands int
	elapsed  time.Duration
	took     []time.Duration // per command or page
	cpu      time.Duration   // processor time of the server
	wal      int64           // bytes of write-ahead log
	batches  int             // commits of this project's store
	allocs   float64         // allocations of this process, per command
}

func (s sample) rate() float64 { return float64(s.events) / s.elapsed.Seconds() }

// measurement is a case and its samples, one per round.
type measurement struct {
	name    string
	sample  func() (sample, error)
	samples []sample
}

func (m *measurement) rates() []float64 {
	list := make([]float64, len(m.samples))
	for i, s := range m.samples {
		list[i] = s.rate()
	}
	return list
}

// all returns the sum of the samples.
func (m *measurement) all() sample {
	var sum sample
	for _, s := range m.samples {
		sum.events += s.events
		sum.commands += s.commands
		sum.elapsed += s.elapsed
		sum.took = append(sum.took, s.took...)
		sum.cpu += s.cpu
		sum.wal += s.wal
		sum.batches += s.batches
		sum.allocs += s.allocs / float64(len(m.samples))
	}
	return sum
}

// ratio compares the rates of two cases. A bound of 0 means none.
type ratio struct {
	name       string
	of, to     *measurement
	floor, aim float64
}

// compared returns the values of the ratios whose cases were measured.
func compared(list []ratio) []report.Ratio {
	var measured []report.Ratio
	for _, r := range list {
		if len(r.of.samples) > 0 && len(r.to.samples) > 0 {
			values := report.Pairwise(r.of.rates(), r.to.rates(), report.Quotient)
			measured = append(measured, report.Ratio{Name: r.name, Values: values, AtLeast: r.floor, Aim: r.aim})
		}
	}
	return measured
}

// printCases prints a table with one line per case.
func printCases(w io.Writer, list []*measurement) {
	t := report.Table(w)
	fmt.Fprintln(t, "\tevents/s\tp50\tp99\tserver µs/event\tWAL B/event\tcommands/batch\tallocs/command\t")
	for _, m := range list {
		s := m.all()
		slices.Sort(s.took)
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", m.name,
			report.Thousands(report.Median(m.rates())),
			report.Known(len(s.took) > 0, "%.2f ms", report.MS(report.Percentile(s.took, 0.5))),
			report.Known(len(s.took) > 0, "%.2f ms", report.MS(report.Percentile(s.took, 0.99))),
			report.Known(s.cpu > 0, "%.1f", s.cpu.Seconds()*1e6/float64(s.events)),
			report.Known(s.wal > 0, "%.0f", float64(s.wal)/float64(s.events)),
			report.Known(s.batches > 0, "%.1f", float64(s.commands)/float64(s.batches)),
			report.Known(s.allocs > 0, "%.1f", s.allocs))
	}
	t.Flush()
}
