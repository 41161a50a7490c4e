package cluster

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// These tests use real sockets on the loopback interface. The other tests need
// the bubble's clock, and so a network in memory.

func TestRealNodesComeAndGo(t *testing.T) {
	t.Parallel()
	key := bytes.Repeat([]byte{7}, keyBytes)
	config := func(i int, join ...string) Config {
		cfg := member(fmt.Sprintf("n%d", i), join...)
		cfg.Keys = [][]byte{key}
		return cfg
	}
	first := run(t, config(1))
	nodes := []running{first}
	for i := 2; i <= 4; i++ {
		nodes = append(nodes, run(t, config(i, first.Addr())))
	}
	awaitAll(t, nodes, "n1", "n2", "n3", "n4")

	nodes[3].stop()
	nodes = nodes[:3]
	awaitAll(t, nodes, "n1", "n2", "n3")

	// n3 dies and restarts immediately on another port.
	nodes[2].Close()
	cfg := config(3, first.Addr())
	cfg.Self.PeerAddr = "127.0.0.1:9999"
	nodes[2] = run(t, cfg)
	for _, n := range nodes {
		n.await(t, "n3 at its new address", func(v *View) bool {
			m, _ := v.Member("n3")
			return m.PeerAddr == "127.0.0.1:9999"
		})
	}

	// n2 dies and stays dead.
	nodes[1].Close()
	nodes = []running{nodes[0], nodes[2]}
	awaitAll(t, nodes, "n1", "n3")

	nodes[1].SetState(Draining)
	nodes[1].SetRing(99)
	nodes[0].await(t, "n3 draining", func(v *View) bool {
		m, _ := v.Member("n3")
		return m.State == Draining && m.Ring == 99
	})
}

func TestTakenPortIsReportedOnce(t *testing.T) {
	t.Parallel()
	first, err := New(member("n1"))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	cfg := member("n2")
	cfg.BindPort = int(netip.MustParseAddrPort(first.Addr()).Port())
	c, err := New(cfg)
	if err == nil {
		c.Close()
		t.Fatal("two nodes listen on one port")
	}
	if got := err.Error(); !strings.Contains(got, "the gossip address "+first.Addr()+" is in use") || strings.Contains(got, "\n") {
		t.Errorf("the error is %q", got)
	}
}

func TestNodesThatListenOnAllAddressesReachEachOther(t *testing.T) {
	t.Parallel()
	config := func(i int, join ...string) Config {
		cfg := member(fmt.Sprintf("n%d", i), join...)
		cfg.BindAddr = ""
		return cfg
	}
	if _, err := privateAddr(); err != nil {
		c, err := New(config(1))
		if err == nil {
			c.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "set the advertised address") {
			t.Errorf("without a private address: %v", err)
		}
	} else {
		first := run(t, config(1))
		awaitAll(t, []running{first, run(t, config(2, first.Addr()))}, "n1", "n2")
	}

	cfg := config(3)
	cfg.AdvertiseAddr = "127.0.0.1"
	first := run(t, cfg)
	awaitAll(t, []running{first, run(t, member("n4", first.Addr()))}, "n3", "n4")
}

func TestRunEndsWithoutWaitingForSilentSeed(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	var said logs
	cfg := member("n1", silent.Addr().String())
	cfg.Logger = said.logger(slog.LevelDebug)
	n := run(t, cfg)
	conn, err := silent.Accept() // the node dials and gets no answer
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	n.stop()
	if _, err := io.Copy(io.Discard, conn); err != nil { // the connection was closed
		t.Error(err)
	}
	if got := said.String(); !strings.Contains(got, "failed to join") || strings.Contains(got, "timeout") {
		t.Errorf("the attempt did not end with the node: %s", said.String())
	}
}

func TestRunEndsWhenClosedAndRunsOnce(t *testing.T) {
	t.Parallel()
	c, err := New(member("n1"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- c.Run(context.Background()) }()
	<-c.Joined()
	if err := c.Run(context.Background()); err != ErrRunTwice {
		t.Errorf("a second Run: %v", err)
	}
	c.Close()
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
	c.Close()
	c.SetState(Draining)
	if got := idsOf(c.View()); len(got) != 1 || got[0] != "n1" {
		t.Errorf("the last view has %v", got)
	}
}

func TestAdvertisedAddressUsesReachableHost(t *testing.T) {
	t.Parallel()
	cfg := member("n1")
	cfg.BindAddr = "127.0.0.1"
	cfg.AdvertiseAddr = "localhost"
	cfg.AdvertisePort = 17946
	cfg.Self.PeerAddr = ":9080"
	cfg.Self.HTTPAddr = "0.0.0.0:8080"
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := c.Addr(); got != "127.0.0.1:17946" {
		t.Errorf("advertised at %s", got)
	}
	m, _ := c.View().Member("n1")
	if m.PeerAddr != "localhost:9080" || m.HTTPAddr != "localhost:8080" {
		t.Errorf("peers see %+v", m)
	}
}
