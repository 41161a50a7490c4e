package group_test

import (
	"fmt"
	"testing"
	"time"

	protogroup "github.com/ganglion-es/ganglion/proto/group"
)

// These tests look at members while the rings of nodes name different coordinators,
// because they do not reach each other or because they notice a change one after another.

// part makes nodes a part of the cluster, whose rings name its first node.
func (w *world) part(number int64, names ...string) {
	for _, name := range names {
		w.nodes[name].part.Store(number)
		w.nodes[name].owner.Store(&names[0])
	}
}

// through lets time pass, in which members release what is revoked. At each moment each
// of the members may get events of at least a number of segments.
func (w *world) through(what string, d time.Duration, least int, members ...protogroup.Membership) {
	w.Helper()
	for passed := time.Duration(0); passed < d; passed += 50 * time.Millisecond {
		wait(50 * time.Millisecond)
		for i, m := range members {
			releaseAll(m)
			if got := may(m); len(got) < least {
				w.Fatalf("%s, after %v: member %d may get events of the segments %q, want at least %d", what, passed, i+1, got, least)
			}
		}
	}
}

func TestCutOffNodeTakesNothingFromOthers(t *testing.T) {
	for _, first := range []string{"n1", "n3"} {
		t.Run("coordinator "+first, func(t *testing.T) {
			run(t, 3, 6, func(w *world) {
				a, b, c := w.nodes["n1"].join("a"), w.nodes["n2"].join("b"), w.nodes["n3"].join("c")
				w.own(first)
				wait(5 * time.Second)
				w.count("before", 2, a, b, c)
				w.nodes["n3"].part.Store(1)
				w.through("before the rings change", 500*time.Millisecond, 2, a, b)
				w.part(1, "n3")
				w.part(0, "n1", "n2")
				w.through("while it is cut off", 7*time.Second, 2, a, b)
				w.through("when its segments have moved", 40*time.Second, 3, a, b)
				w.count("cut off", 0, c)
				w.nodes["n3"].part.Store(0)
				w.through("before it is in the rings", 2*time.Second, 2, a, b)
				w.own("n3")
				w.through("when it is in the rings", 5*time.Second, 2, a, b)
				if got := w.group().Coordinator; got != "n3" {
					t.Errorf("%s coordinates the group, which all rings give to n3", got)
				}
				w.count("in the end", 2, a, b, c)
			})
		})
	}
}

func TestCutOffNodeTakesNothingFromMembersOfOneGateway(t *testing.T) {
	for _, isUsed := range []bool{false, true} {
		t.Run(fmt.Sprint("members at the cut off node: ", isUsed), func(t *testing.T) {
			run(t, 3, 6, func(w *world) {
				a, least := w.nodes["n1"].join("a"), 6
				if isUsed {
					w.nodes["n3"].join("c")
					least = 3
				}
				wait(5 * time.Second)
				w.part(1, "n3")
				w.through("while it is cut off", 7*time.Second, least, a)
				w.through("when its segments have moved", 40*time.Second, 6, a)
			})
		})
	}
}

func TestNewCoordinatorKeepsTheGroupThatCutOffNodeTakes(t *testing.T) {
	run(t, 3, 6, func(w *world) {
		a, b := w.nodes["n1"].join("a"), w.nodes["n2"].join("b")
		wait(5 * time.Second)
		w.own("n2")
		wait(600 * time.Millisecond)
		w.part(1, "n3")
		w.through("while another node is cut off", 20*time.Second, 3, a, b)
	})
}

func TestNodeThatWasAloneLeavesTheGroupToTheOthers(t *testing.T) {
	run(t, 3, 6, func(w *world) {
		a, b := w.nodes["n1"].join("a"), w.nodes["n2"].join("b")
		w.nodes["n3"].join("c")
		wait(5 * time.Second)
		w.part(1, "n3")
		w.through("while another node is cut off", 1200*time.Millisecond, 2, a, b)
		w.nodes["n3"].part.Store(0)
		w.through("before it is in the rings", 1500*time.Millisecond, 2, a, b)
		if s := w.nodes["n1"].coordinator.Stats(); !s.Leads || s.Lost != 1 {
			t.Errorf("the coordinator: %+v", s)
		}
	})
}

func TestGatewaysWithoutSessionsAreNotExpectedToAsk(t *testing.T) {
	run(t, 4, 6, func(w *world) {
		a, b, d := w.nodes["n1"].join("a"), w.nodes["n2"].join("b"), w.nodes["n4"].join("d")
		wait(5 * time.Second)
		b.Close()
		d.Close()
		wait(300 * time.Millisecond)
		w.part(1, "n3")
		w.through("while another node is cut off", 10*time.Second, 6, a)
	})
}

