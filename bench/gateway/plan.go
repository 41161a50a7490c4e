package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/bench/gateway/load"
)

// Groups of sessions, which stay for the whole run.
const (
	many    = "many" // 10,000: all on one stream, and ten on each of a thousand
	few     = "few"  // 1,000 on one stream
	manyN   = 10_000
	fewN    = 1000
	streams = 1000
)

// measurement is what one server does in one case, a sample of each round.
type measurement struct {
	server  *server
	samples []load.Report
	failed  error // why there are no more samples
}

// scenario is a case: what each server is put through.
type scenario struct {
	name    string
	rounds  int
	mayFail bool // a server that can't do it has missed its floor, and goes on with the next case
	take    func(s *server, round int) (load.Report, error)
	of      []*measurement // one of each server
}

func (c *scenario) measure(name string) *measurement {
	for _, m := range c.of {
		if m.server.name == name {
			return m
		}
	}
	return nil
}

// errMissed says that a floor was missed by more than the noise.
var errMissed = errors.New("the gateway is below its floor")

func benchmark(ctx context.Context, w io.Writer, binary string, cpus []int, quick bool, only *regexp.Regexp) (err error) {
	began := time.Now()
	cases := slices.DeleteFunc(scenarios(quick), func(c *scenario) bool { return !only.MatchString(c.name) })
	var rivals []string
	if len(cases) > 0 || only.MatchString(idleSessions) {
		rivals = []string{centrifuge, bare}
	}
	f, err := openFleet(ctx, binary, cpus, rivals...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.close()) }()
	printMachine(w, cpus)
	var all []ratio
	if rivals != nil {
		if all, err = f.idle(w); err != nil {
			return err
		}
		if err := f.subscribe(); err != nil {
			return err
		}
	}
	for _, c := range cases {
		if err := f.takeTurns(ctx, c); err != nil {
			return err
		}
		c.print(w)
	}
	all = append(all, ratios(cases)...)
	if only.MatchString(slowSessions) {
		slow, err := f.slowSessions(ctx, w, quick)
		if err != nil {
			return fmt.Errorf("%s: %w", slowSessions, err)
		}
		all = append(all, slow...)
	}
	return conclude(w, began, all)
}

// printMachine says what the figures are of.
func printMachine(w io.Writer, cpus []int) {
	average, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(average), " ")
	fmt.Fprintf(w, "%s, %s/%s, %d processors, the servers on number %d, load %s at the start\n\n",
		runtime.Version(), runtime.GOOS, runtime.GOARCH, len(cpus), cpus[0], first)
}

// conclude prints the ratios, and fails if a floor was missed.
func conclude(w io.Writer, began time.Time, all []ratio) error {
	fmt.Fprintf(w, "%.0f s in all\n\n", time.Since(began).Seconds())
	if missed := printRatios(w, all); missed > 0 {
		return fmt.Errorf("%w: %d of the ratios above", errMissed, missed)
	}
	return nil
}

