package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ganglion-es/ganglion/bench/gateway/load"
)

// Metrics of one sample.
func cpuEach(r load.Report) float64 { return r.CPU[0].Seconds() * 1e6 / float64(r.Deliveries) } // µs of the server
func elapsed(r load.Report) float64 { return r.Elapsed.Seconds() }
func p99(r load.Report) float64     { return ms(r.P99) }

func bytesEach(r load.Report) float64 { return float64(r.Bytes) / float64(r.Deliveries) }

// othersEach is what origin and log use for a delivery, in µs.
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
	return medianOf(m.all(metric))
}

// compare returns how two servers compare in each round.
func compare(of, to *measurement, metric func(load.Report) float64, how func(a, b float64) float64) []float64 {
	return pairwise(of.all(metric), to.all(metric), how)
}

// pairwise compares two series, as far as both go.
func pairwise(of, to []float64, how func(a, b float64) float64) []float64 {
	list := make([]float64, min(len(of), len(to)))
	for i := range list {
		list[i] = how(of[i], to[i])
	}
	return list
}

func quotient(a, b float64) float64   { return a / b }
func difference(a, b float64) float64 { return a - b }

// ratio is a comparison, one value of each round, and its floor: what it may
// be at most, 0 if it may be anything.
type ratio struct {
	name   string
	values []float64
	limit  float64
	failed *server // had no values to compare
}

// value returns the median of the rounds, and the noise that this run
// measured: two standard errors of the median, estimated from the median
// deviation, which a single disturbed round can't spoil.
func (r ratio) value() (median, noise float64) {
	median = medianOf(r.values)
	deviations := make([]float64, len(r.values))
	for i, v := range r.values {
		deviations[i] = math.Abs(v - median)
	}
	const (
		sigma   = 1.4826 // standard deviations in a median deviation, of a normal distribution
		median1 = 1.2533 // standard errors of a median in one of a mean
	)
	return median, 2 * median1 * sigma * medianOf(deviations) / math.Sqrt(float64(len(r.values)))
}

func medianOf(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	n := len(list)
	if n == 0 {
		return math.NaN()
	}
	return (list[(n-1)/2] + list[n/2]) / 2
}

// print prints a case, with a line per server.
func (c *scenario) print(w io.Writer) {
	fmt.Fprintln(w, c.name)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tdeliveries/s\tper core-second\tserver µs each\torigin and log µs each\tserver busy\tclients busy\tbytes each\tp50\tp99\ttook\t")
	for _, m := range c.of {
		if m.failed != nil {
			defer fmt.Fprintf(w, "%s failed: %v\n\n", m.server.name, m.failed)
			continue
		}
		share := func(of func(load.Report) time.Duration) string {
			return fmt.Sprintf("%.0f %%", 100*m.median(func(r load.Report) float64 { return of(r).Seconds() / r.Elapsed.Seconds() }))
		}
		timed, resumes := m.samples[0].P99 > 0, strings.Contains(c.name, "resume")
		fmt.Fprintf(t, "%s\t%s\t%s\t%.2f\t%s\t%s\t%s\t%.0f\t%s\t%s\t%s\t\n", m.server.name,
			thousands(m.median(func(r load.Report) float64 { return float64(r.Deliveries) / r.Elapsed.Seconds() })),
			thousands(1e6/m.median(cpuEach)), m.median(cpuEach),
			known(m.server.origin != nil, "%.2f", m.median(othersEach)),
			share(func(r load.Report) time.Duration { return r.CPU[0] }),
			share(func(r load.Report) time.Duration { return r.Own }),
			m.median(bytesEach),
			known(timed, "%.1f ms", m.median(func(r load.Report) float64 { return ms(r.P50) })),
			known(timed, "%.1f ms", m.median(p99)),
			known(resumes, "%.2f s", m.median(elapsed)))
	}
	t.Flush()
	fmt.Fprintln(w)
}

// printRatios prints each ratio beside its floor, and returns how many floors
// were missed by more than the noise.
func printRatios(w io.Writer, list []ratio) (missed int) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tmeasured\tnoise\tat most\t\t")
	for _, r := range list {
		median, noise := r.value()
		verdict := "reached"
		switch {
		case r.failed != nil && r.failed.name == gateway:
			verdict = "MISSED: it failed"
			missed++
		case r.failed != nil:
			verdict = r.failed.name + " failed"
		case r.limit == 0:
			verdict = ""
		case median-noise > r.limit:
			verdict = "MISSED"
			missed++
		case median > r.limit:
			verdict = "within the noise"
		}
		fmt.Fprintf(t, "%s\t%s\t± %s\t%s\t%s\t\n", r.name,
			known(r.failed == nil, "%.2f", median), known(r.failed == nil, "%.2f", noise), known(r.limit > 0, "%.2f", r.limit), verdict)
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
