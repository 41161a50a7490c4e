// Package schedule derives the faults of a cluster from a seed: the same seed and
// cluster give the same faults in the same order, independent of the speed of the
// machine. A schedule has no end; the length of a run determines the number of
// faults.
package schedule

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Kind is a kind of fault.
type Kind string

// The kinds of faults.
const (
	// KillOwner kills a domain node with SIGKILL and restarts it.
	KillOwner Kind = "kill an owner"
	// KillGateway does the same to a node that is only a gateway.
	KillGateway Kind = "kill a gateway"
	// FreezeOwner freezes a domain node with SIGSTOP and resumes it.
	FreezeOwner Kind = "freeze an owner"
	// FreezeGateway does the same to a node that is only a gateway.
	FreezeGateway Kind = "freeze a gateway"
	// CutOwner cuts a domain node off from all other hosts.
	CutOwner Kind = "cut an owner off"
	// CutPeers cuts a domain node off from all nodes, but not from the database, so
	// it may continue to write.
	CutPeers Kind = "cut an owner off from its peers"
	// CutOneWay drops the packets from a domain node to the other nodes, or those from
	// the other nodes to it.
	CutOneWay Kind = "cut one way"
	// CutPair cuts two nodes off from each other only.
	CutPair Kind = "cut a pair"
	// CutStore cuts a domain node off from the database only.
	CutStore Kind = "cut an owner off from the database"
	// SlowLink delays the packets between a domain node and the other nodes, and drops
	// some.
	SlowLink Kind = "slow links"
	// RestartStore restarts the database like pg_ctl restart -m immediate.
	RestartStore Kind = "crash the database"
	// StepClock sets a node's clock forward or back.
	StepClock Kind = "step a clock"
	// KillAll kills all nodes and starts them again.
	KillAll Kind = "kill all nodes"
	// Leave drains a domain node and restarts it.
	Leave Kind = "leave and join"
	// Rolling drains and restarts all nodes, one after another.
	Rolling Kind = "rolling restart"
	// Several injects two or three faults together.
	Several Kind = "several together"

	// KillMember ends a member of the consumer group and starts it again.
	KillMember Kind = "kill a member"
	// FreezeMember stops a member and lets it continue.
	FreezeMember Kind = "freeze a member"
	// CutMember cuts a member off from all nodes.
	CutMember Kind = "cut a member off"
)

// Fault is one fault.
type Fault struct {
	Kind Kind
	// Node is the node that it hits, Peer the other node of a pair.
	Node, Peer string
	// For is the duration of the fault, until the killed node is restarted, the
	// frozen node is resumed or the cut is repaired.
	For time.Duration
	// Inbound is set if CutOneWay drops the packets to the node.
	Inbound bool
	// Delay and Loss are those of SlowLink.
	Delay time.Duration
	Loss  float64
	// Step is the change of the clock by StepClock.
	Step time.Duration
	// Together has the faults of Several.
	Together []Fault
}

// String describes the fault in one line.
func (f Fault) String() string {
	s := string(f.Kind)
	if f.Node != "" {
		s += " " + f.Node
	}
	if f.Peer != "" {
		s += "-" + f.Peer
	}
	switch {
	case f.Kind == CutOneWay && f.Inbound:
		s += " (inbound)"
	case f.Kind == CutOneWay:
		s += " (outbound)"
	case f.Kind == SlowLink:
		s += " by " + f.Delay.String() + ", " + strconv.FormatFloat(100*f.Loss, 'f', 0, 64) + " % lost"
	case f.Kind == StepClock:
		s += " by " + f.Step.String()
	}
	if f.For > 0 {
		s += " for " + f.For.String()
	}
	if len(f.Together) > 0 {
		var all []string
		for _, g := range f.Together {
			all = append(all, g.String())
		}
		s += ": " + strings.Join(all, " + ")
	}
	return s
}

// Cluster has the nodes that faults can hit.
type Cluster struct {
	Owners   []string // nodes that run aggregates
	Gateways []string // nodes that only hold sessions
	Members  []string // of the consumer group
	// Network is set if cuts and slow links are possible.
	Network bool
}

func (c Cluster) all() []string { return append(slices.Clone(c.Owners), c.Gateways...) }

// Schedule is an endless sequence of faults. It is like a shuffled deck of cards:
// every kind comes up before the deck is shuffled again.
type Schedule struct {
	cluster Cluster
	seed    uint64
	random  *rand.Rand
	deck    []Kind
}

// New returns a new schedule.
func New(seed uint64, c Cluster) *Schedule {
	return &Schedule{cluster: c, seed: seed, random: rand.New(rand.NewPCG(seed, 0x6368616f73))}
}

// Kinds returns the kinds that the schedule uses.
func (s *Schedule) Kinds() []Kind { return slices.Compact(slices.Sorted(slices.Values(s.full()))) }

