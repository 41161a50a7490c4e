package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/ganglion-es/ganglion/bench/gateway/load"
)

// Slow sessions are on the same stream as a thousand others, want all of its
// history, most of which only the log has, and read less than what is new. So
// each has a full socket and is paged to from the log, as long as it lasts.
const (
	slowSessions = "slow sessions among others"

	slowHistory = 80_000 // events; the window keeps the last 65,536
	slowPace    = 4 << 10
	othersRate  = 50 // events a second, three times slowPace
)

// slowCases are how many slow sessions there are.
var slowCases = []int{0, 1, 1000}

// slowSessions measures what slow sessions cost the others: rounds without any,
// with one and with a thousand, paired.
func (f *fleet) slowSessions(ctx context.Context, w io.Writer, quick bool) ([]ratio, error) {
	rounds, measured := 9, 1500*time.Millisecond
	if quick {
		rounds, measured = 3, time.Second
	}
	s := f.servers[0]
	topic := []string{"slow"}
	if _, err := s.do(load.Order{Do: "publish", Topics: topic, Events: slowHistory, Burst: 50}); err != nil {
		return nil, err
	}
	if err := quiet(s); err != nil { // it has heard of all of them
		return nil, err
	}
	if _, err := s.do(load.Order{Do: "open", Group: "others", Sessions: fewN, Topics: topic}); err != nil {
		return nil, err
	}
	memory := make([][]float64, len(slowCases)) // in MB, of each round
	of := make([]*measurement, len(slowCases))
	for i := range of {
		of[i] = &measurement{server: s}
	}
	for round := range rounds {
		order := []int{0, 1, 2}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, i := range order {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			r, bytes, err := f.besideSlow(s, slowCases[i], topic, measured)
			if err != nil {
				return nil, fmt.Errorf("with %d: %w", slowCases[i], err)
			}
			of[i].samples = append(of[i].samples, r)
			memory[i] = append(memory[i], float64(bytes)/(1<<20))
		}
	}
	if _, err := s.do(load.Order{Do: "cut", Group: "others"}); err != nil {
		return nil, err
	}

	fmt.Fprintf(w, "%s: %s sessions on a stream with %d events/s; the slow ones read %d of its %d B/s\n",
		slowSessions, thousands(fewN), othersRate, slowPace, int(othersRate*of[0].median(bytesEach)))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\tp50\tp99\tserver busy\tclients busy\tRSS\t")
	for i, m := range of {
		fmt.Fprintf(t, "%s slow\t%.1f ms\t%.1f ms\t%.0f %%\t%.0f %%\t%.0f MB\t\n", thousands(float64(slowCases[i])),
			m.median(func(r load.Report) float64 { return ms(r.P50) }), m.median(p99),
			100*m.median(func(r load.Report) float64 { return r.CPU[0].Seconds() / r.Elapsed.Seconds() }),
			100*m.median(func(r load.Report) float64 { return r.Own.Seconds() / r.Elapsed.Seconds() }), medianOf(memory[i]))
	}
	t.Flush()
	fmt.Fprintln(w)

	list := make([]ratio, 0, 3)
	for i, n := range slowCases[1:] {
		list = append(list, ratio{
			name:   fmt.Sprintf("%s slow among %s: p99 of the others, to without", thousands(float64(n)), thousands(fewN)),
			values: compare(of[i+1], of[0], p99, quotient), limit: 1.10,
		})
	}
	return append(list, ratio{name: "1,000 slow: MB of RSS more than without", values: pairwise(memory[2], memory[0], difference), limit: queueMemory}), nil
}

// queueMemory is the gateway's budget of what waits for sockets, in MB.
const queueMemory = 256

// besideSlow measures sessions that keep up beside some that don't, and the
// memory of the server at the end.
func (f *fleet) besideSlow(s *server, slow int, topic []string, measured time.Duration) (r load.Report, bytes int, err error) {
	if slow > 0 {
		if _, err := s.crowd.do(load.Order{Do: "trickle", Group: "slow", Sessions: slow, Topics: topic, Rate: slowPace}); err != nil {
			return r, 0, err
		}
	}
	if err := quiet(s); err != nil { // the sockets have been filled, or those of the round before are gone
		return r, 0, err
	}
	if r, err = s.do(load.Order{Do: "pace", Group: "others", Topics: topic, For: measured, Rate: othersRate}); err != nil {
		return r, 0, err
	}
	if bytes, err = resident(s.process.pid()); err != nil || slow == 0 {
		return r, bytes, err
	}
	end, err := s.crowd.do(load.Order{Do: "cut", Group: "slow"})
	if err == nil && end.Furthest >= slowHistory {
		err = fmt.Errorf("a slow session has seen %d events: it was not slow", end.Furthest)
	}
	return r, bytes, err
}

// quiet waits until a server has little to do.
func quiet(s *server) error {
	const (
		look   = 100 * time.Millisecond
		little = look / 5
		within = 20 * time.Second
	)
	for since := time.Now(); ; {
		before, err := load.ProcessorTime(s.process.pid())
		if err != nil {
			return err
		}
		time.Sleep(look)
		after, err := load.ProcessorTime(s.process.pid())
		if err != nil {
			return err
		}
		if after-before < little {
			return nil
		}
		if time.Since(since) > within {
			return fmt.Errorf("%s is still busy after %v", s.name, within)
		}
	}
}
