package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/bench/report"
)

// rebuildSizes are the numbers of lots of the systems. A rival that takes more
// time per event with more events gets fewer, which favours it.
type rebuildSizes struct{ lots, emmett, goes int }

// rebuild compares builds of all rows from the log.
func (b *bench) rebuild(ctx context.Context, w io.Writer, rounds int, s rebuildSizes) ([]report.Ratio, error) {
	if err := fill(ctx, b.store, s.lots); err != nil {
		return nil, err
	}
	if _, err := b.server.Admin.Exec(ctx, `vacuum analyze ours.commit`); err != nil {
		return nil, err
	}
	cases := []*timing{
		{name: "ours", lots: s.lots, take: func(round int) (time.Duration, error) { return b.rebuildOurs(ctx, round, s.lots) }},
	}
	loop := &bare{store: b.store, conn: b.server.Admin, table: "bare"}
	memory := &bare{store: b.store, conn: b.server.Admin, table: "bare_memory", remember: map[string]*listing{}}
	cases = append(cases,
		&timing{name: "bare loop", lots: s.lots, take: func(int) (time.Duration, error) { return loop.rebuild(ctx, b, s.lots) }},
		&timing{name: "bare loop, all rows in memory", lots: s.lots, take: func(int) (time.Duration, error) { return memory.rebuild(ctx, b, s.lots) }},
	)
	rivals, closeRivals, err := b.rebuildRivals(ctx, s)
	if err != nil {
		return nil, err
	}
	defer closeRivals()
	cases = append(cases, rivals...)
	return b.compareRebuilds(ctx, w, rounds, cases)
}

// rebuildRivals fills the logs of goes and emmett, and returns their cases.
func (b *bench) rebuildRivals(ctx context.Context, s rebuildSizes) (cases []*timing, end func(), err error) {
	end = func() {}
	names := []string{"goes, as its tutorial", "goes, one model in memory", "emmett, documented", "emmett, tuned"}
	if !slices.ContainsFunc(names, b.cases.MatchString) {
		return nil, end, nil
	}
	g, err := openGoes(ctx, b.server.ConnURL)
	if err != nil {
		return nil, end, err
	}
	end = g.close
	if err := g.fill(ctx, s.goes); err != nil {
		return nil, end, err
	}
	cases = append(cases,
		&timing{name: names[0], lots: s.goes, take: func(int) (time.Duration, error) { return g.rebuild(ctx, b, s.goes, g.perAggregate) }},
		&timing{name: names[1], lots: s.goes, take: func(int) (time.Duration, error) { return g.rebuild(ctx, b, s.goes, g.inMemory) }},
	)
	if b.emmettDir == "" {
		return cases, end, nil
	}
	e, err := b.emmett(ctx)
	if err != nil {
		return nil, end, err
	}
	for _, mode := range []string{"documented", "tuned"} {
		cases = append(cases, &timing{name: "emmett, " + mode, lots: s.emmett, take: func(int) (time.Duration, error) { return e.rebuild(ctx, mode, s.emmett) }})
	}
	return cases, end, e.fill(ctx, s.emmett)
}

// timing is a case of rebuild, with its samples.
type timing struct {
	name string
	lots int
	take func(round int) (time.Duration, error)
	took []float64 // seconds
	cpu  []float64 // of the server, in microseconds per event
}

func (t *timing) rates() []float64 {
	list := make([]float64, len(t.took))
	for i, s := range t.took {
		list[i] = float64(t.lots*eventsPerLot) / s
	}
	return list
}

func (b *bench) compareRebuilds(ctx context.Context, w io.Writer, rounds int, cases []*timing) ([]report.Ratio, error) {
	cases = slices.DeleteFunc(cases, func(t *timing) bool { return t.name != "ours" && !b.cases.MatchString(t.name) })
	err := report.TakeTurns(ctx, cases, rounds, func(t *timing, round int) error {
		before, err := b.server.Usage(ctx)
		if err != nil {
			return err
		}
		took, err := t.take(round)
		if err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
		after, err := b.server.Usage(ctx)
		t.took = append(t.took, took.Seconds())
		t.cpu = append(t.cpu, float64((after.CPU-before.CPU).Microseconds())/float64(t.lots*eventsPerLot))
		return err
	})
	if err != nil {
		return nil, err
	}
	out := report.Table(w)
	fmt.Fprintln(out, "rebuild\tevents\trows\tseconds\tevents/s\tserver µs/event\t")
	for _, t := range cases {
		fmt.Fprintf(out, "%s\t%s\t%s\t%.2f\t%s\t%.1f\t\n", t.name, report.Thousands(float64(t.lots*eventsPerLot)), report.Thousands(float64(t.lots)),
			report.Median(t.took), report.Thousands(report.Median(t.rates())), report.Median(t.cpu))
	}
	if err := out.Flush(); err != nil {
		return nil, err
	}
	floors := map[string]float64{"bare loop": 0.7, "emmett, documented": 10, "emmett, tuned": 10}
	var ratios []report.Ratio
	for _, t := range cases[1:] {
		ratios = append(ratios, report.Ratio{
			Name: "rebuild: ours to " + t.name, Values: report.Pairwise(cases[0].rates(), t.rates(), report.Quotient), AtLeast: floors[t.name],
		})
	}
	return ratios, nil
}
