package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/ganglion-es/ganglion/bench/gateway/load"
	"github.com/ganglion-es/ganglion/bench/report"
)

// Slow sessions subscribe to a stream from its beginning, and 1,000 other sessions
// follow the same stream. Most of its history is only in the log. Slow sessions
// read fewer bytes than new events add, so their sockets are full and they receive
// pages of the log during the whole case.
const (
	slowSessions = "slow sessions among others"

	slowHistory = 80_000  // events, of which the window has the last 65,536
	slowPace    = 4 << 10 // bytes per second
	othersRate  = 50      // events per second: three times the bytes of slowPace
)

// slowCases are the numbers of slow sessions.
var slowCases = []int{0, 1, 1000}

// slowSessions measures the cost of slow sessions for others: each round has a
// sample for every number in slowCases.
func (f *fleet) slowSessions(ctx context.Context, w io.Writer, quick bool) ([]report.Ratio, error) {
	rounds, measured := 9, 1500*time.Millisecond
	if quick {
		rounds, measured = 3, time.Second
	}
	s := f.servers[0]
	topic := []string{"slow"}
	if _, err := s.do(load.Order{Do: "publish", Topics: topic, Events: slowHistory, Burst: 50}); err != nil {
		return nil, err
	}
	if err := quiet(s); err != nil { // until the gateway has received all events
		return nil, err
	}
	if _, err := s.do(load.Order{Do: "open", Group: "others", Sessions: fewN, Topics: topic}); err != nil {
		return nil, err
	}
	memory := make([][]float64, len(slowCases)) // in MB, per round
	of := make([]*measurement, len(slowCases))
	for i := range of {
		of[i] = &measurement{server: s}
	}
	err := report.TakeTurns(ctx, []int{0, 1, 2}, rounds, func(i, _ int) error {
		r, bytes, err := f.withSlow(s, slowCases[i], topic, measured)
		if err != nil {
			return fmt.Errorf("with %d: %w", slowCases[i], err)
		}
		of[i].samples = append(of[i].samples, r)
		memory[i] = append(memory[i], float64(bytes)/(1<<20))
		return nil
	})
	if err != nil {
		return nil, err
	}
	if _, err := s.do(load.Order{Do: "cut", Group: "others"}); err != nil {
		return nil, err
	}

	fmt.Fprintf(w, "%s: %s sessions on a stream with %d events/s; slow sessions read %d of its %d B/s\n",
		slowSessions, report.Thousands(fewN), othersRate, slowPace, int(othersRate*of[0].median(bytesEach)))
	t := report.Table(w)
	fmt.Fprintln(t, "\tp50\tp99\tserver busy\tclients busy\tRSS\t")
	for i, m := range of {
		fmt.Fprintf(t, "%s slow\t%.1f ms\t%.1f ms\t%.0f %%\t%.0f %%\t%.0f MB\t\n", report.Thousands(float64(slowCases[i])),
			m.median(func(r load.Report) float64 { return report.MS(r.P50) }), m.median(p99),
			100*m.share(serverTime), 100*m.share(clientTime), report.Median(memory[i]))
	}
	t.Flush()
	fmt.Fprintln(w)

	list := make([]report.Ratio, 0, 3)
	for i, n := range slowCases[1:] {
		list = append(list, report.Ratio{
			Name:   fmt.Sprintf("%s slow among %s: p99 of the others, to without", report.Thousands(float64(n)), report.Thousands(fewN)),
			Values: compare(of[i+1], of[0], p99, report.Quotient), AtMost: 1.10,
		})
	}
	return append(list, report.Ratio{Name: "1,000 slow: MB of RSS more than without", Values: report.Pairwise(memory[2], memory[0], report.Difference), AtMost: queueMemory}), nil
}

// queueMemory is the gateway's budget of outbound buffers, in MB.
const queueMemory = 256

// withSlow measures the sessions that keep up while slow sessions are open, and
// the memory of the server at the end.
func (f *fleet) withSlow(s *server, slow int, topic []string, measured time.Duration) (r load.Report, bytes int, err error) {
	if slow > 0 {
		if _, err := s.crowd.do(load.Order{Do: "trickle", Group: "slow", Sessions: slow, Topics: topic, Rate: slowPace}); err != nil {
			return r, 0, err
		}
	}
	if err := quiet(s); err != nil { // until the slow sockets are full, or those of the last round are closed
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
		err = fmt.Errorf("a slow session received %d events, so it was not slow", end.Furthest)
	}
	return r, bytes, err
}

// quiet waits until a server uses less than a fifth of a processor.
func quiet(s *server) error {
	const (
		sample = 100 * time.Millisecond
		little = sample / 5
		within = 20 * time.Second
	)
	for since := time.Now(); ; {
		before, err := load.ProcessorTime(s.process.pid())
		if err != nil {
			return err
		}
		time.Sleep(sample)
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
