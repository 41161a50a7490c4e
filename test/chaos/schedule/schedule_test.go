package schedule

import (
	"reflect"
	"slices"
	"testing"
)

var cluster = Cluster{Owners: []string{"n1", "n2", "n3"}, Gateways: []string{"g1", "g2"}, Network: true}

// TestSeedDeterminesSchedule compares schedules of equal and of different seeds.
func TestSeedDeterminesSchedule(t *testing.T) {
	t.Parallel()
	deal := func(seed uint64) (all []Fault) {
		for s := New(seed, cluster); len(all) < 500; {
			all = append(all, s.Next())
		}
		return all
	}
	if !reflect.DeepEqual(deal(1), deal(1)) {
		t.Error("one seed gave two schedules")
	}
	if reflect.DeepEqual(deal(1), deal(2)) {
		t.Error("two seeds gave one schedule")
	}
}

// TestFaultsOfMembersComeFromTheSeed compares the faults of members of two schedules,
// one of which has dealt other faults before.
func TestFaultsOfMembersComeFromTheSeed(t *testing.T) {
	t.Parallel()
	c := cluster
	c.Members = []string{"m1", "m2"}
	one, other := New(1, c), New(1, c)
	other.Next()
	a, b, seen := one.MemberFaults(), other.MemberFaults(), map[Kind]bool{}
	for range 100 {
		f := a()
		if g := b(); !reflect.DeepEqual(f, g) {
			t.Fatalf("%v and %v", f, g)
		}
		if seen[f.Kind] = true; !slices.Contains(c.Members, f.Node) || f.For <= 0 {
			t.Errorf("%v hits no member", f)
		}
	}
	if len(seen) != 3 {
		t.Errorf("only %v were scheduled", seen)
	}
}

// TestEveryKindOfFaultIsScheduled finds all kinds in the first deck, with possible
// targets only.
func TestEveryKindOfFaultIsScheduled(t *testing.T) {
	t.Parallel()
	for _, c := range []Cluster{cluster, {Owners: cluster.Owners}} {
		s := New(7, c)
		seen := map[Kind]int{}
		for range len(s.full()) {
			seen[s.Next().Kind]++
		}
		if len(seen) != len(s.Kinds()) {
			t.Errorf("%+v: of %v only %v were scheduled", c, s.Kinds(), seen)
		}
	}
	s := New(8, cluster)
	for range 2000 {
		f := s.Next()
		all := append([]Fault{f}, f.Together...)
		nodes := map[string]bool{}
		for _, g := range all {
			owner, gateway := slices.Contains(cluster.Owners, g.Node), slices.Contains(cluster.Gateways, g.Node)
			switch g.Kind {
			case Rolling, KillAll, RestartStore, Several:
				if g.Node != "" {
					t.Errorf("%v hits a node", g)
				}
			case KillGateway, FreezeGateway:
				if !gateway {
					t.Errorf("%v hits no gateway", g)
				}
			case StepClock:
				if !owner && !gateway {
					t.Errorf("%v hits no node", g)
				}
			default:
				if !owner {
					t.Errorf("%v hits no owner", g)
				}
			}
			if g.Node != "" && nodes[g.Node] {
				t.Errorf("%v hits %s twice", f, g.Node)
			}
			nodes[g.Node] = true
			if g.Peer == g.Node && g.Peer != "" {
				t.Errorf("%v cuts a node off from itself", g)
			}
		}
		if f.Kind == Several && len(f.Together) < 2 {
			t.Errorf("%v is not several", f)
		}
	}
}
