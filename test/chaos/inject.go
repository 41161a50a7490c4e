package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/ganglion-es/ganglion/test/chaos/load"
	"github.com/ganglion-es/ganglion/test/chaos/network"
	"github.com/ganglion-es/ganglion/test/chaos/schedule"
)

// Phases of a run that are not kinds of faults.
const (
	calm      = "calm"
	join      = "join after a kill"
	wake      = "wake up after a freeze"
	mend      = "mend a cut"
	storeBack = "database back after a crash"
	settling  = "settle"
)

// calmFor is the time without faults between two faults.
const calmFor = 2 * time.Second

// window is the time of a phase.
type window struct {
	what       string
	begin, end int64
	// without has the nodes that the fault hit. The budgets do not apply to their
	// clients.
	without map[string]bool
}

// injector injects faults into a world, and records their times.
type injector struct {
	world   *world
	now     func() int64
	windows []window
	load    *load.Load // nil in drills
	counts  map[schedule.Kind]int
	// memberFaults counts those of members.
	memberFaults map[schedule.Kind]int
	// anomalies are broken promises about the cluster as a whole.
	anomalies []string
}

// phase ends the current phase and starts another.
func (in *injector) phase(what string, without ...string) {
	now := in.now()
	if n := len(in.windows); n > 0 && in.windows[n-1].end == 0 {
		in.windows[n-1].end = now
	}
	w := window{what: what, begin: now, without: map[string]bool{}}
	for _, name := range without {
		w.without[name] = true
	}
	in.windows = append(in.windows, w)
}

// do injects a fault, repairs it, and waits until the cluster has settled. An error
// is a failure of the rig.
func (in *injector) do(ctx context.Context, f schedule.Fault) error {
	in.counts[f.Kind]++
	phase := in.phase
	var err error
	if f.Kind == schedule.Several {
		phase = func(string, ...string) {}
		var without []string
		for _, g := range f.Together {
			without = append(without, hit(g)...)
		}
		in.phase(string(f.Kind), without...)
		errs := make([]error, len(f.Together))
		var all sync.WaitGroup
		for i, g := range f.Together {
			all.Go(func() { errs[i] = in.one(ctx, g, phase) })
		}
		all.Wait()
		err = errors.Join(errs...)
	} else {
		err = in.one(ctx, f, phase)
	}
	if err != nil {
		return err
	}
	if dead := in.world.dead(); len(dead) > 0 {
		in.anomalies = append(in.anomalies, fmt.Sprintf("after %v: %v ended unexpectedly", f, dead))
		return errors.New("nodes ended unexpectedly")
	}
	if err := in.world.awaitSettled(ctx, in.world.settle); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		in.anomalies = append(in.anomalies, fmt.Sprintf("after %v: %v", f, err))
	}
	in.phase(settling)
	sleep(ctx, calmFor/2)
	in.phase(calm)
	sleep(ctx, calmFor/2)
	return ctx.Err()
}

// touched returns all nodes that a fault concerns.
func (in *injector) touched(f schedule.Fault) (names []string) {
	switch f.Kind {
	case schedule.Rolling, schedule.KillAll, schedule.RestartStore:
		return in.names()
	case schedule.CutPair:
		return []string{f.Node, f.Peer}
	}
	return []string{f.Node}
}

func (in *injector) names() (names []string) {
	for _, n := range in.world.nodes {
		names = append(names, n.name)
	}
	return names
}

// isCut reports whether a fault may separate a node with the database from the others.
// Then the node may coordinate a consumer group, also for some seconds after the cut is
// mended, and no gateway but its own counts as alive for it. The tests of package group
// know what a coordinator has heard, so they check the group's promise beside cuts.
func isCut(f schedule.Fault) bool {
	switch f.Kind {
	case schedule.CutOwner, schedule.CutPeers, schedule.CutOneWay, schedule.CutPair:
		return true
	}
	return false
}

// hit returns the nodes whose clients the fault affects directly.
func hit(f schedule.Fault) []string {
	switch f.Kind {
	case schedule.KillOwner, schedule.KillGateway, schedule.FreezeOwner, schedule.FreezeGateway, schedule.CutOwner, schedule.CutStore:
		return []string{f.Node}
	}
	return nil
}

