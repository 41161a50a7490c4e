// Command store compares the store on PostgreSQL with rivals and with the
// physical limit, and fails if a ratio misses its floor. Run it with "make
// bench-store", or with ARGS=--quick for a first look.
//
// It starts its own PostgreSQL, which waits for the disk. The cases take turns in
// each round and are compared round by round, so that other load on the machine
// affects all of them. Trust the ratios more than the absolute figures.
//
//   - store: this project's store; each caller waits for its reply.
//   - COPY: the same rows into a table with the same indexes, over one
//     connection, 20,000 rows per commit: the physical limit.
//   - INSERT: one row per statement and transaction, without any check.
//   - naive: a transaction per command, which reads the version first.
//
// With -keys it measures the cost of several indexes that keep idempotency
// keys unique.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
	"time"

	"github.com/ganglion-es/ganglion/bench/report"
)

func main() {
	var (
		quick = flag.Bool("quick", false, "fewer and shorter rounds: less than a minute, with more noise")
		only  = flag.String("only", "", "measure only cases whose name matches this regular `expression`")
		keys  = flag.Bool("keys", false, "measure indexes of idempotency keys instead of the store")
	)
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	match, err := regexp.Compile(*only)
	if err == nil && *keys {
		err = benchmarkKeys(ctx, os.Stdout, *quick)
	} else if err == nil {
		err = benchmark(ctx, os.Stdout, *quick, match)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-store:", err)
		stop()
		os.Exit(1)
	}
}

// errMissed means that a ratio is below its floor by more than the noise.
var errMissed = errors.New("the store is below its floor")

