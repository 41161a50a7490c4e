package gateway_test

import (
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// TestDrainSpreadsSessionsOverItsWindow checks the times at which sessions are
// drained. A session is served until its turn.
func TestDrainSpreadsSessionsOverItsWindow(t *testing.T) {
	t.Parallel()
	bubble(t, func(c *gateway.Config) { c.DrainWindow = 40 * time.Millisecond }, func(t *testing.T, g *gateway.Gateway, dial func() *client) {
		var clients []*client
		for range 20 {
			c := dial()
			c.send(`{"op":"hello","id":"h","client":"ada"}`)
			want[frame.Welcome](c)
			clients = append(clients, c)
		}
		began := time.Now()
		var reading sync.WaitGroup
		var mu sync.Mutex
		goodbyes := map[time.Duration]int{}
		waits := map[int64]bool{}
		for _, c := range clients {
			reading.Go(func() {
				for {
					switch f := c.eventually().(type) {
					case frame.Goodbye:
						mu.Lock()
						goodbyes[time.Since(began)]++
						waits[f.ReconnectInMS] = true
						mu.Unlock()
						c.wantClose(frame.CloseDraining)
						return
					case frame.Heartbeat:
					default:
						t.Errorf("got %s", f.Append(nil))
					}
				}
			})
		}
		if err := g.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		reading.Wait()
		for i := range 20 {
			if at := time.Duration(i) * 2 * time.Millisecond; goodbyes[at] != 1 {
				t.Errorf("%d sessions got goodbye at %v, want 1", goodbyes[at], at)
			}
		}
		if len(waits) < 5 {
			t.Errorf("20 sessions got only %d different times to reconnect: %v", len(waits), waits)
		}
	})
}

// TestStoredEventsPrecedeGoodbye drains a session while more events are
// unsent than one message holds.
func TestStoredEventsPrecedeGoodbye(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(func(c *gateway.Config) { c.QueueBytes = 2 << 10 })
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"s","category":"auction"}`)
	want[frame.Subscribed](c)
	want[frame.Live](c)
	n.feed.hold(true)
	w.add("auction/1", 200)
	n.feed.hold(false)
	n.catchUp()
	drained := make(chan error)
	go func() { drained <- n.Drain(t.Context()) }()
	events := 0
	for {
		switch f := c.read().(type) {
		case frame.Event:
			events++
		case frame.Heartbeat:
			if f.Cursor != "200" || len(f.Behind) > 0 || events != 200 {
				t.Errorf("after %d events got %s", events, f.Append(nil))
			}
		case frame.Goodbye:
			c.wantClose(frame.CloseDraining)
			if err := <-drained; err != nil {
				t.Error(err)
			}
			return
		default:
			t.Fatalf("got %s", f.Append(nil))
		}
	}
}
