package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// sample is one measurement of one case.
type sample struct {
	events   int
	commands int
	elapsed  time.Duration
	took     []time.Duration // of each command, or page
	cpu      time.Duration   // of the server
	wal      int64           // bytes
	batches  int             // of this project's store
	allocs   float64         // of this process, per command
}

func (s sample) rate() float64 { return float64(s.events) / s.elapsed.Seconds() }

// measurement is a case and its samples, one of each round.
type measurement struct {
	name    string
	take    func() (sample, error)
	samples []sample
}

func (m *measurement) rates() []float64 {
	list := make([]float64, len(m.samples))
	for i, s := range m.samples {
		list[i] = s.rate()
	}
	return list
}

// all adds the samples up.
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

// ratio compares two cases round by round, so that what else the machine does
// strikes both.
type ratio struct {
	name       string
	of, to     *measurement
	floor, aim float64
}

// value returns the median of the rounds' ratios, and the noise that this run
// measured: two standard errors of the median, estimated from the median
// deviation, which a single disturbed round can't spoil.
func (r ratio) value() (median, noise float64) {
	a, b := r.of.rates(), r.to.rates()
	list := make([]float64, len(a))
	for i := range a {
		list[i] = a[i] / b[i]
	}
	median = medianOf(list)
	for i := range list {
		list[i] = math.Abs(list[i] - median)
	}
	const (
		sigma   = 1.4826 // standard deviations in a median deviation, of a normal distribution
		median1 = 1.2533 // standard errors of a median in one of a mean
	)
	return median, 2 * median1 * sigma * medianOf(list) / math.Sqrt(float64(len(list)))
}

func medianOf(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	n := len(list)
	if n == 0 {
		return math.NaN()
	}
	return (list[(n-1)/2] + list[n/2]) / 2
}

// percentile returns how long the p-th part of the commands took at most.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]
}

// printCases prints a table with a line per case.
func printCases(w io.Writer, list []*measurement) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tevents/s\tp50\tp99\tserver µs/event\tWAL B/event\tcommands/batch\tallocs/command\t")
	for _, m := range list {
		s := m.all()
		slices.Sort(s.took)
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", m.name,
			thousands(medianOf(m.rates())),
			known(len(s.took) > 0, "%.2f ms", ms(percentile(s.took, 0.5))),
			known(len(s.took) > 0, "%.2f ms", ms(percentile(s.took, 0.99))),
			known(s.cpu > 0, "%.1f", s.cpu.Seconds()*1e6/float64(s.events)),
			known(s.wal > 0, "%.0f", float64(s.wal)/float64(s.events)),
			known(s.batches > 0, "%.1f", float64(s.commands)/float64(s.batches)),
			known(s.allocs > 0, "%.1f", s.allocs))
	}
	t.Flush()
}

// printRatios prints each ratio beside its floor, and returns how many floors
// were missed by more than the noise.
func printRatios(w io.Writer, list []ratio) (missed int) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tratio\tnoise\tfloor\taim\t\t")
	for _, r := range list {
		if len(r.of.samples) == 0 || len(r.to.samples) == 0 {
			continue
		}
		median, noise := r.value()
		verdict := "reached"
		switch {
		case r.floor == 0:
			verdict = ""
		case median+noise < r.floor:
			verdict = "MISSED"
			missed++
		case median < r.floor:
			verdict = "within the noise"
		case median < r.aim:
			verdict = "reached, not the aim"
		}
		fmt.Fprintf(t, "%s\t%.2f\t± %.2f\t%s\t%s\t%s\t\n", r.name, median, noise,
			known(r.floor > 0, "%.2f", r.floor), known(r.aim > 0, "%.2f", r.aim), verdict)
	}
	t.Flush()
	return missed
}

// known formats a figure, or shows that there is none.
func known(is bool, format string, v float64) string {
	if !is {
		return "–"
	}
	return fmt.Sprintf(format, v)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// thousands writes a whole number with separators: 51,400.
func thousands(f float64) string {
	s := fmt.Sprintf("%.0f", f)
	var b strings.Builder
	for i, c := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	return b.String()
}
