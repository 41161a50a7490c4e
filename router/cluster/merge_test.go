package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPartsMergeAfterPartition(t *testing.T) {
	t.Parallel()
	for _, length := range []time.Duration{15 * time.Second, 70 * time.Second} {
		t.Run(length.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				on := newNetwork(t)
				nodes := hosts(t, on, 5)
				all := []string{"n1", "n2", "n3", "n4", "n5"}
				awaitAll(t, nodes, all...)
				on.isolate([]string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}, []string{"10.0.0.4", "10.0.0.5"})
				awaitAll(t, nodes[:3], "n1", "n2", "n3")
				awaitAll(t, nodes[3:], "n4", "n5")
				time.Sleep(length) // of the bubble's clock
				on.isolate()
				began := time.Now()
				awaitAll(t, nodes, all...)
				if d := time.Since(began); d > 2*rejoinEvery {
					t.Errorf("the parts merged after %v", d)
				}
			})
		})
	}
}

// The seed through which all nodes joined may be gone permanently.
func TestPartsMergeWithoutSeeds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		on := newNetwork(t)
		nodes := hosts(t, on, 5)
		awaitAll(t, nodes, "n1", "n2", "n3", "n4", "n5")
		nodes[0].stop()
		nodes[1].stop()
		nodes = nodes[2:]
		awaitAll(t, nodes, "n3", "n4", "n5")
		on.isolate([]string{"10.0.0.3"}, []string{"10.0.0.4", "10.0.0.5"})
		awaitAll(t, nodes[:1], "n3")
		awaitAll(t, nodes[1:], "n4", "n5")
		time.Sleep(70 * time.Second) // of the bubble's clock: gossip has forgotten dead nodes
		on.isolate()
		awaitAll(t, nodes, "n3", "n4", "n5")
	})
}

func TestLiveNodeDeclaredDeadReturns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		on := newNetwork(t)
		nodes := hosts(t, on, 3)
		awaitAll(t, nodes, "n1", "n2", "n3")
		on.isolate([]string{"10.0.0.1", "10.0.0.2"}, []string{"10.0.0.3"})
		nodes[0].await(t, "n3's death", sees("n1", "n2"))
		on.isolate()
		awaitAll(t, nodes, "n1", "n2", "n3")
	})
}

func TestNodeRestartedElsewhereIsSeenImmediately(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		on := newNetwork(t)
		nodes := hosts(t, on, 3)
		awaitAll(t, nodes, "n1", "n2", "n3")
		nodes[2].Close() // dies, and no node has noticed yet
		cfg := member("n3", "10.0.0.1")
		cfg.Transport = on.listen("10.0.0.3:7947")
		cfg.Self.PeerAddr = ":9999"
		cfg.Self.Boot = nodes[2].self.Boot + 1 // the bubble's clock stands still
		began := time.Now()
		again := run(t, cfg)
		for _, n := range append(nodes[:2], again) {
			n.await(t, "n3 at its new address", func(v *View) bool {
				m, _ := v.Member("n3")
				return m.PeerAddr == "10.0.0.3:9999" && len(v.Members) == 3
			})
		}
		if d := time.Since(began); d > time.Second {
			t.Errorf("it was seen after %v", d)
		}
		// Nothing changes when gossip declares the older run dead.
		time.Sleep(5 * time.Second)
		awaitAll(t, append(nodes[:2], again), "n1", "n2", "n3")
	})
}

// memberlist drops an update that crosses with a refutation.
func TestLostUpdateIsSentAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		nodes := hosts(t, newNetwork(t), 2)
		awaitAll(t, nodes, "n1", "n2")
		nodes[1].change(func(m *Member) { m.State = Draining }) // without an announcement
		for _, n := range nodes {
			n.await(t, "n2 draining", func(v *View) bool {
				m, _ := v.Member("n2")
				return m.State == Draining
			})
		}
	})
}
