// Command groups compares consumer groups and relays with rivals, and fails if a ratio misses
// its floor. Run it with "make bench-groups", or with ARGS=--quick for a first look.
//
// It starts its own servers, all of which wait for the disk. The systems take turns,
// so that other load on the machine affects all of them. Trust the ratios more than
// the absolute figures.
//
//   - deliver: three members of a group get a backlog.
//   - appends: the rate of commands while ten groups follow.
//   - relay: the rate at which a relay publishes a backlog to RabbitMQ.
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

	"github.com/ganglion-es/ganglion/bench/pgserver"
	"github.com/ganglion-es/ganglion/bench/report"
)

type options struct {
	quick       bool
	events      int
	rounds      int
	only, cases string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := start(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-groups:", err)
		os.Exit(1)
	}
}

// start runs the benchmark, or the role of a process that the benchmark started.
func start(ctx context.Context, args []string) error {
	if len(args) > 1 && args[0] == "aside" {
		return lowerPriority(args[1:])
	}
	if len(args) > 0 && slices.Contains([]string{"node", "members", "nats"}, args[0]) {
		ctx, cancel := untilEOF(ctx, os.Stdin)
		defer cancel()
		return runRole(ctx, args[0], args[1:])
	}
	var o options
	flags := flag.NewFlagSet("bench-groups", flag.ContinueOnError)
	flags.BoolVar(&o.quick, "quick", false, "smaller backlogs and fewer rounds, with more noise")
	flags.IntVar(&o.events, "events", 50_000, "`number` of events of a backlog")
	flags.IntVar(&o.rounds, "rounds", 5, "`number` of rounds")
	flags.StringVar(&o.only, "only", "", "run only the experiments that match this regular `expression`: deliver, appends, relay")
	flags.StringVar(&o.cases, "cases", "", "measure only the cases of an experiment that match this regular `expression`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.quick {
		o.events, o.rounds = min(o.events, 20_000), min(o.rounds, 3)
	}
	return run(ctx, os.Stdout, o)
}

// runRole runs a process that the benchmark started until ctx ends.
func runRole(ctx context.Context, role string, args []string) error {
	switch {
	case role == "node" && len(args) == 2:
		return runNode(ctx, args[0], args[1])
	case role == "members" && len(args) == 2:
		return runMembers(ctx, args[0], args[1])
	case role == "nats" && len(args) == 1:
		return runNATS(ctx, args[0])
	}
	return fmt.Errorf("the role %s cannot have %d arguments", role, len(args))
}

// errMissed means that a ratio is below its floor by more than the noise.
var errMissed = errors.New("consumer groups miss a floor")

// bench is the database server of one run, and what the run measures.
type bench struct {
	server *pgserver.Server
	cases  *regexp.Regexp
	events int
	rounds int
}

func run(ctx context.Context, w io.Writer, o options) (err error) {
	only, err := regexp.Compile(o.only)
	if err != nil {
		return err
	}
	b := &bench{events: o.events, rounds: o.rounds}
	if b.cases, err = regexp.Compile(o.cases); err != nil {
		return err
	}
	if b.server, err = pgserver.Start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.server.Close()) }()
	conditions, err := b.server.Conditions(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s; %d rounds\n\n", conditions, o.rounds)

	var ratios []report.Ratio
	for _, e := range []struct {
		name string
		run  func(context.Context, io.Writer) ([]report.Ratio, error)
	}{
		{"deliver", b.deliver},
		{"appends", b.appends},
		{"relay", b.relay},
	} {
		if !only.MatchString(e.name) {
			continue
		}
		more, err := e.run(ctx, w)
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
