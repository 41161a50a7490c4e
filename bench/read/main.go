// Command read compares the read side on PostgreSQL with rivals, and fails if a
// ratio misses its floor. Run it with "make bench-read", or with ARGS=--quick for a
// first look.
//
// It starts its own PostgreSQL, which waits for the disk. The systems take turns,
// so that other load on the machine affects all of them. Trust the ratios more than
// the absolute figures.
//
//   - rebuild: all rows from all events.
//   - visible: the time from the acknowledgement of an event to its row.
//   - live: the processor time and the memory of live queries.
//   - appends: the rate of appends while projections follow.
//   - fanout: a live query at 1,000 sessions of a gateway, beside a stream.
//   - takeover: the time from the death of a segment's owner to the next row.
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
	"runtime/pprof"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ganglion-es/ganglion/bench/pgserver"
	"github.com/ganglion-es/ganglion/bench/report"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
)

type options struct {
	quick       bool
	events      int
	rounds      int
	only, cases string
	emmett      string
	profile     string
	admin       string
	kills       int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if isRole, err := runRole(ctx, os.Args[1:]); isRole {
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench-read:", err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.BoolVar(&o.quick, "quick", false, "smaller logs and fewer rounds, with more noise")
	flag.IntVar(&o.events, "events", 200_000, "`number` of events of a rebuild; a tenth of it are rows")
	flag.IntVar(&o.rounds, "rounds", 5, "`number` of rounds")
	flag.StringVar(&o.only, "only", "", "run only the experiments that match this regular `expression`: rebuild, visible, live, appends, fanout, takeover")
	flag.StringVar(&o.cases, "cases", "", "measure only the cases of an experiment that match this regular `expression`")
	flag.StringVar(&o.profile, "cpuprofile", "", "write a processor profile of this program to this `file`")
	flag.IntVar(&o.kills, "kills", 10, "`number` of kills of each system in takeover")
	flag.StringVar(&o.admin, "gateway-admin", "", "`address` for profiles of the gateway of fanout")
	flag.StringVar(&o.emmett, "emmett", "", "`folder` of emmett.js with its modules; empty leaves emmett out")
	flag.Parse()
	if o.quick {
		o.events, o.rounds = min(o.events, 50_000), min(o.rounds, 3)
		o.kills = min(o.kills, 3)
	}
	if o.profile != "" {
		f, err := os.Create(o.profile)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench-read:", err)
			os.Exit(1)
		}
		defer pprof.StopCPUProfile()
	}
	if err := run(ctx, os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench-read:", err)
		pprof.StopCPUProfile()
		stop()
		os.Exit(1)
	}
}

// errMissed means that a ratio is below its floor by more than the noise.
var errMissed = errors.New("the read side misses a floor")

// bench is the server and the log of one run.
type bench struct {
	server    *pgserver.Server
	store     *postgres.Store
	committed atomic.Pointer[func([]eventstore.Commit)] // what gets the commits of store; may be nil
	cases     *regexp.Regexp
	emmettDir string
	rival     *emmett // opened by the first experiment that needs it
}

func run(ctx context.Context, w io.Writer, o options) (err error) {
	only, err := regexp.Compile(o.only)
	if err != nil {
		return err
	}
	b := &bench{emmettDir: o.emmett}
	if b.cases, err = regexp.Compile(o.cases); err != nil {
		return err
	}
	if b.server, err = pgserver.Start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.server.Close()) }()
	b.store, err = openStore(ctx, b.server.ConnURL, func(batch []eventstore.Commit) {
		if f := b.committed.Load(); f != nil {
			(*f)(batch)
		}
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.store.Close()) }()
	conditions, err := b.server.Conditions(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "%s; %d rounds\n\n", conditions, o.rounds)

	var ratios []report.Ratio
	lots, each := o.events/eventsPerLot, 3*time.Second
	for _, e := range []struct {
		name string
		run  func() ([]report.Ratio, error)
	}{
		{"rebuild", func() ([]report.Ratio, error) {
			return b.rebuild(ctx, w, o.rounds, rebuildSizes{lots: lots, emmett: min(lots, 1000), goes: min(lots, 5000)})
		}},
		{"visible", func() ([]report.Ratio, error) { return b.visible(ctx, w, o.rounds, each) }},
		{"live", func() ([]report.Ratio, error) { return b.live(ctx, w, o.rounds, each) }},
		{"appends", func() ([]report.Ratio, error) { return b.appends(ctx, w, o.rounds, each) }},
		{"takeover", func() ([]report.Ratio, error) { return b.takeover(ctx, w, o.kills) }},
		{"fanout", func() ([]report.Ratio, error) { return b.fanout(ctx, w, o.rounds, each, o.admin) }},
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
	if b.rival != nil {
		b.rival.close()
	}
	if missed := report.Print(w, ratios); missed > 0 {
		return fmt.Errorf("%w: %d of the ratios above", errMissed, missed)
	}
	return nil
}
