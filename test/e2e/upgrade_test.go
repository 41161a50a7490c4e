package e2e

import (
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestRollingUpgrade upgrades the nodes of a cluster under load, one by one, to a
// build that stands for the next release, and then downgrades one of them. The next
// release speaks one more version of the protocol between nodes, and sends unknown
// fields in gossip and on links. No client gets an error.
func TestRollingUpgrade(t *testing.T) {
	if !long {
		t.Skip("runs with GANGLION_FAULTS=long, since it builds a second binary; router/link, router/cluster and router/feed test the versions too")
	}
	next, err := harness.Build(t.TempDir(), true, "ganglionnext")
	if err != nil {
		t.Fatal(err)
	}
	c := startTrio(t, database(t), "--suspect", "5s") // on a busy machine a short silence is no failure
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
