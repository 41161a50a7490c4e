package gateway_test

import (
	"context"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// protocol: gateway goodbye, close 1012
func TestMoveSendsSomeSessionsElsewhereAndServesTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	const all, some = 12, 5
	clients := make([]*client, all)
	for i := range clients {
		clients[i] = n.join("ada")
	}
	stranger := n.dial() // has not said hello: there is nothing to move yet
	if asked := n.Move(t.Context(), some); asked != some {
		t.Fatalf("%d sessions were asked to move, not %d", asked, some)
	}
	moved := 0
	for _, c := range clients {
		c.send(`{"op":"ping","id":"p"}`) // one that was moved may have been closed by now
		switch f := c.read().(type) {
		case frame.Pong:
		case frame.Heartbeat:
			moved++
			if g := want[frame.Goodbye](c); g.Reason != "rebalancing" || g.ReconnectInMS < 0 || g.ReconnectInMS > 1000 {
				t.Errorf("got %s", g.Append(nil))
			}
			c.wantClose(1012)
		default:
			t.Errorf("got %s", f.Append(nil))
		}
	}
	if moved != some {
		t.Errorf("%d sessions moved, not %d", moved, some)
	}
	waitFor(t, func() bool { return n.Stats().Sessions == all-some+1 })
	n.join("bob") // it takes new ones as before
	stranger.send(`{"op":"hello","id":"1","client":"eve"}`)
	want[frame.Welcome](stranger)

	over, cancel := context.WithCancel(t.Context())
	cancel()
	if asked := n.Move(over, all); asked > 1 { // the first one is due at once
		t.Errorf("%d sessions were asked after the end of the call", asked)
	}
	if asked := n.Move(t.Context(), 0); asked != 0 {
		t.Errorf("%d sessions were asked, and nobody was to be", asked)
	}
}

// protocol: close 4004
func TestAnOperatorMayCloseSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	eve, again, ada := n.dial(), n.join("eve"), n.join("ada")
	eve.send(`{"op":"hello","id":"1","client":"eve"}`)
	session := want[frame.Welcome](eve).Session
	if kicked := n.KickSession(session); kicked != 1 {
		t.Errorf("%d sessions were closed, not 1", kicked)
	}
	eve.wantClose(frame.CloseForbidden)
	if kicked := n.KickClient("eve"); kicked != 1 {
		t.Errorf("%d sessions were closed, not the client's other one", kicked)
	}
	again.wantClose(frame.CloseForbidden)
	if kicked := n.KickSession("none") + n.KickClient("nobody") + n.KickClient(""); kicked != 0 {
		t.Errorf("%d sessions were closed that were not meant", kicked)
	}
	ada.send(`{"op":"ping","id":"p"}`)
	want[frame.Pong](ada)
}

func TestSlowSessionsAreListed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(small, func(c *gateway.Config) { c.SendBuffer = 4 << 10 })
	slow, quick := n.join("eve"), n.join("ada")
	slow.send(`{"op":"subscribe","id":"s","stream":"counter/a"}`)
	want[frame.Subscribed](slow)
	want[frame.Live](slow)
	total := 0
	for ; len(n.Slow(1)) == 0 || n.Slow(1)[0].Behind == 0; total += 100 {
		w.append(eventstore.StreamID{Type: "counter", ID: "a"}, large(100)...)
		n.settle()
	}
	quick.send(`{"op":"ping","id":"p"}`)
	want[frame.Pong](quick)
	list := n.Slow(10)
	if len(list) != 1 || list[0].Client != "eve" || list[0].Subscriptions != 1 || list[0].Waiting == 0 || list[0].Behind == 0 || list[0].ID == "" {
		t.Fatalf("the slow session is listed as %+v", list)
	}
	if none := n.Slow(0); len(none) != 0 {
		t.Errorf("nobody was to be listed: %+v", none)
	}
	for got := 0; got < total; { // it reads again, and is slow no more
		if _, ok := slow.read().(frame.Event); ok {
			got++
		}
	}
	waitFor(t, func() bool { return n.Stats().Full == 0 && len(n.Slow(10)) == 0 })
}
