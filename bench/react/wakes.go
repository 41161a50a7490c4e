package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/riverqueue/river"
	"golang.org/x/sync/errgroup"

	"github.com/ganglion-es/ganglion/bench/report"
	"github.com/ganglion-es/ganglion/eventstore"
)

// A timetable has wake-ups that are due evenly over a span.
type timetable struct {
	wakes int
	from  time.Time
	span  time.Duration
	seen  *sightings
}

// newTimetable returns a timetable that begins late enough for its wake-ups to be
// stored before, at 1,000 per second.
func newTimetable(wakes int, span time.Duration) *timetable {
	lead := 5*time.Second + time.Duration(wakes)*time.Millisecond
	t := &timetable{wakes: wakes, from: time.Now().Add(lead), span: span, seen: newSightings()}
	for i := range wakes {
		t.seen.cause(int64(i), t.due(i))
	}
	return t
}

func (t *timetable) due(i int) time.Time {
	return t.from.Add(t.span / time.Duration(t.wakes) * time.Duration(i)).Truncate(time.Microsecond)
}

// lateness is called once all wake-ups are stored. It waits until they have happened,
// and returns how late each was, sorted. It fails if the first one was due before.
func (t *timetable) lateness(ctx context.Context) ([]time.Duration, error) {
	if late := time.Since(t.from); late > 0 {
		return nil, fmt.Errorf("storing %d wake-ups took %v too long: this machine is too slow for that number", t.wakes, late)
	}
	select {
	case <-time.After(time.Until(t.from)):
		return t.seen.complete(ctx)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// tardy is a system with its samples, in milliseconds.
type tardy struct {
	name           string
	run            func(ctx context.Context, url string, t *timetable) ([]time.Duration, error)
	p50, p99, most []float64
}

// wakes measures how late wake-ups are: from the time at which each is due until the
// commit of its event, or of the row that a job writes. Each sample has a database of
// its own.
func (b *bench) wakes(ctx context.Context, w io.Writer, rounds, wakes int, span time.Duration) ([]report.Ratio, error) {
	cases := []*tardy{
		{name: "ours", run: ringAlarms},
		{name: "River, defaults", run: riverWith(func(*river.Config) {})},
		{name: "River, fetching every 10 ms", run: riverWith(func(c *river.Config) {
			c.FetchCooldown, c.FetchPollInterval = 10*time.Millisecond, 10*time.Millisecond
		})},
	}
	databases := 0
	err := report.TakeTurns(ctx, cases, rounds, func(c *tardy, _ int) error {
		databases++
		url, err := b.database(ctx, fmt.Sprint("wakes", databases))
		if err != nil {
			return err
		}
		lags, err := c.run(ctx, url, newTimetable(wakes, span))
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		c.p50 = append(c.p50, report.MS(report.Percentile(lags, 0.5)))
		c.p99 = append(c.p99, report.MS(report.Percentile(lags, 0.99)))
		c.most = append(c.most, report.MS(lags[len(lags)-1]))
		return nil
	})
	if err != nil {
		return nil, err
	}
	out := report.Table(w)
	fmt.Fprintf(out, "lateness, %s due in %v\tp50\tp99\tmost\t\n", report.Thousands(float64(wakes)), span)
	for _, c := range cases {
		fmt.Fprintf(out, "%s\t%.1f ms\t%.1f ms\t%.1f ms\t\n", c.name, report.Median(c.p50), report.Median(c.p99), report.Median(c.most))
	}
	ours, defaults, tuned := cases[0].p99, cases[1].p99, cases[2].p99
	return []report.Ratio{
		{Name: "wakes: p99 of ours, ms", Values: ours, AtMost: 250},
		{Name: "wakes: p99 of ours to River's, defaults", Values: report.Pairwise(ours, defaults, report.Quotient), AtMost: 1},
		{Name: "wakes: p99 of ours to River's, fetching every 10 ms", Values: report.Pairwise(ours, tuned, report.Quotient), AtMost: 1},
	}, out.Flush()
}

// ringAlarms sets alarms and returns how late they rang.
func ringAlarms(ctx context.Context, url string, t *timetable) (_ []time.Duration, err error) {
	catalog, err := defineAlarms()
	if err != nil {
		return nil, err
	}
	o, err := startOurs(ctx, url, catalog, func(batch []eventstore.Commit) {
		now := time.Now()
		for i := range batch {
			for _, e := range batch[i].Events {
				if n, err := strconv.ParseInt(batch[i].Stream.ID, 10, 64); err == nil && e.Type == "rung" {
					t.seen.effected(n, now)
				}
			}
		}
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, o.stop()) }()
	const setters = 256
	setting, inner := errgroup.WithContext(ctx)
	for s := range setters {
		setting.Go(func() error {
			for i := s; i < t.wakes; i += setters {
				id := strconv.Itoa(i)
				if err := o.send(inner, eventstore.StreamID{Type: "alarm", ID: id}, "set", id, setAlarm{Rings: t.due(i)}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := setting.Wait(); err != nil {
		return nil, err
	}
	return t.lateness(ctx)
}
