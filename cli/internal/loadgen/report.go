package loadgen

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Report is the outcome of a load. Latencies are in milliseconds.
type Report struct {
	Seconds      float64        `json:"seconds"` // during which commands were sent
	Sent         int            `json:"sent"`
	Acknowledged int            `json:"acknowledged"`
	Rate         float64        `json:"rate"`      // acknowledged commands per second
	Delivered    int            `json:"delivered"` // events, summed over subscribers
	Cuts         int            `json:"cuts"`      // connections that were cut
	Connects     int            `json:"connects"`  // connections that were made
	Command      Percentiles    `json:"command_ms"`
	Delivery     Percentiles    `json:"delivery_ms"`
	Errors       map[string]int `json:"errors"` // failed commands by code, and refused subscriptions by "subscribe: CODE"
	// Violations counts broken promises; Broken describes the first 20.
	Violations int      `json:"violations"`
	Broken     []string `json:"broken,omitempty"`
	// Refused counts subscriptions that a gateway refused, which breaks no
	// promise.
	Refused int `json:"refused"`
}

// Percentiles are percentiles of latencies. A command's latency ends with its
// acknowledgement, a delivery's with the event's arrival at a subscriber; both
// begin at the command's scheduled time.
type Percentiles struct {
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

func percentilesOf(h *hdrhistogram.Histogram) Percentiles {
	return Percentiles{
		P50: ms(h.ValueAtQuantile(50)), P90: ms(h.ValueAtQuantile(90)), P99: ms(h.ValueAtQuantile(99)),
		P999: ms(h.ValueAtQuantile(99.9)), Max: ms(h.Max()),
	}
}

func ms(us int64) float64 { return float64(us) / 1000 }

// Report checks the histories and returns the outcome. Call it once, after Run.
func (l *Load) Report() Report {
	for _, s := range l.streams {
		s.check()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := Report{
		Seconds: l.sending.Seconds(), Sent: int(l.sent.Load()), Acknowledged: int(l.acked.Load()),
		Delivered: int(l.delivered.Load()), Cuts: int(l.cuts.Load()), Connects: int(l.connects.Load()),
		Command: percentilesOf(l.command), Delivery: percentilesOf(l.delivery),
		Errors: l.errors, Violations: l.violations, Broken: l.described, Refused: l.refused,
	}
	r.Rate = float64(r.Acknowledged) / r.Seconds
	return r
}

// Progress returns one line on the state of the load.
func (l *Load) Progress() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	failed := -l.refused
	for _, n := range l.errors {
		failed += n
	}
	sent, acked := l.sent.Load(), l.acked.Load()
	return fmt.Sprintf("bench: %.0fs: %d sent, %d acknowledged, %d open, %d failed, %d delivered; p99 %.1f and %.1f ms; %d cut off, %d promises broken",
		time.Since(l.begun).Seconds(), sent, acked, sent-acked-int64(failed), failed, l.delivered.Load(),
		ms(l.command.ValueAtQuantile(99)), ms(l.delivery.ValueAtQuantile(99)), l.cuts.Load(), l.violations)
}

func (r Report) failed() int { return r.Sent - r.Acknowledged }

// Write writes the report as tables.
func (r Report) Write(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintf(w, "commands\t%d sent, %d acknowledged, %d failed, in %.1f s: %.1f/s\n", r.Sent, r.Acknowledged, r.failed(), r.Seconds, r.Rate)
	fmt.Fprintf(w, "deliveries\t%d\n", r.Delivered)
	fmt.Fprintf(w, "connections\t%d made, %d cut off\n\n", r.Connects, r.Cuts)
	fmt.Fprintln(w, "MS\tP50\tP90\tP99\tP99.9\tMAX")
	for _, row := range []struct {
		name string
		Percentiles
	}{{"command", r.Command}, {"delivery", r.Delivery}} {
		fmt.Fprintf(w, "%s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\n", row.name, row.P50, row.P90, row.P99, row.P999, row.Max)
	}
	if len(r.Errors) > 0 {
		fmt.Fprintln(w, "\nERROR\tCOMMANDS")
		for _, code := range slices.Sorted(maps.Keys(r.Errors)) {
			fmt.Fprintf(w, "%s\t%d\n", code, r.Errors[code])
		}
	}
	fmt.Fprintln(w)
	for _, text := range r.Broken {
		fmt.Fprintln(w, "BROKEN: "+text)
	}
	return w.Flush()
}

// Verdict returns an error if promises were broken, subscriptions were refused,
// or more than maxErrors commands failed.
func (r Report) Verdict(maxErrors int) error {
	switch {
	case r.Violations > 0:
		return fmt.Errorf("promises were broken %d times", r.Violations)
	case r.Refused > 0:
		return fmt.Errorf("%d subscriptions were refused: set --token for a client that may read the aggregates, or --subscribers 0", r.Refused)
	case r.failed() > maxErrors:
		return fmt.Errorf("%d commands failed; --max-errors allows %d", r.failed(), maxErrors)
	}
	return nil
}
