package placement

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/proto/group"
	"github.com/ganglion-es/ganglion/router/cluster"
)

const segments = 32

// world is what the nodes of a test see.
type world struct {
	members []cluster.Member
	broken  map[string]bool // members that no other node reaches
}

func newWorld(ids ...string) *world {
	w := &world{broken: map[string]bool{}}
	for _, id := range ids {
		w.add(id)
	}
	return w
}

func (w *world) add(id string) {
	w.members = append(w.members, cluster.Member{ID: id, Domain: true, State: cluster.Ready, Projections: cluster.ProjectionSet([]string{"v1"})})
}

func (w *world) member(id string) *cluster.Member {
	return &w.members[slices.IndexFunc(w.members, func(m cluster.Member) bool { return m.ID == id })]
}

func (w *world) node(id string) *Placement {
	return New(Config{
		Self: id, View: func() *cluster.View { return &cluster.View{Members: w.members} },
		Reachable: func(member string) bool { return !w.broken[member] },
	})
}

// owned returns the segments that a node works on.
func owned(p *Placement) (list []int) {
	for s := range segments {
		if p.Owns("listings", "v1", s) {
			list = append(list, s)
		}
	}
	return list
}

// wantDivided checks that each segment has one owner among the nodes.
func wantDivided(t *testing.T, nodes ...*Placement) {
	t.Helper()
	owners := map[int]int{}
	for _, p := range nodes {
		for _, s := range owned(p) {
			owners[s]++
		}
	}
	for s := range segments {
		if owners[s] != 1 {
			t.Errorf("segment %d has %d owners", s, owners[s])
		}
	}
}

func TestLoneNodeOwnsAllSegmentsImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if n := len(owned(newWorld("n1").node("n1"))); n != segments {
			t.Errorf("owns %d of %d segments", n, segments)
		}
	})
}

func TestNodesThatStartTogetherDivideSegmentsOnceRingIsStable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("n1", "n2", "n3")
		nodes := []*Placement{w.node("n1"), w.node("n2"), w.node("n3")}
		for _, p := range nodes {
			if got := owned(p); got != nil {
				t.Errorf("%s takes %v before the ring is stable", p.cfg.Self, got)
			}
		}
		time.Sleep(stable)
		wantDivided(t, nodes...)
	})
}

func TestJoiningNodeTakesSegmentsOnlyOnceRingIsStable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("n1", "n2")
		n1, n2 := w.node("n1"), w.node("n2")
		owned(n1)
		owned(n2)
		time.Sleep(stable)
		before := owned(n1)
		w.add("n3")
		n3 := w.node("n3")
		if got := owned(n3); got != nil || !slices.Equal(owned(n1), before) {
			t.Errorf("n3 takes %v immediately, n1 has %v of %v", got, owned(n1), before)
		}
		owned(n2)
		time.Sleep(stable - time.Millisecond)
		if !slices.Equal(owned(n1), before) {
			t.Error("a segment moves before the ring has been stable")
		}
		time.Sleep(time.Millisecond)
		wantDivided(t, n1, n2, n3)
		if len(owned(n3)) == 0 {
			t.Error("the joined node owns nothing")
		}
	})
}

func TestJoiningNodeTakesSegmentsImmediatelyWhenMemberLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("n1", "n2")
		n1, n2 := w.node("n1"), w.node("n2")
		owned(n1)
		owned(n2)
		time.Sleep(stable)
		w.add("n3")
		n3 := w.node("n3")
		owned(n1)
		if got := owned(n3); got != nil {
			t.Errorf("n3 takes %v immediately", got)
		}
		w.broken["n2"] = true
		mine := owned(n3)
		has := owned(n1)
		for s := range segments {
			if !slices.Contains(has, s) && !slices.Contains(mine, s) {
				t.Errorf("segment %d has no owner", s)
			}
		}
	})
}

// lose checks that the other nodes take the segments of n2 immediately when change
// has happened, and give them back later.
func lose(t *testing.T, change, back func(*world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("n1", "n2", "n3")
		nodes := []*Placement{w.node("n1"), w.node("n2"), w.node("n3")}
		for _, p := range nodes {
			owned(p)
		}
		time.Sleep(stable)
		wantDivided(t, nodes...)
		before := owned(nodes[1])
		change(w)
		wantDivided(t, nodes[0], nodes[2])
		back(w)
		wantDivided(t, nodes[0], nodes[2]) // not yet
		owned(nodes[1])
		time.Sleep(stable)
		wantDivided(t, nodes...)
		if after := owned(nodes[1]); !slices.Equal(before, after) {
			t.Errorf("n2 owned %v, and then %v", before, after)
		}
	})
}