// takeTurns lets every server take its turn once a round, every other round in
// reverse.
func (f *fleet) takeTurns(ctx context.Context, c *scenario) error {
	for _, s := range f.servers {
		c.of = append(c.of, &measurement{server: s})
	}
	for round := range c.rounds {
		order := slices.Clone(c.of)
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, m := range order {
			if err := ctx.Err(); err != nil {
				return err
			}
			if m.failed != nil {
				continue
			}
			r, err := c.take(m.server, round)
			switch {
			case err == nil:
				m.samples = append(m.samples, r)
			case c.mayFail:
				m.failed = err
			default:
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return nil
}

// idle opens ten thousand sessions on each server, and prints what they take
// of its memory.
func (f *fleet) idle(w io.Writer) ([]ratio, error) {
	perSession := map[string]float64{}
	for _, s := range f.servers {
		if _, err := s.do(load.Order{Do: "open", Group: many, Sessions: manyN, Topics: []string{"all"}}); err != nil {
			return nil, err
		}
		bytes, err := settled(s)
		if err != nil {
			return nil, err
		}
		perSession[s.name] = float64(bytes-s.empty) / manyN
		fmt.Fprintf(w, "%s: %.1f KB of RSS per idle session at %s sessions (%.0f MB without)\n",
			s.name, perSession[s.name]/1024, thousands(manyN), float64(s.empty)/(1<<20))
	}
	fmt.Fprintln(w)
	kb := perSession[gateway] / 1024
	return []ratio{
		{name: idleSessions + ": KB of RSS each", values: []float64{kb}, limit: 12},
		{name: idleSessions + ": RSS to centrifuge", values: []float64{perSession[gateway] / perSession[centrifuge]}},
	}, nil
}

// settled returns a server's memory once it has stopped to fall.
func settled(s *server) (int, error) {
	least, err := resident(s.process.pid())
	if err != nil {
		return 0, err
	}
	for since := time.Now(); time.Since(since) < 2*time.Second; time.Sleep(100 * time.Millisecond) {
		n, err := resident(s.process.pid())
		if err != nil {
			return 0, err
		}
		if n < least-least/200 {
			since = time.Now()
		}
		least = min(least, n)
	}
	return least, nil
}

// subscribe brings the rest of the sessions.
func (f *fleet) subscribe() error {
	for _, s := range f.servers {
		if _, err := s.do(load.Order{Do: "open", Group: few, Sessions: fewN, Topics: []string{"hot"}}); err != nil {
			return err
		}
		if _, err := s.do(load.Order{Do: "open", Group: many, Sessions: manyN, Topics: thousand(), Slot: 1}); err != nil {
			return err
		}
		// Aggregates are loaded when they are first heard of.
		for _, o := range []load.Order{
			{Group: few, Topics: []string{"hot"}, Rate: 10, For: time.Second / 10},
			{Group: many, Topics: []string{"all"}, Rate: 10, For: time.Second / 10},
			{Group: many, Topics: thousand(), Slot: 1, Rate: 2 * streams, For: time.Second / 2},
		} {
			o.Do = "pace"
			if _, err := s.do(o); err != nil {
				return err
			}
		}
	}
	return nil
}

// thousand are the streams of ten sessions each.
func thousand() []string {
	list := make([]string, streams)
	for i := range list {
		list[i] = fmt.Sprintf("s%d", i)
	}
	return list
}

// Names of the cases that floors speak of.
const (
	idleSessions  = "idle sessions"
	hotSaturated  = "1 stream × 1,000 sessions, saturated"
	hotPaced      = "1 stream × 1,000 sessions, 50 events/s"
	wideSaturated = "1,000 streams × 10 sessions, saturated"
	widePaced     = "1,000 streams × 10 sessions, 500 events/s"
	allSaturated  = "1 stream × 10,000 sessions, saturated"
	resume200     = "1,000 sessions resume 200 missed events"
	resume20000   = "1,000 sessions resume 20,000 missed events"
)

func scenarios(quick bool) []*scenario {
	rounds, long, saturated, paced := 5, 2, time.Second, 2*time.Second
	if quick {
		rounds, long, saturated, paced = 3, 1, 500*time.Millisecond, time.Second
	}
	order := func(name string, o load.Order) *scenario {
		return &scenario{name: name, rounds: rounds, take: func(s *server, _ int) (load.Report, error) { return s.do(o) }}
	}
	resume := func(name string, rounds, missed int) *scenario {
		return &scenario{name: name, rounds: rounds, mayFail: true, take: func(s *server, round int) (load.Report, error) {
			// A stream of its own, of which everybody has seen the first event.
			topic := []string{fmt.Sprintf("missed-%d-%d", missed, round)}
			for _, o := range []load.Order{{Events: 1, Burst: 1}, {Events: missed, Burst: 50}} {
				o.Do, o.Topics = "publish", topic
				if _, err := s.do(o); err != nil {
					return load.Report{}, err
				}
			}
			return s.do(load.Order{Do: "resume", Group: "back", Sessions: fewN, Topics: topic, After: 1})
		}}
	}
	hot, all := []string{"hot"}, []string{"all"}
	return []*scenario{
		order(hotSaturated, load.Order{Do: "saturate", Group: few, Topics: hot, For: saturated, Window: 64, Burst: 1}),
		order(hotPaced, load.Order{Do: "pace", Group: few, Topics: hot, For: paced, Rate: 50}),
		order(wideSaturated, load.Order{Do: "saturate", Group: many, Topics: thousand(), Slot: 1, For: saturated, Window: 16 * streams, Burst: 8}),
		order(widePaced, load.Order{Do: "pace", Group: many, Topics: thousand(), Slot: 1, For: paced, Rate: 500}),
		order(allSaturated, load.Order{Do: "saturate", Group: many, Topics: all, For: 3 * saturated, Window: 64, Burst: 1}),
		resume(resume200, rounds, 200),
		resume(resume20000, long, 20_000),
	}
}

// ratios returns what is compared, with the floors.
func ratios(cases []*scenario) []ratio {
	var list []ratio
	for _, c := range cases {
		g, rival, limit := c.measure(gateway), c.measure(centrifuge), c.measure(bare)
		add := func(what string, of, to *measurement, metric func(load.Report) float64, floor float64) {
			r := ratio{name: c.name + ": " + what, values: compare(of, to, metric, quotient), limit: floor}
			for _, m := range []*measurement{to, of} {
				if m.failed != nil {
					r.failed = m.server
				}
			}
			list = append(list, r)
		}
		switch c.name {
		case resume200, resume20000:
			add("time to centrifuge", g, rival, elapsed, 1)
			add("time to bare", g, limit, elapsed, 0)
			continue
		}
		add("CPU per delivery to centrifuge", g, rival, cpuEach, map[string]float64{hotSaturated: 0.50, hotPaced: 0.95, wideSaturated: 0.50}[c.name])
		add("CPU per delivery to bare", g, limit, cpuEach, 1.2)
		if c.name == hotPaced {
			list = append(list, ratio{name: c.name + ": p99 minus centrifuge's, ms", values: compare(g, rival, p99, difference), limit: 3})
		}
	}
	return list
}
