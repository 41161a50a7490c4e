// Package schedule decides which faults hit a cluster, from a seed alone: the
// same seed and cluster give the same faults in the same order, however fast
// the machine is. How many of them happen is a matter of how long one listens.
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
	// KillOwner kills a domain node with kill -9 and starts it again.
	KillOwner Kind = "kill an owner"
	// KillGateway does that to a node that is only a gateway.
	KillGateway Kind = "kill a gateway"
	// FreezeOwner stops a domain node with SIGSTOP and wakes it up again.
	FreezeOwner Kind = "freeze an owner"
	// FreezeGateway does that to a node that is only a gateway.
	FreezeGateway Kind = "freeze a gateway"
	// CutOwner cuts a domain node off from everything.
	CutOwner Kind = "cut an owner off"
	// CutPeers cuts a domain node off from all nodes, and leaves it the
	// database: it may go on writing.
	CutPeers Kind = "cut an owner off from its peers"
	// CutOneWay loses what a domain node sends to the other nodes, or what
	// those send to it.
	CutOneWay Kind = "cut one way"
	// CutPair cuts two nodes off from each other only.
	CutPair Kind = "cut a pair"
	// CutStore cuts a domain node off from the database only.
	CutStore Kind = "cut an owner off from the database"
	// SlowLink delays what a domain node and its peers say to each other, and
	// loses some of it.
	SlowLink Kind = "slow links"
	// RestartStore restarts the database as pg_ctl restart -m immediate does.
	RestartStore Kind = "crash the database"
	// StepClock sets a node's clock forward or back.
	StepClock Kind = "step a clock"
	// Leave lets a domain node leave in order and join again.
	Leave Kind = "leave and join"
	// Rolling restarts all nodes in order, one after another.
	Rolling Kind = "rolling restart"
	// Several makes two or three faults at once.
	Several Kind = "several at once"
)

// Fault is one fault.
type Fault struct {
	Kind Kind
	// Node is whom it hits, Peer the other end of a pair.
	Node, Peer string
	// For is how long it lasts: until a killed node is started again, a
	// frozen one is woken up, a cut is mended.
	For time.Duration
	// Inbound says that CutOneWay loses what the node is sent.
	Inbound bool
	// Delay and Loss are those of SlowLink.
	Delay time.Duration
	Loss  float64
	// Step is by how much StepClock sets the clock.
	Step time.Duration
	// Together are the faults of Several.
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
		s += " (what it is sent)"
	case f.Kind == CutOneWay:
		s += " (what it sends)"
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

// Cluster is what can be hit.
type Cluster struct {
	Owners   []string // nodes that run aggregates
	Gateways []string // nodes that only hold sessions
	// Network says that cuts and slow links are possible.
	Network bool
}

func (c Cluster) all() []string { return append(slices.Clone(c.Owners), c.Gateways...) }

// Schedule deals out faults without end. Like a shuffled deck it gives every
// kind a few times before it begins anew.
type Schedule struct {
	cluster Cluster
	random  *rand.Rand
	deck    []Kind
}

// New begins a schedule.
func New(seed uint64, c Cluster) *Schedule {
	return &Schedule{cluster: c, random: rand.New(rand.NewPCG(seed, 0x6368616f73))}
}

// Kinds are the kinds that can be dealt.
func (s *Schedule) Kinds() []Kind { return slices.Compact(slices.Sorted(slices.Values(s.full()))) }

// full is an unshuffled deck: what the budgets speak of comes twice.
func (s *Schedule) full() []Kind {
	deck := []Kind{KillOwner, KillOwner, FreezeOwner, FreezeOwner, StepClock, Leave, Rolling, RestartStore, Several, Several}
	if len(s.cluster.Gateways) > 0 {
		deck = append(deck, KillGateway, FreezeGateway)
	}
	if s.cluster.Network {
		deck = append(deck, CutOwner, CutOwner, CutPeers, CutOneWay, CutPair, CutStore, SlowLink)
	}
	return deck
}

// Next deals a fault.
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
	// Different nodes, so that each is mended by what mends it alone.
	f, hit := Fault{Kind: Several}, map[string]bool{}
	for want := 2 + s.random.IntN(2); len(f.Together) < want; {
		g := s.one(s.full()[s.random.IntN(len(s.full()))])
		switch {
		case g.Kind == Rolling, g.Kind == Several, hit[g.Node], g.Peer != "" && hit[g.Peer]:
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

// one makes a fault of a kind.
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
	case Rolling:
		f.Node = ""
	}
	return f
}

// pause is how long something hangs: mostly about as long as the cluster takes
// to notice, sometimes much longer.
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
