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
	store := func() {
		w.append(eventstore.StreamID{Type: "counter", ID: "a"}, large(100)...)
		n.catchUp()
		total += 100
	}
	for n.Stats().Full == 0 {
		store()
	}
	for range 10 { // the socket may have been full for a moment only, as in fillASocket
		store()
	}
	waitFor(t, func() bool { list := n.Slow(1); return len(list) == 1 && list[0].Behind > 0 && list[0].Waiting > 0 })
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

func TestSessionsAreCountedAndDescribed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(small, func(c *gateway.Config) { c.SendBuffer = 4 << 10 })
	for range 5 {
		n.join("ada")
	}
	slow, silent := n.join("eve"), n.dial()
	silent.send(`{"op":"ping","id":"p"}`)
	silent.read() // its session is admitted
	slow.send(`{"op":"subscribe","id":"s","stream":"counter/a"}`)
	want[frame.Subscribed](slow)
	want[frame.Live](slow)
	slow.send(`{"op":"subscribe","id":"c","category":"auction"}`)
	want[frame.Subscribed](slow)
	want[frame.Live](slow)
	matching, list := n.Find("", 3)
	for !list[0].IsFull || list[0].Topics[1].Behind == 0 { // what the socket takes depends on the kernel
		w.append(eventstore.StreamID{Type: "counter", ID: "a"}, large(100)...)
		n.catchUp()
		matching, list = n.Find("", 3)
	}
	if matching != 7 || len(list) != 3 || list[0].Client != "eve" || list[1].ID >= list[2].ID {
		t.Fatalf("%d match, and the first are %+v", matching, list)
	}
	eve := list[0]
	if !eve.IsFull || eve.Waiting == 0 || eve.Protocol != "websocket" || eve.Opened.IsZero() || eve.Subscriptions != 2 ||
		len(eve.Topics) != 2 || eve.Topics[0] != (gateway.SessionTopic{Name: "auction/*"}) || eve.Topics[1].Name != "counter/a" || eve.Topics[1].Behind == 0 {
		t.Errorf("the slow session is %+v", eve)
	}
	for text, want := range map[string]int{"ad": 5, "eve": 1, eve.ID: 1, eve.ID[2:]: 1, eve.ID[:7]: 0, "zoe": 0, "": 7, "counter/a": 1, "auction/*": 1, "counter/b": 0, "query counter/a": 0} {
		if matching, list := n.Find(text, 100); matching != want || len(list) != want {
			t.Errorf("%d sessions match %q, and %d are described, want %d", matching, text, len(list), want)
		}
	}
	if matching, list := n.Find("ada", 0); matching != 5 || len(list) != 0 {
		t.Errorf("%d match, and %+v are described", matching, list)
	}
}