// full returns an unshuffled deck. Most kinds with a budget are in it twice.
func (s *Schedule) full() []Kind {
	deck := []Kind{KillOwner, KillOwner, FreezeOwner, FreezeOwner, StepClock, KillAll, Leave, Rolling, RestartStore, Several, Several}
	if len(s.cluster.Gateways) > 0 {
		deck = append(deck, KillGateway, FreezeGateway)
	}
	if s.cluster.Network {
		deck = append(deck, CutOwner, CutOwner, CutPeers, CutOneWay, CutPair, CutStore, SlowLink)
	}
	return deck
}

// Next returns the next fault.
func (s *Schedule) Next() Fault {
	if len(s.deck) == 0 {
		s.deck = s.full()
		s.random.Shuffle(len(s.deck), func(i, j int) { s.deck[i], s.deck[j] = s.deck[j], s.deck[i] })
	}
	kind := s.deck[0]
	s.deck = s.deck[1:]
	if kind != Several {
		return s.one(kind)
	}
	// The faults hit different nodes, so each can be repaired on its own.
	f, hit := Fault{Kind: Several}, map[string]bool{}
	for want := 2 + s.random.IntN(2); len(f.Together) < want; {
		g := s.one(s.full()[s.random.IntN(len(s.full()))])
		switch {
		case g.Kind == Rolling, g.Kind == KillAll, g.Kind == Several, hit[g.Node], g.Peer != "" && hit[g.Peer]:
			continue
		case g.Kind == RestartStore && len(f.Together) > 0:
			continue
		}
		hit[g.Node] = true
		if g.Peer != "" {
			hit[g.Peer] = true
		}
		f.Together = append(f.Together, g)
	}
	return f
}

// MemberFaults returns an endless sequence of faults of the members, which is
// independent of Next: these faults hit while others do.
func (s *Schedule) MemberFaults() func() Fault {
	random := rand.New(rand.NewPCG(s.seed, 0x6d656d62657273))
	kinds := []Kind{KillMember, FreezeMember}
	if s.cluster.Network {
		kinds = append(kinds, CutMember)
	}
	return func() Fault {
		of := &Schedule{cluster: s.cluster, random: random}
		f := Fault{Kind: kinds[random.IntN(len(kinds))], Node: pick(random, s.cluster.Members)}
		if f.Kind == KillMember {
			f.For = of.between(100*time.Millisecond, 3*time.Second)
		} else {
			f.For = of.between(time.Second, 8*time.Second)
		}
		return f
	}
}

// one returns a fault of a kind.
func (s *Schedule) one(kind Kind) Fault {
	f := Fault{Kind: kind, Node: pick(s.random, s.cluster.Owners)}
	switch kind {
	case KillOwner:
		f.For = s.between(time.Second, 4*time.Second)
	case KillGateway:
		f.Node, f.For = pick(s.random, s.cluster.Gateways), s.between(time.Second, 4*time.Second)
	case FreezeOwner:
		f.For = s.pause()
	case FreezeGateway:
		f.Node, f.For = pick(s.random, s.cluster.Gateways), s.pause()
	case CutOwner, CutPeers:
		f.For = s.pause() + time.Second
	case CutOneWay:
		f.For, f.Inbound = s.pause()+time.Second, s.random.IntN(2) == 0
	case CutPair:
		f.For, f.Peer = s.pause()+time.Second, f.Node
		for f.Peer == f.Node {
			f.Peer = pick(s.random, s.cluster.all())
		}
	case CutStore:
		f.For = s.between(time.Second, 6*time.Second)
	case SlowLink:
		f.For = s.between(3*time.Second, 10*time.Second)
		f.Delay = s.between(5*time.Millisecond, 150*time.Millisecond)
		f.Loss = float64(s.random.IntN(4)) / 100
	case RestartStore:
		f.Node, f.For = "", s.between(0, 2*time.Second)
	case StepClock:
		f.Node = pick(s.random, s.cluster.all())
		f.Step = []time.Duration{-time.Hour, -time.Minute, -time.Second, time.Second, time.Minute, time.Hour}[s.random.IntN(6)]
	case KillAll:
		f.Node, f.For = "", s.between(time.Second, 6*time.Second)
	case Rolling:
		f.Node = ""
	}
	return f
}

// pause returns the duration of a freeze or a cut: mostly about the time in which
// the cluster notices it, sometimes much longer.
func (s *Schedule) pause() time.Duration {
	switch s.random.IntN(8) {
	case 0, 1:
		return s.between(200*time.Millisecond, 800*time.Millisecond)
	case 2:
		return s.between(10*time.Second, 20*time.Second)
	}
	return s.between(time.Second, 5*time.Second)
}

func (s *Schedule) between(least, most time.Duration) time.Duration {
	return (least + time.Duration(s.random.Int64N(int64(most-least)))).Round(10 * time.Millisecond)
}

func pick(r *rand.Rand, from []string) string { return from[r.IntN(len(from))] }
