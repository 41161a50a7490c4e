package cluster

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// The test records the traffic of an encrypted cluster while a member is cut off,
// declared dead and found again, another restarts and another leaves. Then it
// replays the traffic to every node: forwards, and backwards when gossip has
// forgotten dead nodes. No view ever lacks a live member. Gossip messages have no
// dates, so a member that left long ago may appear until a probe of it fails.
func TestReplayedMessagesRemoveNoMember(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		on := newNetwork(t)
		heard := on.listenIn()
		start := func(i, at int) running {
			cfg := member(fmt.Sprintf("n%d", i), "10.0.0.1", "10.0.0.2")
			cfg.Transport = on.listen(fmt.Sprintf("10.0.0.%d:7946", at))
			cfg.Keys = [][]byte{testKey(1)}
			return run(t, cfg)
		}
		nodes := []running{start(1, 1), start(2, 2), start(3, 3), start(4, 4)}
		awaitAll(t, nodes, "n1", "n2", "n3", "n4")

		on.isolate([]string{"10.0.0.3"}, []string{"10.0.0.1", "10.0.0.2", "10.0.0.4"})
		awaitAll(t, []running{nodes[0], nodes[1], nodes[3]}, "n1", "n2", "n4")
		on.isolate()
		awaitAll(t, nodes, "n1", "n2", "n3", "n4")
		nodes[3].SetState(Draining) // as before each leave
		nodes[0].await(t, "n4 draining", func(v *View) bool {
			m, _ := v.Member("n4")
			return m.State == Draining
		})
		nodes[3].stop()
		nodes = nodes[:3]
		awaitAll(t, nodes, "n1", "n2", "n3")
		nodes[1].Close() // it dies and restarts elsewhere
		nodes[1] = start(2, 5)
		for _, n := range nodes {
			n.await(t, "n2 at its new address", func(v *View) bool {
				m, _ := v.Member("n2")
				return m.Boot == nodes[1].cfg.Self.Boot && len(v.Members) == 3
			})
		}
		time.Sleep(2 * time.Second) // until all messages have arrived
		on.tap.Store(nil)
		if packets, streams := heard.all(); len(packets) < 100 || len(streams) < 5 {
			t.Fatalf("recorded %d packets and %d connections: too few for a test", len(packets), len(streams))
		}

		before := nodes[0].View()
		seen := watchViews(t, nodes)
		heard.replay(t, on, nodes, false)
		time.Sleep(70 * time.Second) // gossip forgets dead nodes after a minute
		heard.replay(t, on, nodes, true)
		awaitAll(t, nodes, "n1", "n2", "n3")
		for _, v := range seen() {
			for _, m := range before.Members {
				if got, _ := v.Member(m.ID); got != m {
					t.Errorf("a node sees %+v instead of %+v", got, m)
				}
			}
		}
	})
}

// replay sends the recorded traffic to each of some nodes.
func (h *tap) replay(t *testing.T, on *network, nodes []running, backwards bool) {
	t.Helper()
	stranger := on.listen("10.0.0.66:7946")
	defer stranger.Shutdown()
	packets, streams := h.all()
	if backwards {
		slices.Reverse(packets)
		slices.Reverse(streams)
	}
	for _, p := range packets {
		for _, n := range nodes {
			if _, err := stranger.WriteTo(p, n.Addr()); err != nil {
				t.Error(err)
			}
		}
		time.Sleep(2 * gather) // time for an effect on the views
	}
	for _, n := range nodes {
		for _, said := range streams {
			conn, err := stranger.DialTimeout(n.Addr(), time.Second)
			if err != nil {
				t.Fatal(err)
			}
			var reading sync.WaitGroup
			reading.Go(func() { _, _ = io.Copy(io.Discard, conn) })
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			_, _ = conn.Write(said) // the node may close the connection
			reading.Wait()
			conn.Close()
		}
	}
}
