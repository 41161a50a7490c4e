package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/test/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// running is a Cluster whose Run was called.
type running struct {
	*Cluster
	stop func() // ends Run and waits for it
}

// run starts a node and stops it at the end of the test.
func run(t *testing.T, cfg Config) running {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run of %s: %v", cfg.ID, err)
		}
	})
	t.Cleanup(stop)
	return running{c, stop}
}

// member returns a ready domain node.
func member(id string, join ...string) Config {
	return Config{
		ID:       id,
		Cluster:  "test",
		BindAddr: "127.0.0.1",
		Join:     join,
		Self:     Member{Domain: true, State: Ready, PeerAddr: "127.0.0.1:9080"},
	}
}

// await waits until a node's view meets a condition, and returns the view.
func (c *Cluster) await(t *testing.T, what string, ok func(*View) bool) *View {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var last *View
	for last = range c.Watch(ctx) {
		if ok(last) {
			return last
		}
	}
	t.Fatalf("%s never saw %s; its last view is %+v", c.cfg.ID, what, last.Members)
	return nil
}

// sees is the condition that a view has exactly these members, in order.
func sees(ids ...string) func(*View) bool {
	return func(v *View) bool { return slices.Equal(idsOf(v), ids) }
}

func idsOf(v *View) []string {
	var ids []string
	for _, m := range v.Members {
		ids = append(ids, m.ID)
	}
	return ids
}

// awaitAll waits until all nodes see exactly these members.
func awaitAll(t *testing.T, nodes []running, ids ...string) {
	t.Helper()
	for _, n := range nodes {
		n.await(t, strings.Join(ids, " "), sees(ids...))
	}
}

// hosts starts nodes n1, n2, … in a synctest bubble, at 10.0.0.1:7946,
// 10.0.0.2:7946, … The first two are seeds.
func hosts(t *testing.T, on *network, count int) []running {
	t.Helper()
	var nodes []running
	for i := range count {
		nodes = append(nodes, host(t, on, i+1, "10.0.0.1", "10.0.0.2"))
	}
	return nodes
}

func host(t *testing.T, on *network, i int, join ...string) running {
	t.Helper()
	cfg := member(fmt.Sprintf("n%d", i), join...)
	cfg.Transport = on.listen(fmt.Sprintf("10.0.0.%d:7946", i))
	cfg.Self.PeerAddr = ":9080"
	return run(t, cfg)
}

func TestViewsAreSortedAndTheSameOnAllNodes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		nodes := hosts(t, newNetwork(t), 5)
		awaitAll(t, nodes, "n1", "n2", "n3", "n4", "n5")
		want := nodes[0].View()
		for _, n := range nodes {
			if v := n.View(); !v.equal(want) {
				t.Errorf("%s sees %+v, n1 sees %+v", n.cfg.ID, v.Members, want.Members)
			}
		}
		if m, ok := want.Member("n3"); !ok || m.PeerAddr != "10.0.0.3:9080" || !m.Domain || m.State != Ready {
			t.Errorf("n3 is %+v", m)
		}
		if _, ok := want.Member("n"); ok {
			t.Error("the view has a member n")
		}
		if got := want.Owners(); !slices.Equal(got, []string{"n1", "n2", "n3", "n4", "n5"}) {
			t.Errorf("owners: %v", got)
		}
	})
}

// A node that gets no gossip packets learns of a change when it exchanges its
// whole state with another node.
func TestChangeReachesNodesThatGetNoPackets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		on := newNetwork(t)
		nodes := hosts(t, on, 5)
		awaitAll(t, nodes, "n1", "n2", "n3", "n4", "n5")
		on.deafen("10.0.0.5")
		for ring := range uint64(5) {
			began := time.Now()
			nodes[0].SetRing(ring + 1)
			nodes[4].await(t, "the ring of n1", func(v *View) bool {
				m, ok := v.Member("n1")
				return ok && m.Ring == ring+1
			})
			if took := time.Since(began); took > 10*time.Second { // of the bubble's clock: two or three exchanges
				t.Errorf("n5 learned of the ring after %v", took)
			}
		}
	})
}