func benchmark(ctx context.Context, w io.Writer, quick bool, only *regexp.Regexp) (err error) {
	rounds, each, tailFor := 12, 900*time.Millisecond, 5*time.Second
	if quick {
		rounds, each, tailFor = 3, 500*time.Millisecond, 2*time.Second
	}
	b, err := openBench(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	conditions, err := b.server.Conditions(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s; %d rounds of %s per case\n\n", conditions, rounds, each)

	cases, ratios := b.cases(ctx, each)
	cases = slices.DeleteFunc(cases, func(m *measurement) bool { return !only.MatchString(m.name) })
	if err := takeTurns(ctx, cases, rounds); err != nil {
		return err
	}
	printCases(w, cases)
	if err := b.printSizes(ctx, w); err != nil {
		return err
	}

	if only.String() != "" {
		report.Print(w, compared(ratios))
		return nil
	}

	reads, read, err := b.reads(ctx)
	if err != nil {
		return err
	}
	if err := takeTurns(ctx, reads, rounds); err != nil {
		return err
	}
	fmt.Fprintln(w)
	printCases(w, reads)

	tail, err := b.one.tail(ctx, 5000, tailFor)
	if err != nil {
		return fmt.Errorf("tail: %w", err)
	}
	slices.Sort(tail.lag)
	fmt.Fprintf(w, "\ntail, polling every 5 ms beside %s events/s: %s appended, %s read, 0 gaps; from decision to reader p50 %.1f ms, p99 %.1f ms; %d empty polls\n\n",
		report.Thousands(tail.rate), report.Thousands(float64(tail.appended)), report.Thousands(float64(tail.read)),
		report.MS(report.Percentile(tail.lag, 0.5)), report.MS(report.Percentile(tail.lag, 0.99)), tail.empty)
	if tail.read != tail.appended {
		return fmt.Errorf("tail: %d events were acknowledged and %d were read", tail.appended, tail.read)
	}

	if missed := report.Print(w, compared(append(ratios, read))); missed > 0 {
		return fmt.Errorf("%w: %d of the ratios above", errMissed, missed)
	}
	return nil
}

// takeTurns takes a sample of every case in each round.
func takeTurns(ctx context.Context, cases []*measurement, rounds int) error {
	return report.TakeTurns(ctx, cases, rounds, func(m *measurement, _ int) error {
		s, err := m.sample()
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		m.samples = append(m.samples, s)
		return nil
	})
}

// bench is the server and the systems of one run.
type bench struct {
	server *server
	one    *log // commands of one event
	five   *log // commands of five events
	rivals *rivals
}

func openBench(ctx context.Context) (_ *bench, err error) {
	b := new(bench)
	if b.server, err = startServer(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if b.one, err = openLog(ctx, b.server, "one"); err != nil {
		return nil, err
	}
	if b.five, err = openLog(ctx, b.server, "five"); err != nil {
		return nil, err
	}
	b.rivals, err = openRivals(ctx, b.server, "one.commit", 64)
	return b, err
}

func (b *bench) close() error {
	var errs []error
	if b.rivals != nil {
		errs = append(errs, b.rivals.close())
	}
	for _, l := range []*log{b.one, b.five} {
		if l != nil {
			errs = append(errs, l.close())
		}
	}
	return errors.Join(append(errs, b.server.Close())...)
}

// cases returns the append cases, and their ratios with the floors of
// docs/architecture.md.
func (b *bench) cases(ctx context.Context, each time.Duration) ([]*measurement, []ratio) {
	var cases []*measurement
	add := func(name string, take func() (sample, error)) *measurement {
		m := &measurement{name: name, sample: func() (sample, error) { return b.server.measured(ctx, take) }}
		cases = append(cases, m)
		return m
	}
	store := func(l *log, nodes, callers, events int) *measurement {
		name := fmt.Sprintf("store, %d callers, %d events", callers, events)
		if nodes > 1 {
			name = fmt.Sprintf("store, %d nodes, %d callers, %d events", nodes, callers, events)
		}
		return add(name, func() (sample, error) { return l.append(ctx, nodes, callers, events, each) })
	}
	copied := add("COPY, 1 connection", func() (sample, error) { return b.rivals.copy(ctx, each) })
	store1 := store(b.one, 1, 512, 1)
	nodes1 := store(b.one, 2, 512, 1)
	store5 := store(b.five, 1, 512, 5)
	store(b.five, 2, 512, 5)
	store(b.one, 1, 32, 1)
	store(b.one, 2, 32, 1)
	store(b.five, 1, 32, 5)
	insert := add("INSERT, 64 connections", func() (sample, error) { return b.rivals.autocommit(ctx, 64, each) })
	naive := add("naive, 16 connections, 1 event", func() (sample, error) { return b.rivals.naive(ctx, 16, 1, each) })
	naive5 := add("naive, 16 connections, 5 events", func() (sample, error) { return b.rivals.naive(ctx, 16, 5, each) })
	lone := store(b.one, 1, 1, 1)
	store(b.five, 1, 1, 5)
	loneInsert := add("INSERT, 1 connection", func() (sample, error) { return b.rivals.autocommit(ctx, 1, each) })
	loneNaive := add("naive, 1 connection, 1 event", func() (sample, error) { return b.rivals.naive(ctx, 1, 1, each) })
	return cases, []ratio{
		{"512 callers, 1 event: store to COPY", store1, copied, 0.5, 0.6},
		{"512 callers, 1 event: store to INSERT on 64", store1, insert, 5, 0},
		{"512 callers, 5 events: store to COPY of rows", store5, copied, 1.1, 0},
		{"512 callers, 1 event: two nodes to one", nodes1, store1, 0.85, 0},
		{"a lone caller: store to INSERT on 1", lone, loneInsert, 0, 0},
		{"a lone caller: store to naive on 1", lone, loneNaive, 0.8, 0},
		{"1 event: store (512) to naive on 16", store1, naive, 0, 0},
		{"5 events: store (512) to naive on 16", store5, naive5, 0, 0},
	}
}

// reads returns the read cases, over the log that the append cases have written.
func (b *bench) reads(ctx context.Context) ([]*measurement, ratio, error) {
	head, err := b.one.nodes[0].Head(ctx)
	if err != nil {
		return nil, ratio{}, err
	}
	upTo := min(head, 200_000)
	// A log that has existed for a while has been vacuumed, and its newest part
	// is in memory.
	if _, err := b.server.Admin.Exec(ctx, `vacuum analyze one.commit`); err != nil {
		return nil, ratio{}, err
	}
	catchUp := &measurement{name: "catch-up, pages of 1,000", sample: func() (sample, error) {
		return b.server.measured(ctx, func() (sample, error) { return b.one.catchUp(ctx, upTo) })
	}}
	out := &measurement{name: "COPY out, in order", sample: func() (sample, error) {
		return b.server.measured(ctx, func() (sample, error) { return b.one.copyOut(ctx, b.rivals.conns[0], upTo) })
	}}
	return []*measurement{catchUp, out}, ratio{"catch-up: store to COPY out", catchUp, out, 0.8, 0}, nil
}

// printSizes prints the size of an event on disk, including indexes.
func (b *bench) printSizes(ctx context.Context, w io.Writer) error {
	for _, l := range []*log{b.one, b.five} {
		n, err := b.server.Size(ctx, l.schema+".commit")
		if err != nil {
			return err
		}
		head, err := l.nodes[0].Head(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "\ndisk, commands of %s event(s): %.0f bytes per event with all indexes, %s events", l.schema, float64(n)/float64(head), report.Thousands(float64(head)))
	}
	fmt.Fprintln(w)
	return nil
}
