package e2e

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/router/ring"
	"github.com/ganglion-es/ganglion/test/harness"
)

// cluster has nodes n1, n2, … on one PostgreSQL.
type cluster struct {
	t       *testing.T
	store   string
	extra   []string
	seeds   []string
	members []member
}

type member struct {
	*harness.Node
	roles  string // "" means all; "processors" means none, with --processors-only
	binary string // "" means that of all tests
	listen string // address for clients; fixed after the first start
}

// startTrio starts three nodes with all roles and with extra flags, in which {node}
// stands for the name of the node.
func startTrio(t *testing.T, store string, extra ...string) *cluster {
	return startCluster(t, store, []string{"", "", ""}, extra...)
}

// startCluster starts a node for each set of roles.
func startCluster(t *testing.T, store string, roles []string, extra ...string) *cluster {
	c := &cluster{t: t, store: store, extra: extra}
	for _, r := range roles {
		c.add(r)
	}
	c.startAll()
	return c
}

// startAll starts the first node, then the others together, and waits until all agree.
// The first is running before the others join it, so each finds it in its first attempt.
func (c *cluster) startAll() {
	c.t.Helper()
	c.start(0)
	for i := 1; i < len(c.members); i++ {
		c.spawn(i)
	}
	for i := 1; i < len(c.members); i++ {
		c.awaitReady(i)
	}
	c.settled()
}

// add adds a node without starting it, and returns its index.
func (c *cluster) add(roles string) int {
	c.members = append(c.members, member{roles: roles, listen: harness.FreeAddress(c.t)})
	c.seeds = append(c.seeds, harness.FreeAddress(c.t))
	return len(c.members) - 1
}

// start starts node i and waits until it is ready. A restarted node keeps its
// addresses.
func (c *cluster) start(i int) {
	c.t.Helper()
	c.spawn(i)
	c.awaitReady(i)
}

func (c *cluster) spawn(i int) {
	c.t.Helper()
	m := &c.members[i]
	name := "n" + strconv.Itoa(i+1)
	args := []string{
		"node", "--name", name, "--store", c.store,
		"--listen", m.listen, "--peer-listen", "127.0.0.1:0", "--gossip-listen", c.seeds[i],
		"--join", strings.Join(c.seeds, ","),
	}
	switch m.roles {
	case "":
	case "processors":
		args = append(args, "--processors-only")
	default:
		args = append(args, "--roles", m.roles)
	}
	for _, arg := range c.extra {
		args = append(args, strings.ReplaceAll(arg, "{node}", name))
	}
	m.Node = harness.Spawn(c.t, cmp.Or(m.binary, binary), args...)
}

func (c *cluster) awaitReady(i int) {
	c.t.Helper()
	m := &c.members[i]
	m.AwaitReady(1)
	m.listen = strings.TrimPrefix(m.URLs[0], "http://")
}

// leave stops node i with SIGTERM and checks its exit status.
func (c *cluster) leave(i int) {
	c.t.Helper()
	c.members[i].Signal(syscall.SIGTERM)
	if code := c.members[i].Wait(); code != 0 {
		c.t.Errorf("the drained n%d exits with status %d", i+1, code)
	}
}

// urls returns the URLs of the running nodes.
func (c *cluster) urls() []string {
	var urls []string
	for _, m := range c.members {
		if m.Node != nil && m.Running() {
			urls = append(urls, m.URLs[0])
		}
	}
	return urls
}

// wsURLs returns the URLs of all gateways, running or not.
func (c *cluster) wsURLs() []string {
	var urls []string
	for _, m := range c.members {
		if m.roles != "domain" && m.roles != "processors" {
			urls = append(urls, harness.WS(m.URLs[0]))
		}
	}
	return urls
}

// settled waits until all running nodes see each other as ready, with the same
// ring.
func (c *cluster) settled() {
	c.t.Helper()
	owners := 0
	for _, m := range c.members {
		if m.Node != nil && m.Running() && m.roles != "gateway" && m.roles != "processors" {
			owners++
		}
	}
	harness.Eventually(c.t, "the nodes agree on members and ring", func() error {
		for _, url := range c.urls() {
			s, err := harness.Status(url)
			if err != nil {
				return err
			}
			if s.Ring.Owners != owners {
				return fmt.Errorf("%s sees %d owners of %d", s.Node, s.Ring.Owners, owners)
			}
			for _, m := range s.Members {
				if m.Ring != s.Ring.Signature {
					return fmt.Errorf("%s has ring %s, but %s announces %s", s.Node, s.Ring.Signature, m.ID, m.Ring)
				}
			}
		}
		return nil
	})
}