// one injects one fault and repairs it.
func (in *injector) one(ctx context.Context, f schedule.Fault, phase func(string, ...string)) error {
	w := in.world
	phase(string(f.Kind), hit(f)...)
	if in.load != nil {
		begin := in.load.Now()
		defer func() {
			for _, name := range in.touched(f) {
				in.load.Hit(name, begin)
			}
			if isCut(f) {
				for _, name := range in.names() {
					in.load.HitFor(name, begin, load.Apart)
				}
			}
		}()
	}
	switch f.Kind {
	case schedule.KillAll:
		for _, n := range w.nodes {
			n.kill()
		}
		if err := w.upgrade(ctx); err != nil {
			return err
		}
		sleep(ctx, f.For)
		phase(join)
		for _, n := range w.nodes {
			if err := n.start(); err != nil {
				return err
			}
		}
		for _, n := range w.nodes {
			if err := n.awaitReady(ctx); err != nil {
				return err
			}
		}
		return nil
	case schedule.KillOwner, schedule.KillGateway:
		n := w.node(f.Node)
		n.kill()
		sleep(ctx, f.For)
		phase(join, f.Node)
		if err := n.start(); err != nil {
			return err
		}
		return n.awaitReady(ctx)
	case schedule.FreezeOwner, schedule.FreezeGateway:
		n := w.node(f.Node)
		if err := n.signal(syscall.SIGSTOP); err != nil {
			return err
		}
		sleep(ctx, f.For)
		phase(wake, f.Node)
		return n.signal(syscall.SIGCONT)
	case schedule.RestartStore:
		stopping := time.Now()
		if err := w.server.Crash(); err != nil {
			return err
		}
		stopped := time.Since(stopping)
		sleep(ctx, f.For)
		starting := time.Now()
		if err := w.server.Start(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		say("  the database stopped in %v and recovered in %v", stopped.Round(time.Millisecond), time.Since(starting).Round(time.Millisecond))
		phase(storeBack)
		sleep(ctx, time.Second)
		return nil
	case schedule.StepClock:
		if err := os.WriteFile(w.node(f.Node).clockFile(), []byte(f.Step.String()), 0o644); err != nil {
			return err
		}
		sleep(ctx, time.Second)
		return nil
	case schedule.Leave:
		return in.restart(ctx, w.node(f.Node))
	case schedule.Rolling:
		if err := w.upgrade(ctx); err != nil {
			return err
		}
		for _, n := range w.nodes {
			if err := in.restart(ctx, n); err != nil {
				return err
			}
			if err := w.awaitSettled(ctx, w.settle); err != nil {
				in.anomalies = append(in.anomalies, fmt.Sprintf("in a rolling restart, after %s: %v", n.name, err))
			}
		}
		return nil
	}
	rules := in.rules(f)
	for pair, rule := range rules {
		w.network.Set(pair[0], pair[1], rule)
	}
	sleep(ctx, f.For)
	phase(mend, hit(f)...)
	for pair := range rules {
		w.network.Set(pair[0], pair[1], network.Rule{})
	}
	return nil
}

// members injects faults of the members of the consumer group until ctx ends, two at
// a time.
func (in *injector) members(ctx context.Context, next func() schedule.Fault) {
	var mu sync.Mutex
	busy := map[string]bool{}
	choose := func() schedule.Fault {
		mu.Lock()
		defer mu.Unlock()
		for {
			if f := next(); !busy[f.Node] {
				busy[f.Node] = true
				in.memberFaults[f.Kind]++
				return f
			}
		}
	}
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for ctx.Err() == nil {
				f := choose()
				in.member(ctx, f)
				mu.Lock()
				delete(busy, f.Node)
				mu.Unlock()
				sleep(ctx, memberCalm)
			}
		})
	}
	all.Wait()
}

// memberCalm is the time between two faults of members.
const memberCalm = time.Second

func (in *injector) member(ctx context.Context, f schedule.Fault) {
	switch f.Kind {
	case schedule.KillMember:
		in.load.Kill(ctx, f.Node, f.For)
	case schedule.FreezeMember:
		in.load.Freeze(ctx, f.Node, f.For)
	case schedule.CutMember:
		begin := in.load.Now()
		rule := func(r network.Rule) {
			for _, n := range in.world.nodes {
				in.world.network.Set(f.Node, n.name, r)
				in.world.network.Set(n.name, f.Node, r)
			}
		}
		rule(network.Rule{Drop: true})
		sleep(ctx, f.For)
		in.load.Hit(f.Node, begin)
		rule(network.Rule{})
	}
}

// restart drains a node and starts it again.
func (in *injector) restart(ctx context.Context, n *node) error {
	if err := n.leave(); err != nil {
		in.anomalies = append(in.anomalies, err.Error())
		n.kill()
	}
	if err := n.start(); err != nil {
		return err
	}
	return n.awaitReady(ctx)
}

// rules returns the network rules of a cut or a slow link, by sender and receiver.
func (in *injector) rules(f schedule.Fault) map[[2]string]network.Rule {
	rules := map[[2]string]network.Rule{}
	drop := network.Rule{Drop: true}
	both := func(other string, rule network.Rule) {
		rules[[2]string{f.Node, other}], rules[[2]string{other, f.Node}] = rule, rule
	}
	var peers []string
	for _, n := range in.world.nodes {
		if n.name != f.Node {
			peers = append(peers, n.name)
		}
	}
	switch f.Kind {
	case schedule.CutOwner:
		for _, p := range slices.Concat(peers, []string{clientsHost, storeHost}, members) {
			both(p, drop)
		}
	case schedule.CutPeers:
		for _, p := range peers {
			both(p, drop)
		}
	case schedule.CutOneWay:
		for _, p := range peers {
			if f.Inbound {
				rules[[2]string{p, f.Node}] = drop
			} else {
				rules[[2]string{f.Node, p}] = drop
			}
		}
	case schedule.CutPair:
		both(f.Peer, drop)
	case schedule.CutStore:
		both(storeHost, drop)
	case schedule.SlowLink:
		for _, p := range peers {
			both(p, network.Rule{Delay: f.Delay, Jitter: f.Delay / 4, Loss: f.Loss})
		}
	}
	return rules
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
