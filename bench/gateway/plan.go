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
	"github.com/ganglion-es/ganglion/bench/report"
)

// Groups of sessions, which stay open during the whole run.
const (
	many    = "many" // 10,000: all on one stream, and 10 on each of 1,000 streams
	few     = "few"  // 1,000 on one stream
	manyN   = 10_000
	fewN    = 1000
	streams = 1000
)

// measurement has the samples of one server in one case, one per round.
type measurement struct {
	server  *server
	samples []load.Report
	failed  error // the reason why later samples are missing
}

// scenario is a case, which each server runs.
type scenario struct {
	name    string
	rounds  int
	mayFail bool // a server that fails misses its floor and continues with the next case
	sample  func(s *server, round int) (load.Report, error)
	of      []*measurement // one per server
}

func (c *scenario) measure(name string) *measurement {
	for _, m := range c.of {
		if m.server.name == name {
			return m
		}
	}
	return nil
}

// errMissed means that a ratio misses its floor by more than the noise.
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
	var all []report.Ratio
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

// printMachine describes the machine.
func printMachine(w io.Writer, cpus []int) {
	average, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(average), " ")
	fmt.Fprintf(w, "%s, %s/%s, %d processors, servers on processor %d, load %s at the start\n\n",
		runtime.Version(), runtime.GOOS, runtime.GOARCH, len(cpus), cpus[0], first)
}

// conclude prints the ratios, and returns errMissed if one misses its floor.
func conclude(w io.Writer, began time.Time, all []report.Ratio) error {
	fmt.Fprintf(w, "%.0f s in all\n\n", time.Since(began).Seconds())
	if missed := report.Print(w, all); missed > 0 {
		return fmt.Errorf("%w: %d of the ratios above", errMissed, missed)
	}
	return nil
}

// takeTurns runs a case on every server in each round.
func (f *fleet) takeTurns(ctx context.Context, c *scenario) error {
	for _, s := range f.servers {
		c.of = append(c.of, &measurement{server: s})
	}
	return report.TakeTurns(ctx, c.of, c.rounds, func(m *measurement, round int) error {
		if m.failed != nil {
			return nil
		}
		r, err := c.sample(m.server, round)
		switch {
		case err == nil:
			m.samples = append(m.samples, r)
		case c.mayFail:
			m.failed = err
		default:
			return fmt.Errorf("%s: %w", c.name, err)
		}
		return nil
	})
}

// idle opens 10,000 sessions on each server, and prints their memory.
func (f *fleet) idle(w io.Writer) ([]report.Ratio, error) {
	perSession := map[string]float64{}
	for _, s := range f.servers {
		if _, err := s.do(load.Order{Do: "open", Group: many, Sessions: manyN, Topics: []string{"all"}}); err != nil {
			return nil, err
		}
		bytes, err := settledMemory(s)
		if err != nil {
			return nil, err
		}
		perSession[s.name] = float64(bytes-s.emptyBytes) / manyN
		fmt.Fprintf(w, "%s: %.1f KB of RSS per idle session at %s sessions (%.0f MB without)\n",
			s.name, perSession[s.name]/1024, report.Thousands(manyN), float64(s.emptyBytes)/(1<<20))
	}
	fmt.Fprintln(w)
	kb := perSession[gateway] / 1024
	return []report.Ratio{
		{Name: idleSessions + ": KB of RSS each", Values: []float64{kb}, AtMost: 12},
		{Name: idleSessions + ": RSS to centrifuge", Values: []float64{perSession[gateway] / perSession[centrifuge]}},
	}, nil
}

// settledMemory returns the memory of a server after it has not shrunk for 2 s.
func settledMemory(s *server) (int, error) {
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

// subscribe opens the other sessions and subscriptions.
func (f *fleet) subscribe() error {
	for _, s := range f.servers {
		if _, err := s.do(load.Order{Do: "open", Group: few, Sessions: fewN, Topics: []string{"hot"}}); err != nil {
			return err
		}
		if _, err := s.do(load.Order{Do: "open", Group: many, Sessions: manyN, Topics: thousand(), Slot: 1}); err != nil {
			return err
		}
		// The first command loads the aggregate.
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

// thousand returns the names of the streams with ten sessions each.
func thousand() []string {
	list := make([]string, streams)
	for i := range list {
		list[i] = fmt.Sprintf("s%d", i)
	}
	return list
}

// Names of the cases that have floors.
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
	rounds, longRounds, saturated, paced := 5, 2, time.Second, 2*time.Second
	if quick {
		rounds, longRounds, saturated, paced = 3, 1, 500*time.Millisecond, time.Second
	}
	order := func(name string, o load.Order) *scenario {
		return &scenario{name: name, rounds: rounds, sample: func(s *server, _ int) (load.Report, error) { return s.do(o) }}
	}
	resume := func(name string, rounds, missed int) *scenario {
		return &scenario{name: name, rounds: rounds, mayFail: true, sample: func(s *server, round int) (load.Report, error) {
			// The stream is new, and the sessions have its first event.
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
		resume(resume20000, longRounds, 20_000),
	}
}

// ratios returns the ratios of the cases, with their floors.
func ratios(cases []*scenario) []report.Ratio {
	var list []report.Ratio
	for _, c := range cases {
		g, rival, limit := c.measure(gateway), c.measure(centrifuge), c.measure(bare)
		add := func(what string, of, to *measurement, metric func(load.Report) float64, floor float64) {
			r := report.Ratio{Name: c.name + ": " + what, Values: compare(of, to, metric, report.Quotient), AtMost: floor, SubjectFailed: of.failed != nil}
			if to.failed != nil {
				r.RivalFailed = to.server.name
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
			list = append(list, report.Ratio{Name: c.name + ": p99 minus centrifuge's, ms", Values: compare(g, rival, p99, report.Difference), AtMost: 3})
		}
	}
	return list
}