// TestThreeNodes sends commands over three gateways while half of the followers
// move from gateway to gateway.
func TestThreeNodes(t *testing.T) {
	c := startTrio(t, database(t))
	c.run(workload{commands: load(10_048), counters: 500, sessions: 64, followers: load(40)})

	for _, url := range c.urls() {
		var s node.ClusterStatus
		harness.Eventually(t, url+" shows that each member owns about a third of the partitions", func() (err error) { // a busy machine may have lost one for a moment
			if s, err = harness.Status(url); err == nil && len(s.Members) != 3 {
				err = fmt.Errorf("it sees %d members", len(s.Members))
			}
			for _, m := range s.Members {
				if third := ring.Partitions / 3; m.Partitions < third*7/10 || m.Partitions > third*13/10 {
					err = fmt.Errorf("%s owns %d of %d", m.ID, m.Partitions, ring.Partitions)
				}
			}
			return err
		})
		if s.Commands.Local == 0 || s.Commands.Forwarded == 0 || s.Commands.ExecutedForOthers == 0 {
			t.Errorf("%s: %d local commands, %d forwarded, %d executed for others: want some of each",
				s.Node, s.Commands.Local, s.Commands.Forwarded, s.Commands.ExecutedForOthers)
		}
	}
}

// TestKilledNode kills a node with kill -9 under load and restarts it.
//
// protocol: rule Exactly once
func TestKilledNode(t *testing.T) {
	c := startTrio(t, database(t))
	var killed, restarted sync.Once
	c.run(workload{commands: load(10_048), counters: 500, sessions: 64, followers: load(40), during: func(done float64) {
		if done > 0.3 {
			killed.Do(func() { c.members[1].Kill() })
		}
		if done > 0.6 {
			restarted.Do(func() { c.start(1) })
		}
	}})
	c.settled()
}

// TestFrozenNode freezes a node with SIGSTOP under load and resumes it later. By
// then other nodes have executed its pending commands, and it does not repeat them.
func TestFrozenNode(t *testing.T) {
	c := startTrio(t, database(t))
	var frozen, resumed sync.Once
	c.run(workload{commands: load(10_000), counters: 200, sessions: 64, followers: load(24), during: func(done float64) {
		if done > 0.3 {
			frozen.Do(func() { c.members[1].Signal(syscall.SIGSTOP) })
		}
		// The sessions of the frozen gateway, a third, are still waiting when the
		// others have finished.
		if done > 0.6 {
			resumed.Do(func() { c.members[1].Signal(syscall.SIGCONT) })
		}
	}})
	resumed.Do(func() { t.Error("the node was never resumed") })
}

// TestEveryEventArrivesWithoutPush disables pushed events: gateways read all
// events from the log.
func TestEveryEventArrivesWithoutPush(t *testing.T) {
	c := startTrio(t, database(t), "--tail-only")
	c.run(workload{commands: load(10_000), counters: 200, sessions: 32, followers: load(24)})
	for _, url := range c.urls() {
		s, err := harness.Status(url)
		if err != nil {
			t.Fatal(err)
		}
		if s.Feed.Pushed != 0 || s.Feed.Read == 0 {
			t.Errorf("%s: %d events were pushed and %d read from the log, want all from the log", s.Node, s.Feed.Pushed, s.Feed.Read)
		}
	}
}

// TestRollingRestart restarts one node after another with SIGTERM under load.
// Each node drains, and no client gets an error.
func TestRollingRestart(t *testing.T) {
	c := startTrio(t, database(t), "--suspect", "5s") // on a busy machine a short silence is no failure
	restart := func(i int) func() { return func() { c.leave(i); c.start(i); c.settled() } }
	c.run(workload{commands: load(6_000), counters: 200, sessions: 16, followers: load(24), noErrors: true, steps: []func(){restart(0), restart(1), restart(2)}})
}

// TestRollingRestartByRole adds two domain nodes together and removes them together.
// It restarts gateways without aggregates and a domain node without sessions. All
// that happens under load, and no client gets an error.
func TestRollingRestartByRole(t *testing.T) {
	c := startCluster(t, database(t), []string{"gateway", "gateway", "domain", "domain", "domain"}, "--suspect", "5s") // likewise
	fourth, fifth := c.add("domain"), c.add("domain")
	restart := func(i int) func() { return func() { c.leave(i); c.start(i); c.settled() } }
	c.run(workload{commands: 1_000, counters: 200, sessions: 16, followers: 6, noErrors: true, steps: []func(){
		func() { c.start(fourth); c.start(fifth); c.settled() },
		func() {
			c.members[fourth].Signal(syscall.SIGTERM)
			c.leave(fifth)
			if code := c.members[fourth].Wait(); code != 0 {
				t.Errorf("the drained n%d exits with status %d", fourth+1, code)
			}
			c.settled()
		},
		restart(0), restart(1), restart(2),
	}})
}