func TestSegmentsMoveImmediatelyWhenTheirNodeFails(t *testing.T) {
	for name, failure := range map[string]func(w *world, failed bool){
		"its link breaks": func(w *world, failed bool) { w.broken["n2"] = failed },
		"it drains": func(w *world, failed bool) {
			w.member("n2").State = map[bool]cluster.State{true: cluster.Draining, false: cluster.Ready}[failed]
		},
		"its database does not answer": func(w *world, failed bool) {
			w.member("n2").Problem = map[bool]cluster.Problem{true: cluster.StoreRefuses}[failed]
		},
	} {
		t.Run(name, func(t *testing.T) {
			lose(t, func(w *world) { failure(w, true) }, func(w *world) { failure(w, false) })
		})
	}
}

func TestSegmentsStayWhileEveryNodeHasTheSameProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("n1", "n2", "n3")
		nodes := []*Placement{w.node("n1"), w.node("n2"), w.node("n3")}
		for _, p := range nodes {
			owned(p)
		}
		time.Sleep(stable)
		before := fmt.Sprint(owned(nodes[0]), owned(nodes[1]), owned(nodes[2]))
		for i := range w.members {
			w.members[i].Problem = cluster.StoreRefuses
		}
		if after := fmt.Sprint(owned(nodes[0]), owned(nodes[1]), owned(nodes[2])); after != before {
			t.Errorf("segments moved from %s to %s", before, after)
		}
	})
}

func TestOnlyMembersThatRunTheProjectionOwnIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("n1", "n2")
		w.member("n1").Projections = cluster.ProjectionSet([]string{"v0"})
		n1, n2 := w.node("n1"), w.node("n2")
		if n := len(owned(n2)); n != segments {
			t.Errorf("the only node with the code owns %d of %d segments", n, segments)
		}
		if got := owned(n1); got != nil {
			t.Errorf("a node without the code owns %v", got)
		}
	})
}

func TestNodeIsAloneWhileItReachesNoReadyDomainNode(t *testing.T) {
	t.Parallel()
	w := newWorld("n1", "n2", "n3")
	n1 := w.node("n1")
	w.member("n3").Domain = false
	if n1.Alone() {
		t.Error("n1 is alone, and reaches n2")
	}
	w.broken["n2"] = true
	if !n1.Alone() {
		t.Error("n1 is not alone, and reaches only a node without the domain role")
	}
	w.broken["n2"] = false
	w.member("n2").State = cluster.Draining
	if !n1.Alone() {
		t.Error("n1 is not alone, and the only other domain node drains")
	}
}

func TestMembersAgreeOnCoordinatorsThatKnowTheGroup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld("n1", "n2", "n3")
		for i := range w.members {
			w.members[i].Projections = cluster.ProjectionSet([]string{group.Fingerprint("mailer"), group.Fingerprint("audit")})
		}
		w.add("n4") // does not know the groups
		nodes := []*Placement{w.node("n1"), w.node("n2"), w.node("n3"), w.node("n4")}
		agree := func() string {
			t.Helper()
			owner := nodes[0].Coordinator("mailer")
			for _, p := range nodes {
				if got := p.Coordinator("mailer"); got != owner || got == "" || got == "n4" {
					t.Errorf("coordinators %q and %q", owner, got)
				}
				if p.Coordinates("mailer") != (p.cfg.Self == owner) {
					t.Errorf("%s is not sure whether it coordinates", p.cfg.Self)
				}
			}
			return owner
		}
		nodes[0].Coordinator("mailer")
		for _, p := range nodes {
			p.Coordinator("mailer")
		}
		time.Sleep(stable)
		first := agree()
		w.member(first).State = cluster.Draining
		if second := agree(); second == first {
			t.Errorf("%s drains and still coordinates", first)
		}
		if got := nodes[0].Coordinator("none"); got != "" {
			t.Errorf("%q coordinates a group that no member knows", got)
		}
	})
}