// When a whole cluster stops, no member stays that must learn of it. So no node
// waits, and none logs that a leave was not confirmed.
func TestNodesLeavingTogetherDoNotWaitForEachOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var said logs
		var nodes []running
		on := newNetwork(t)
		for i := range 3 {
			cfg := member(fmt.Sprint("n", i+1), "10.0.0.1", "10.0.0.2")
			cfg.Transport = on.listen(fmt.Sprintf("10.0.0.%d:7946", i+1))
			cfg.Self.PeerAddr, cfg.Logger = ":9080", said.logger(slog.LevelInfo)
			nodes = append(nodes, run(t, cfg))
		}
		awaitAll(t, nodes, "n1", "n2", "n3")
		for _, n := range nodes {
			n.SetState(Draining)
		}
		for _, n := range nodes {
			n.await(t, "all drain", func(v *View) bool { return len(v.Owners()) == 0 })
		}
		began := time.Now()
		var stopping sync.WaitGroup
		for _, n := range nodes {
			stopping.Go(n.stop)
		}
		stopping.Wait()
		if d := time.Since(began); d > leaveWait/2 { // the bubble's clock
			t.Errorf("the nodes took %v to leave", d)
		}
		if text := said.String(); strings.Contains(text, "left without confirmation") {
			t.Errorf("the log says\n%s", text)
		}
	})
}

func TestAllNodesSeeALeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		nodes := hosts(t, newNetwork(t), 5)
		awaitAll(t, nodes, "n1", "n2", "n3", "n4", "n5")
		began := time.Now()
		nodes[0].stop() // a seed
		awaitAll(t, nodes[1:], "n2", "n3", "n4", "n5")
		if d := time.Since(began); d > time.Second { // the bubble's clock
			t.Errorf("the leave took %v", d)
		}
	})
}

func TestAllNodesSeeADeath(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		nodes := hosts(t, newNetwork(t), 5)
		awaitAll(t, nodes, "n1", "n2", "n3", "n4", "n5")
		began := time.Now()
		nodes[4].Close()
		awaitAll(t, nodes[:4], "n1", "n2", "n3", "n4")
		if d := time.Since(began); d > 5*time.Second { // the bubble's clock
			t.Errorf("the death was seen after %v", d)
		}
	})
}

func TestMetadataReachesAllNodes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		nodes := hosts(t, newNetwork(t), 3)
		awaitAll(t, nodes, "n1", "n2", "n3")
		nodes[1].SetRing(42)
		nodes[1].SetState(Draining)
		for _, n := range nodes {
			v := n.await(t, "n2 draining on ring 42", func(v *View) bool {
				m, _ := v.Member("n2")
				return m.State == Draining && m.Ring == 42
			})
			if got := v.Owners(); !slices.Equal(got, []string{"n1", "n3"}) {
				t.Errorf("owners while n2 drains: %v", got)
			}
		}
	})
}

func TestJoinsThoughAllSeedsWereDownAtStart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		on := newNetwork(t)
		late := host(t, on, 3, "10.0.0.1", "10.0.0.2")
		<-late.Joined() // closed although no seed answered
		awaitAll(t, []running{late}, "n3")
		time.Sleep(10 * time.Minute) // of the bubble's clock
		nodes := []running{late, host(t, on, 1, "10.0.0.1", "10.0.0.2")}
		awaitAll(t, nodes, "n1", "n3")
	})
}

// The seeds start a moment later, and do not look for the node themselves.
func TestLoneNodeTriesItsSeedsAgainSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		on := newNetwork(t)
		early := host(t, on, 3, "10.0.0.1")
		<-early.Joined()
		time.Sleep(time.Second) // of the bubble's clock
		began := time.Now()
		awaitAll(t, []running{early, host(t, on, 1)}, "n1", "n3")
		if d := time.Since(began); d > 600*time.Millisecond {
			t.Errorf("a node that was alone for a second joined after %v more", d)
		}
	})
}

func TestJoinedMeansThatTheFirstRoundIsInTheView(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		on := newNetwork(t)
		began := time.Now()
		first := host(t, on, 1) // no seeds
		<-first.Joined()
		if d := time.Since(began); d != 0 {
			t.Errorf("without seeds Joined took %v", d)
		}
		second := host(t, on, 2, "10.0.0.1")
		<-second.Joined()
		if got := idsOf(second.View()); !slices.Equal(got, []string{"n1", "n2"}) {
			t.Errorf("when joined, the view has %v", got)
		}
	})
}

func TestJoinedDoesNotWaitForSilentSeeds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		on := newNetwork(t)
		on.isolate([]string{"10.0.0.1"}, []string{"10.0.0.2"})
		host(t, on, 2)
		cfg := member("n1", "10.0.0.2", "seed.example")
		cfg.Transport = on.listen("10.0.0.1:7946")
		cfg.lookup = func(ctx context.Context, _ string) ([]netip.Addr, error) {
			<-ctx.Done() // no answer
			return nil, ctx.Err()
		}
		began := time.Now()
		n := run(t, cfg)
		<-n.Joined()
		if d := time.Since(began); d > joinWait {
			t.Errorf("Joined took %v", d)
		}
	})
}