func TestOnePartKeepsTheGroupInEvenlySplitCluster(t *testing.T) {
	run(t, 4, 6, func(w *world) {
		var members []protogroup.Membership
		for i := range 4 {
			members = append(members, w.nodes[fmt.Sprint("n", i+1)].join(fmt.Sprint("m", i+1)))
		}
		wait(5 * time.Second)
		w.part(0, "n1", "n2")
		w.part(1, "n3", "n4")
		wait(40 * time.Second)
		part := members[:2]
		if len(may(part[0])) == 0 {
			part = members[2:]
		}
		w.through("40 s after the split", 40*time.Second, 3, part...)
	})
}

func TestMostGatewaysKeepTheirCoordinatorInSplitCluster(t *testing.T) {
	run(t, 5, 6, func(w *world) {
		var members []protogroup.Membership
		for i := range 5 {
			members = append(members, w.nodes[fmt.Sprint("n", i+1)].join(fmt.Sprint("m", i+1)))
		}
		wait(5 * time.Second)
		w.part(0, "n1", "n2")
		w.part(1, "n3", "n4", "n5")
		wait(6 * time.Second)
		w.through("6 s after the split", 20*time.Second, 2, members[2:]...)
	})
}

func TestNodesThatAreNotAloneTakeTheGroupBackForGood(t *testing.T) {
	run(t, 3, 6, func(w *world) {
		a, b, c := w.nodes["n1"].join("a"), w.nodes["n2"].join("b"), w.nodes["n3"].join("c")
		wait(5 * time.Second)
		w.nodes["n1"].frozen.Store(true)
		w.part(1, "n3")
		wait(5 * time.Second)
		w.count("alone, while the others do not coordinate", 6, c)
		w.nodes["n1"].frozen.Store(false)
		wait(10 * time.Second)
		w.through("10 s after they do", 20*time.Second, 3, a, b)
	})
}

func TestNodeThatOwnsTheGroupAgainDoesNotWait(t *testing.T) {
	run(t, 2, 1, func(w *world) {
		n1 := w.nodes["n1"]
		wait(time.Second)
		for range 3 {
			if _, err := w.log.Groups().Take(w.ctx, "g", "n3"); err != nil {
				t.Fatal(err)
			}
			wait(5 * time.Second)
		}
		if n1.coordinator.Stats().Leads {
			t.Fatal("a node that was replaced for the third time waits less than 5 s")
		}
		w.own("n2")
		wait(500 * time.Millisecond)
		w.own("n1")
		wait(500 * time.Millisecond)
		if !n1.coordinator.Stats().Leads {
			t.Error("the owner waits since it was replaced before another node was the owner")
		}
	})
}

func TestRingsThatChangeOneAfterAnotherMoveTheCoordinatorOnce(t *testing.T) {
	for phase := range 5 { // of the reads of the coordinator
		t.Run(fmt.Sprint("phase ", phase), func(t *testing.T) {
			run(t, 3, 6, func(w *world) {
				a, b, c := w.nodes["n1"].join("a"), w.nodes["n2"].join("b"), w.nodes["n3"].join("c")
				wait(5*time.Second + time.Duration(phase)*100*time.Millisecond)
				second := "n2"
				w.nodes["n2"].owner.Store(&second)
				w.through("while the rings differ", 450*time.Millisecond, 2, a, b, c)
				w.own("n2")
				w.through("when they agree", 5*time.Second, 2, a, b, c)
				if s := w.nodes["n2"].coordinator.Stats(); !s.Leads || s.Lost > 0 {
					t.Errorf("the next coordinator: %+v", s)
				}
			})
		})
	}
}

func TestCoordinatorThatWasFrozenLeavesTheGroupToTheNext(t *testing.T) {
	run(t, 2, 6, func(w *world) {
		n1 := w.nodes["n1"]
		a, b := n1.join("a"), w.nodes["n2"].join("b")
		wait(5 * time.Second)
		n1.frozen.Store(true)
		w.part(1, "n1")
		w.part(0, "n2")
		wait(5 * time.Second)
		w.count("next coordinator", 6, b)
		n1.frozen.Store(false)
		n1.part.Store(0)
		w.through("before the rings agree", 2*time.Second, 6, b)
		if s := w.nodes["n2"].coordinator.Stats(); !s.Leads || s.Lost > 0 {
			t.Errorf("the next coordinator: %+v", s)
		}
		w.own("n1")
		w.through("when they agree", 10*time.Second, 3, b)
		w.count("in the end", 3, a, b)
	})
}
