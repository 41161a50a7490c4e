package network

import (
	"net"
	"os"
	"testing"
	"time"
)

// TestNetworkRulesDropAndDelayPackets sends packets between two hosts under each kind of rule.
func TestNetworkRulesDropAndDelayPackets(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	n, err := New([]string{"here"}, []string{"a", "b"})
	if err != nil {
		t.Skipf("no network namespaces here: %v", err)
	}
	defer func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}()
	listen := func(host string) net.PacketConn {
		var conn net.PacketConn
		err := n.On(host, func() (err error) {
			conn, err = net.ListenPacket("udp4", n.Addr(host)+":0")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	a, b := listen("a"), listen("b")
	here, err := net.ListenPacket("udp4", n.Addr("here")+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	read := func(conn net.PacketConn) string {
		t.Helper()
		buf := make([]byte, 16)
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		count, _, err := conn.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:count])
	}
	// passed reports whether a packet from x arrives at y before a marker, which the
	// test sends later and without a rule.
	passed := func(x, y net.PacketConn, from, to string, rule Rule) bool {
		t.Helper()
		n.Set(from, to, rule)
		if _, err := x.WriteTo([]byte("probe"), y.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if rule.Drop { // packets of a host are handled in turn: the rule has handled the probe before this one arrives
			if _, err := x.WriteTo([]byte("handled"), here.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			read(here)
		}
		if rule.Delay == 0 {
			n.Set(from, to, Rule{})
		}
		if _, err := x.WriteTo([]byte("after"), y.LocalAddr()); err != nil {
			t.Fatal(err)
		}
		if read(y) == "after" {
			return false
		}
		read(y)
		return true
	}
	if !passed(a, b, "a", "b", Rule{}) {
		t.Error("a packet without a rule was lost")
	}
	if passed(a, b, "a", "b", Rule{Drop: true}) {
		t.Error("a packet passed a cut")
	}
	n.Set("a", "b", Rule{Drop: true})
	if !passed(b, a, "b", "a", Rule{}) {
		t.Error("a cut of one direction cuts the other one too")
	}
	n.Heal()
	began := time.Now()
	if !passed(a, b, "a", "b", Rule{Delay: 50 * time.Millisecond}) {
		t.Error("a delayed packet was lost or overtaken")
	}
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("a packet with a delay of 50 ms took %v", took)
	}
}