func TestTwoNodesWithOneIDAreReportedOnBoth(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		on := newNetwork(t)
		var logs [2]logs
		var nodes []running
		for i := range 2 {
			cfg := member("n1", "10.0.0.1")
			cfg.Transport = on.listen(fmt.Sprintf("10.0.0.%d:7946", i+1))
			cfg.Self.PeerAddr = fmt.Sprintf(":%d", 9001+i)
			cfg.Self.Boot = uint64(i + 1)
			cfg.Logger = slog.New(slog.NewTextHandler(&logs[i], nil))
			nodes = append(nodes, run(t, cfg))
		}
		for _, n := range nodes {
			n.await(t, "the newer one", func(v *View) bool {
				m, _ := v.Member("n1")
				return m.PeerAddr == "10.0.0.2:9002" && len(v.Members) == 1
			})
		}
		time.Sleep(2 * rivalAfter)
		for i := range logs {
			said := logs[i].String()
			if n := strings.Count(said, "level=ERROR msg=\"two nodes have the same name"); n != 1 {
				t.Errorf("node %d logged it %d times:\n%s", i, n, said)
			}
			// Each names the other's address and start time.
			other := fmt.Sprintf("other_address=10.0.0.%d:7946 other_boot=1970-01-01T00:00:00.00000000%dZ", 2-i, 2-i)
			if !strings.Contains(said, other) {
				t.Errorf("node %d does not log %s:\n%s", i, other, said)
			}
		}
		nodes[1].stop()
		nodes[0].await(t, "itself again", func(v *View) bool {
			m, _ := v.Member("n1")
			return m.PeerAddr == "10.0.0.1:9001"
		})
	})
}

func TestSeedNamesAreResolvedAgainToAllAddresses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		on := newNetwork(t)
		var mu sync.Mutex
		ips := []netip.Addr{netip.MustParseAddr("10.0.0.99")}
		cfg := member("n1", "seeds.example")
		cfg.Transport = on.listen("10.0.0.1:7946")
		cfg.lookup = func(_ context.Context, host string) ([]netip.Addr, error) {
			mu.Lock()
			defer mu.Unlock()
			if host != "seeds.example" {
				return nil, errors.New("no such host")
			}
			return slices.Clone(ips), nil
		}
		n := run(t, cfg)
		<-n.Joined()
		host(t, on, 2)
		host(t, on, 3)
		mu.Lock()
		ips = []netip.Addr{netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("10.0.0.3")}
		mu.Unlock()
		awaitAll(t, []running{n}, "n1", "n2", "n3")
	})
}

func TestWatchGivesTheNewestViewAndEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		on := newNetwork(t)
		first := host(t, on, 1)
		ctx, cancel := context.WithCancel(t.Context())
		idle := first.Watch(ctx) // never read
		nodes := []running{first, host(t, on, 2, "10.0.0.1"), host(t, on, 3, "10.0.0.1")}
		awaitAll(t, nodes, "n1", "n2", "n3")
		if got := idsOf(<-idle); !slices.Equal(got, []string{"n1", "n2", "n3"}) {
			t.Errorf("the first received view has %v", got)
		}
		cancel()
		if v, ok := <-idle; ok {
			t.Errorf("after the end, received %v", v)
		}
	})
}

func TestRingSignaturesDoNotStorm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		nodes := hosts(t, newNetwork(t), 3)
		awaitAll(t, nodes, "n1", "n2", "n3")
		ctx, cancel := context.WithCancel(t.Context())
		announced := make(chan int)
		go func() {
			n := -1 // without the first view
			for range nodes[0].Watch(ctx) {
				n++
			}
			announced <- n
		}()
		const last = 1100
		for sig := range uint64(100) { // a new one every 10 ms
			nodes[0].SetRing(last - 99 + sig)
			time.Sleep(10 * time.Millisecond)
		}
		for _, n := range nodes {
			n.await(t, "the last signature", func(v *View) bool {
				m, _ := v.Member("n1")
				return m.Ring == last
			})
		}
		cancel()
		if n := <-announced; n < 1 || n > 7 {
			t.Errorf("100 signatures within a second were announced %d times", n)
		}
	})
}
