// Command chaos runs a cluster of real processes, injects the faults of package
// schedule, and compares the observations of clients with the log.
//
// Each node is a ganglion process on its own host (package network), or on
// loopback if that is not possible. Clients that follow the protocol (package
// load) send commands and read events all the time. Afterwards package check
// decides whether every promise was kept. The same seed gives the same faults in
// the same order.
//
// It prints a report. If a promise was broken, it exits with status 1 and keeps
// the logs of the nodes. Times are reported, but do not change the status, since
// they depend on the machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/test/chaos/check"
	"github.com/ganglion-es/ganglion/test/chaos/load"
	"github.com/ganglion-es/ganglion/test/chaos/schedule"
)

const (
	// endWithin bounds the time between the last fault and the moment at which the
	// clients know every outcome and have every event.
	endWithin = time.Minute
	// extraGoroutines bounds the growth in goroutines of a node from start to end,
	// maxHeap its heap in bytes. A node keeps up to 32 MiB of the newest events, and
	// some aggregates.
	extraGoroutines = 30
	maxHeap         = 256 << 20
)

func main() {
	var c config
	flag.Uint64Var(&c.seed, "seed", 0, "`seed` of the faults; 0 draws one")
	flag.Float64Var(&c.minutes, "minutes", 2, "`minutes` of faults")
	flag.BoolVar(&c.race, "race", false, "build the nodes with the race detector, and load them less")
	flag.BoolVar(&c.loopback, "loopback", false, "put all nodes on loopback, even if each could have its own host")
	flag.StringVar(&c.only, "only", "", "inject only kinds of faults whose names contain one of these texts, separated by commas")
	flag.BoolVar(&c.keep, "keep", false, "keep the logs of the nodes even after success")
	flag.StringVar(&c.drills, "record", "", "run the drills of record.go instead, and write the series that Prometheus would scrape into this `file` of promtool tests, which is next to alerts.yml")
	flag.StringVar(&c.plant, "plant", "", "build the nodes with each planted fault whose name contains this, or with each for all, and fail unless it is found")
	flag.BoolVar(&c.dry, "dry", false, "print the first 50 faults of the seed and exit")
	flag.Parse()
	if c.seed == 0 {
		c.seed = rand.Uint64() >> 32
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := c.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

type config struct {
	seed                uint64
	minutes             float64
	race, loopback, dry bool
	keep                bool
	only, drills, plant string
}

var began = time.Now()

func say(format string, args ...any) {
	fmt.Printf("%7.1f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
}

func (c config) run(ctx context.Context) (err error) {
	if c.dry {
		faults := schedule.New(c.seed, schedule.Cluster{Owners: []string{"n1", "n2", "n3"}, Gateways: []string{"g1", "g2"}, Network: !c.loopback})
		for range 50 {
			fmt.Println(faults.Next())
		}
		return nil
	}
	switch c.plant {
	case "":
	case "all":
		return c.findPlants(ctx, "")
	default:
		return c.findPlants(ctx, c.plant)
	}
	if c.drills == "" {
		say("SEED=%d MINUTES=%g", c.seed, c.minutes)
	}
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // PostgreSQL reads it as another user
		return err
	}
	w, err := newWorld(ctx, dir, c.race, c.loopback, c.drills != "")
	if err != nil {
		return fmt.Errorf("%w (the logs of the nodes are in %s)", err, dir)
	}
	var anomalies []string
	if c.drills != "" {
		err = c.record(ctx, w, c.drills)
	} else {
		anomalies, err = c.injectAndCheck(ctx, w)
	}
	err = errors.Join(err, w.close())
	anomalies = append(anomalies, badLogLines(w)...)
	if err == nil && len(anomalies) == 0 {
		say("no anomaly")
		if c.keep {
			say("the logs of the nodes are in %s", dir)
			return nil
		}
		return os.RemoveAll(dir)
	}
	for _, a := range anomalies {
		fmt.Printf("ANOMALY: %s\n", a)
	}
	if len(anomalies) > 0 {
		err = errors.Join(err, fmt.Errorf("%d anomalies; SEED=%d repeats the faults", len(anomalies), c.seed))
	}
	return fmt.Errorf("%w (the logs of the nodes are in %s)", err, dir)
}

// injectAndCheck runs the load, injects faults, and checks the promises.
func (c config) injectAndCheck(ctx context.Context, w *world) ([]string, error) {
	before := map[string]usage{}
	for _, n := range w.nodes {
		u, err := n.usage()
		if err != nil {
			return nil, err
		}
		before[n.name] = u
	}
	cfg := load.Config{
		Seed: c.seed, Gateways: w.gateways(), Owners: w.cluster().Owners, Members: w.members(),
		Writers: 12, StreamFollowers: 6, Askers: 3, Watchers: 4, ProbeEvery: 60 * time.Millisecond, Think: 200 * time.Millisecond,
	}
	l := load.Start(cfg)
	y, progress := measure(w.server.URL("postgres"), l.Now), sample(w.server.URL("postgres"), l.Now)
	in := &injector{world: w, load: l, now: l.Now, counts: map[schedule.Kind]int{}, memberFaults: map[schedule.Kind]int{}}
	in.phase(settling)
	sleep(ctx, calmFor)
	in.phase(calm)
	sleep(ctx, calmFor)
	broken := c.inject(ctx, in)
	in.phase(settling)

	ending, cancel := context.WithTimeout(ctx, endWithin)
	defer cancel()
	if broken != nil {
		cancel() // the cluster is broken, so waiting is useless
	}
	var log []eventstore.Commit
	rest := func() { // until the cluster has sent what is pending, and woken what is due
		var err error
		log, err = readLog(context.WithoutCancel(ctx), w)
		for err == nil && check.Untold(log)+check.Unreceipted(log)+check.Open(log) > 0 && ending.Err() == nil {
			sleep(ending, settleEvery)
			log, err = readLog(context.WithoutCancel(ctx), w)
		}
		if err != nil {
			broken = errors.Join(broken, err)
		}
	}
	l.Settle(ending, rest)
	rest() // reads the last command, too
	history, waits, answers := l.Finish(ending, log)
	history.HasEnds, history.Past = broken == nil, w.past
	history.Group.Complete = broken == nil
	in.phase(settling) // ends the last phase
	ticks := y.end()
	history.Group.Progress = progress.end()
	var err error
	if history.StoredAt, err = storedAt(context.WithoutCancel(ctx), w.server.URL("postgres")); err != nil {
		broken = errors.Join(broken, err)
	}
	anomalies := in.anomalies
	if err := ctx.Err(); err != nil {
		return anomalies, err
	}

	anomalies = append(anomalies, c.checkHistory(history, broken == nil)...)
	if broken == nil {
		anomalies = append(anomalies, c.leftovers(ctx, w, before)...)
	}
	if out, err := exec.CommandContext(ctx, w.binary, "verify", "--store", w.server.URL("postgres")).CombinedOutput(); err != nil {
		anomalies = append(anomalies, fmt.Sprintf("ganglion verify: %v: %s", err, out))
	}

	fmt.Println("\nFaults injected:")
	total := 0
	for _, kind := range schedule.New(c.seed, w.cluster()).Kinds() {
		fmt.Printf("  %4d  %s\n", in.counts[kind], kind)
		total += in.counts[kind]
	}
	for _, kind := range slices.Sorted(maps.Keys(in.memberFaults)) {
		fmt.Printf("  %4d  %s\n", in.memberFaults[kind], kind)
		total += in.memberFaults[kind]
	}
	fmt.Printf("  %4d  in total\n\nReplies to clients other than results and rejections: %s\n\n", total, tally(answers))
	lines, longest := unavailability(in.windows, waits, ticks)
	printMissed(os.Stdout, in.windows, lines, longest, ticks)
	printUnavailability(os.Stdout, lines)
	fmt.Println()
	return anomalies, broken
}

// checkHistory checks the promises. If the history has no anomalies and is whole,
// it then checks the checker itself with planted faults.
func (c config) checkHistory(history check.History, isWhole bool) (anomalies []string) {
	began := time.Now()
	result := check.Run(history)
	for _, a := range result.Anomalies {
		anomalies = append(anomalies, a.String())
	}
	unknown := 0
	for _, cmd := range history.Commands {
		if cmd.Outcome == check.Unknown {
			unknown++
		}
	}
	if unknown > 0 {
		anomalies = append(anomalies, fmt.Sprintf("%d commands have no reply, %v after the end of the faults", unknown, endWithin))
	}
	say("checked %d answers, and %d batches of %d live queries", result.Answers, result.Snapshots, len(history.Lives))
	say("checked %d assignments of segments, and %d events sent to members, who sent %d acknowledgements under epochs that were over",
		result.Tenures, result.Deliveries, len(history.Group.Late))
	say("checked %d commands of a process manager with several builds", result.Receipts)
	say("checked %d auctions that ended, %d of them by themselves, the last %v after its closing time", result.Ends, result.WokenUp, result.LatestEnd.Round(time.Millisecond))
	say("checked %d commands, %d reads, %d events and %d subscriptions in %v; %d operations on %d aggregates ordered; %d unknown outcomes resolved from the log",
		result.Commands, result.Reads, result.Events, len(history.Subscriptions), time.Since(began).Round(time.Millisecond), result.Ordered, result.Aggregates, result.FoundDone+result.FoundNotDone)
	if len(result.Anomalies) == 0 && isWhole {
		missed, unplanted := check.SelfCheck(history, rand.New(rand.NewPCG(c.seed, 2)))
		say("the checker found %d of %d faults planted into this history", len(check.Plants)-len(missed)-len(unplanted), len(check.Plants)-len(unplanted))
		for _, name := range missed {
			anomalies = append(anomalies, "the checker did not find a planted fault: "+name)
		}
	}
	return anomalies
}

// inject injects faults for the configured minutes.
func (c config) inject(ctx context.Context, in *injector) error {
	faults := schedule.New(c.seed, in.world.cluster())
	hitting, stop := context.WithCancel(ctx)
	var members sync.WaitGroup
	members.Go(func() { in.members(hitting, faults.MemberFaults()) })
	defer members.Wait()
	defer stop()
	for until := time.Now().Add(time.Duration(c.minutes * float64(time.Minute))); time.Now().Before(until); {
		f := faults.Next()
		if !slices.ContainsFunc(strings.Split(c.only, ","), func(text string) bool { return strings.Contains(string(f.Kind), text) }) {
			continue
		}
		say("%v", f)
		if err := in.do(ctx, f); err != nil {
			return fmt.Errorf("%v: %w", f, err)
		}
	}
	return nil
}

// readLog reads the whole log.
func readLog(ctx context.Context, w *world) ([]eventstore.Commit, error) {
	store, err := postgres.Open(ctx, postgres.Config{URL: w.server.URL("postgres")})
	if err != nil {
		return nil, err
	}
	defer store.Close()
	var all []eventstore.Commit
	for after := eventstore.Position(0); ; after = all[len(all)-1].Position {
		page, err := store.Read(ctx, after, 1000)
		if err != nil || len(page) == 0 {
			return all, err
		}
		all = append(all, page...)
	}
}

// leftovers compares the goroutines and the heap of each node, now without
// sessions, with those at its start.
func (c config) leftovers(ctx context.Context, w *world, before map[string]usage) (anomalies []string) {
	for _, n := range w.nodes {
		var u usage
		var err error
		for deadline := time.Now().Add(w.settle); ; sleep(ctx, settleEvery) {
			if u, err = n.usage(); err == nil && u.goroutines <= before[n.name].goroutines+extraGoroutines || time.Now().After(deadline) {
				break
			}
		}
		say("%s: %d goroutines (%d at the start), %d MiB of heap (%d)", n.name, u.goroutines, before[n.name].goroutines, u.heap>>20, before[n.name].heap>>20)
		switch {
		case err != nil:
			anomalies = append(anomalies, fmt.Sprintf("%s: %v", n.name, err))
		case u.goroutines > before[n.name].goroutines+extraGoroutines:
			anomalies = append(anomalies, fmt.Sprintf("%s has %d goroutines without a session, %d at the start", n.name, u.goroutines, before[n.name].goroutines))
		case u.heap > maxHeap:
			anomalies = append(anomalies, fmt.Sprintf("%s has a heap of %d MiB", n.name, u.heap>>20))
		}
	}
	return anomalies
}

// badLogLines returns the nodes' log lines that not even a fault excuses.
func badLogLines(w *world) (anomalies []string) {
	for _, n := range w.nodes {
		text, err := os.ReadFile(filepath.Join(w.dir, n.name+".log"))
		if err != nil {
			return append(anomalies, err.Error())
		}
		for line := range strings.Lines(string(text)) {
			for _, bad := range []string{"panic:", "DATA RACE", "fatal error:", "damaged", "the log went back"} {
				if strings.Contains(line, bad) {
					anomalies = append(anomalies, n.name+": "+strings.TrimSpace(line))
				}
			}
		}
	}
	return anomalies
}
