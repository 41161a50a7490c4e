package gateway_test

import (
	"context"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// protocol: gateway goodbye, close 1012
func TestMoveDrainsSomeSessionsAndServesTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	const all, some = 12, 5
	clients := make([]*client, all)
	for i := range clients {
		clients[i] = n.join("ada")
	}
	silent := n.dial() // has not said hello, so it is not moved
	if asked := n.Move(t.Context(), some); asked != some {
		t.Fatalf("%d sessions were drained, want %d", asked, some)
	}
	moved := 0
	for _, c := range clients {
		c.send(`{"op":"ping","id":"p"}`) // a moved session may be closed by now
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
		t.Errorf("%d sessions were closed, want %d", moved, some)
	}
	waitFor(t, func() bool { return n.Stats().Sessions == all-some+1 })
	n.join("bob") // new sessions are still admitted
	silent.send(`{"op":"hello","id":"1","client":"eve"}`)
	want[frame.Welcome](silent)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if asked := n.Move(ended, all); asked > 1 { // the first one is drained immediately
		t.Errorf("%d sessions were drained after the context had ended, want at most 1", asked)
	}
	if asked := n.Move(t.Context(), 0); asked != 0 {
		t.Errorf("%d sessions were drained, want none", asked)
	}
}

// protocol: close 4004
func TestOperatorClosesSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	eve, again, ada := n.dial(), n.join("eve"), n.join("ada")
	eve.send(`{"op":"hello","id":"1","client":"eve"}`)
	session := want[frame.Welcome](eve).Session
	if kicked := n.KickSession(session); kicked != 1 {
		t.Errorf("%d sessions were closed, want 1", kicked)
	}
	eve.wantClose(frame.CloseForbidden)
	if kicked := n.KickClient("eve"); kicked != 1 {
		t.Errorf("%d sessions were closed, want the client's other one", kicked)
	}
	again.wantClose(frame.CloseForbidden)
	if kicked := n.KickSession("none") + n.KickClient("unknown") + n.KickClient(""); kicked != 0 {
		t.Errorf("%d sessions were closed, want none", kicked)
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
		n.catchUp()
	}
	quick.send(`{"op":"ping","id":"p"}`)
	want[frame.Pong](quick)
	list := n.Slow(10)
	if len(list) != 1 || list[0].Client != "eve" || list[0].Subscriptions != 1 || list[0].Waiting == 0 || list[0].Behind == 0 || list[0].ID == "" {
		t.Fatalf("the slow session is listed as %+v", list)
	}
	if none := n.Slow(0); len(none) != 0 {
		t.Errorf("got %+v, want none", none)
	}
	for got := 0; got < total; { // it reads again and is no longer slow
		if _, ok := slow.read().(frame.Event); ok {
			got++
		}
	}
	waitFor(t, func() bool { return n.Stats().Full == 0 && len(n.Slow(10)) == 0 })
}
