package e2e

import (
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestRollingUpgrade replaces the nodes of a cluster under load, one by one,
// with those of a build that stands for the next version: it speaks a further
// version of links, and says more in its gossip and on its links than this one
// knows. Then one goes back. No client gets an error.
func TestRollingUpgrade(t *testing.T) {
	if !long {
		t.Skip("builds a second binary: GANGLION_FAULTS=long; what nodes agree on is tested in router/link, what they ignore in router/cluster and router/feed")
	}
	next, err := harness.Build(t.TempDir(), true, "ganglionnext")
	if err != nil {
		t.Fatal(err)
	}
	c := startTrio(t, database(t))
	upgrade := func(i int, binary string) func() {
		return func() {
			c.leave(i)
			c.members[i].binary = binary
			c.start(i)
			c.settled()
		}
	}
	c.run(workload{commands: 2_000, counters: 200, sessions: 24, followers: 18, noErrors: true, steps: []func(){
		upgrade(0, next), upgrade(1, next), upgrade(2, next), upgrade(1, ""),
	}})
}
