// Package report is shared by the benchmarks. It has the turns of cases, ratios
// with their noise and floors, and the tables that show them.
package report

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// TakeTurns measures every case once per round, in reverse order in every other
// round. Other load on the machine then affects all cases alike, so they can be
// compared round by round.
func TakeTurns[C any](ctx context.Context, cases []C, rounds int, measure func(c C, round int) error) error {
	for round := range rounds {
		order := slices.Clone(cases)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, c := range order {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := measure(c, round); err != nil {
				return err
			}
		}
	}
	return nil
}

// Pairwise compares two series round by round, up to the end of the shorter.
func Pairwise(of, to []float64, compare func(a, b float64) float64) []float64 {
	list := make([]float64, min(len(of), len(to)))
	for i := range list {
		list[i] = compare(of[i], to[i])
	}
	return list
}

// Quotient and Difference are comparisons for Pairwise.
func Quotient(a, b float64) float64   { return a / b }
func Difference(a, b float64) float64 { return a - b }

// Ratio is a comparison with one value per round, and its bounds. A bound of 0
// means none.
type Ratio struct {
	Name    string
	Values  []float64
	AtLeast float64 // the floor, if more is better
	AtMost  float64 // the floor, if less is better
	Aim     float64 // above AtLeast; missing it fails nothing

	SubjectFailed bool   // the measured system failed and has no values; that misses the floor
	RivalFailed   string // the rival that failed and has no values
}

// Value returns the median of the rounds and the noise of this run: two
// standard errors of the median, estimated from the median deviation, which a
// single disturbed round cannot spoil.
func (r Ratio) Value() (median, noise float64) {
	median = Median(r.Values)
	deviations := make([]float64, len(r.Values))
	for i, v := range r.Values {
		deviations[i] = math.Abs(v - median)
	}
	const (
		sigma       = 1.4826 // standard deviations per median deviation, in a normal distribution
		medianError = 1.2533 // standard errors of a median per standard error of a mean
	)
	return median, 2 * medianError * sigma * Median(deviations) / math.Sqrt(float64(len(r.Values)))
}

// verdict compares the value with the bounds. A floor is missed if the value
// lies beyond it by more than the noise.
func (r Ratio) verdict() (text string, missed bool) {
	median, noise := r.Value()
	switch {
	case r.SubjectFailed:
		return "MISSED: it failed", true
	case r.RivalFailed != "":
		return r.RivalFailed + " failed", false
	case r.AtLeast == 0 && r.AtMost == 0:
		return "", false
	case r.AtLeast > 0 && median+noise < r.AtLeast, r.AtMost > 0 && median-noise > r.AtMost:
		return "MISSED", true
	case r.AtLeast > 0 && median < r.AtLeast, r.AtMost > 0 && median > r.AtMost:
		return "within the noise", false
	case r.Aim > 0 && median < r.Aim:
		return "reached, not the aim", false
	}
	return "reached", false
}

// Print prints each ratio beside its bounds, and returns the number of missed
// floors.
func Print(w io.Writer, list []Ratio) (missed int) {
	t := Table(w)
	fmt.Fprintln(t, "\tmeasured\tnoise\tfloor\taim\t\t")
	for _, r := range list {
		verdict, isMissed := r.verdict()
		if isMissed {
			missed++
		}
		median, noise := r.Value()
		isKnown := !r.SubjectFailed && r.RivalFailed == ""
		floor := Known(r.AtLeast > 0, "≥ %.2f", r.AtLeast)
		if r.AtMost > 0 {
			floor = Known(true, "≤ %.2f", r.AtMost)
		}
		fmt.Fprintf(t, "%s\t%s\t± %s\t%s\t%s\t%s\t\n", r.Name,
			Known(isKnown, "%.2f", median), Known(isKnown, "%.2f", noise), floor, Known(r.Aim > 0, "%.2f", r.Aim), verdict)
	}
	t.Flush()
	return missed
}

// Table returns a writer that aligns columns, which end with tabs, to the
// right. Flush it.
func Table(w io.Writer) *tabwriter.Writer {
	return tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
}

// Median returns the median of list, or NaN if list is empty.
func Median(list []float64) float64 {
	list = slices.Sorted(slices.Values(list))
	n := len(list)
	if n == 0 {
		return math.NaN()
	}
	return (list[(n-1)/2] + list[n/2]) / 2
}

// Percentile returns the duration that the share p of sorted does not exceed,
// or 0 if sorted is empty.
func Percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]
}

// Known formats v, or returns a dash if v is not known.
func Known(isKnown bool, format string, v float64) string {
	if !isKnown {
		return "–"
	}
	return fmt.Sprintf(format, v)
}

// MS returns d in milliseconds.
func MS(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// Thousands formats f as a whole number with separators: 51,400.
func Thousands(f float64) string {
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
