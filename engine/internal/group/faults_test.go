package group_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	protogroup "github.com/ganglion-es/ganglion/proto/group"
)

// TestNoSegmentIsSentToTwoMembers lets members join, leave and come back, gateways lose
// their links, parts of the cluster lose each other, coordinators lose the database, and
// the ring name another coordinator, in any order. At each moment at most one member may be sent the events of a segment.
// Once everything is whole again, each segment has a member and they share them evenly.
func TestNoSegmentIsSentToTwoMembers(t *testing.T) {
	t.Parallel()
	seeds := uint64(4)
	if os.Getenv("GANGLION_FAULTS") == "long" {
		seeds = 200
	}
	for seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			run(t, 3, 8, func(w *world) { (&faults{world: w, r: rand.New(rand.NewPCG(seed, 18))}).run() })
		})
	}
}

type faults struct {
	*world
	r       *rand.Rand
	members []namedMember // not closed
	names   int
}

type namedMember struct {
	protogroup.Membership
	name string
}

func (f *faults) run() {
	for _, n := range f.nodes {
		n.lag.Store(int64(100 * time.Millisecond))
	}
	const steps = 400 // of 50 ms
	for range steps {
		if f.r.IntN(4) == 0 {
			f.fault()
		}
		f.settle(50 * time.Millisecond)
	}
	f.own(f.node().name)
	for _, n := range f.nodes {
		n.cut.Store(false)
		n.part.Store(0)
		n.frozen.Store(false)
	}
	if len(f.members) == 0 {
		f.join("last", f.node())
	}
	for range 50 * 20 { // a coordinator that has lost often waits up to 30 s
		f.settle(50 * time.Millisecond)
	}
	f.checkShares()
}

func (f *faults) node() *node { return f.nodes[fmt.Sprint("n", 1+f.r.IntN(3))] }

func (f *faults) join(name string, n *node) {
	f.members = append(f.members, namedMember{n.join(name), name})
}

func (f *faults) fault() {
	n := f.node()
	switch f.r.IntN(13) {
	case 0, 1:
		if len(f.members) < 10 {
			f.names++
			f.join(fmt.Sprint("m", f.names), n)
		}
	case 2: // a newer session of a member, on any gateway
		if len(f.members) > 0 {
			f.join(f.members[f.r.IntN(len(f.members))].name, n)
		}
	case 3:
		if len(f.members) > 0 {
			i := f.r.IntN(len(f.members))
			f.members[i].Close()
			f.members = append(f.members[:i], f.members[i+1:]...)
		}
	case 4:
		n.cut.Store(true)
	case 5, 6:
		n.cut.Store(false)
		n.part.Store(0)
		n.frozen.Store(false)
	case 7:
		n.frozen.Store(true)
	case 8:
		f.own(n.name)
	case 9, 10: // the rings of two nodes differ for a while
		f.node().owner.Store(&n.name)
	case 11: // a node that sees no other
		f.part(int64(1+f.r.IntN(3)), n.name)
	case 12: // two nodes that see each other only
		if other := f.node(); other != n {
			f.part(int64(1+f.r.IntN(3)), n.name, other.name)
		}
	}
}

// settle lets time pass, as gateways do: it ends replaced sessions and releases what is
// revoked, most of the time. Then it checks who may be sent what.
func (f *faults) settle(d time.Duration) {
	f.Helper()
	wait(d)
	sent := map[string]string{}
	for _, m := range f.members {
		for _, segment := range may(m) {
			if other := sent[segment]; other != "" && other != m.name {
				f.Fatalf("segment %s may be sent to %s and to %s", segment, other, m.name)
			}
			sent[segment] = m.name
		}
	}
	kept := f.members[:0]
	for _, m := range f.members {
		if m.Holdings().Replaced {
			m.Close()
			continue
		}
		if f.r.IntN(4) > 0 {
			releaseAll(m)
		}
		kept = append(kept, m)
	}
	f.members = kept
}

func (f *faults) checkShares() {
	f.Helper()
	held := map[string]bool{}
	least, most := 8, 0
	for _, m := range f.members {
		list := may(m)
		least, most = min(least, len(list)), max(most, len(list))
		for _, segment := range list {
			held[segment] = true
		}
	}
	if len(held) != 8 || most-least > 1 {
		f.Errorf("%d members hold %d of 8 segments, %d to %d each; %+v", len(f.members), len(held), least, most, f.group())
	}
}
