// Command react compares process managers and wake-ups on PostgreSQL with rivals,
// and fails if a ratio misses its floor. Run it with "make bench-react", or with
// ARGS=--quick for a first look.
//
// It starts its own PostgreSQL, which waits for the disk. Trust the ratios more than
// the absolute figures.
//
//   - command: the time from an event's commit to the commit of the command that a
//     process manager sends for it.
//   - wakes: how late wake-ups are of which many are due in one minute.
//   - doubled: commands that are lost or repeated while database backends are ended.
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
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/bench/pgserver"
	"github.com/ganglion-es/ganglion/bench/report"
)

type options struct {
	quick    bool
	rounds   int
	each     time.Duration
	wakes    int
	span     time.Duration
	commands int
	only     string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	flag.BoolVar(&o.quick, "quick", false, "fewer rounds, and a sixth of the wake-ups and commands at the same rates, with more noise")
	flag.IntVar(&o.rounds, "rounds", 5, "`number` of rounds; wakes has 3 at most")
	flag.IntVar(&o.wakes, "wakes", 10_000, "`number` of wake-ups that are due in the same minute")
	flag.IntVar(&o.commands, "commands", 10_000, "`number` of commands of doubled")
	flag.StringVar(&o.only, "only", "", "run only the experiments that match this regular `expression`: command, wakes, doubled")
	flag.Parse()
	o.each, o.span = 6*time.Second, time.Minute
	if o.quick {
		o.rounds, o.each = min(o.rounds, 3), 3*time.Second
		o.wakes, o.span, o.commands = o.wakes/6, o.span/6, o.commands/6
	}
	if err := run(ctx, os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-react:", err)
		stop()
		os.Exit(1)
	}
}

// errMissed means that a ratio is beyond its floor by more than the noise.
var errMissed = errors.New("process managers or wake-ups miss a floor")

// bench is the server of one run.
type bench struct{ server *pgserver.Server }

// database creates a database and returns its URL.
func (b *bench) database(ctx context.Context, name string) (string, error) {
	_, err := b.server.Admin.Exec(ctx, "create database "+pgx.Identifier{name}.Sanitize())
	return b.server.URL(name), err
}

func run(ctx context.Context, w io.Writer, o options) (err error) {
	only, err := regexp.Compile(o.only)
	if err != nil {
		return err
	}
	b := new(bench)
	if b.server, err = pgserver.Start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.server.Close()) }()
	conditions, err := b.server.Conditions(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s\n\n", conditions)

	var ratios []report.Ratio
	for _, e := range []struct {
		name string
		run  func() ([]report.Ratio, error)
	}{
		{"command", func() ([]report.Ratio, error) { return b.command(ctx, w, o.rounds, o.each) }},
		{"wakes", func() ([]report.Ratio, error) { return b.wakes(ctx, w, min(o.rounds, 3), o.wakes, o.span) }},
		{"doubled", func() ([]report.Ratio, error) { return b.doubled(ctx, w, o.commands) }},
	} {
		if !only.MatchString(e.name) {
			continue
		}
		more, err := e.run()
		if err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
		fmt.Fprintln(w)
		ratios = append(ratios, more...)
	}
	if missed := report.Print(w, ratios); missed > 0 {
		return fmt.Errorf("%w: %d of the ratios above", errMissed, missed)
	}
	return nil
}
