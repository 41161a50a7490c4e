package gateway_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// protocol: client subscribe, gateway subscribed, gateway live
func TestSubscriptionStartsAtTheRequestedPlace(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*gateway.Config){"window": func(*gateway.Config) {}, "log": small} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			early := w.node(change)
			for range 10 { // auction/1 has version v at position 2v-1, auction/2 at 2v
				w.add("auction/1", 1)
				w.add("auction/2", 1)
			}
			late := w.node(change) // its window has none of these events
			for _, n := range []*node{early, late} {
				c := n.join("ada")
				n.catchUp()
				for _, s := range []struct {
					start string
					from  int // first version that is sent; 11 if none is
				}{
					{``, 11},
					{`,"after":0`, 1},
					{`,"after":7`, 8},
					{`,"after":10`, 11},
					{`,"cursor":"0"`, 1},
					{`,"cursor":"13"`, 8},  // position of version 7
					{`,"cursor":"14"`, 8},  // between versions 7 and 8
					{`,"cursor":"19"`, 11}, // position of version 10
					{`,"cursor":"20"`, 11}, // the head
					{`,"last":3`, 8},
					{`,"last":100`, 1},
					{`,"after":null,"state":false`, 11},
				} {
					c.sendf(`{"op":"subscribe","id":"s","stream":"auction/1"%s}`, s.start)
					if f := want[frame.Subscribed](c); f.ID != "s" || f.Cursor != "20" {
						t.Errorf("%q: got %s", s.start, f.Append(nil))
					}
					for v := s.from; v <= 10; v++ {
						c.wantEvents("s", v)
					}
					if f := want[frame.Live](c); f.Sub != "s" || f.Version == nil || *f.Version != 10 || f.Cursor != "20" {
						t.Errorf("%q: got %s", s.start, f.Append(nil))
					}
					c.send(`{"op":"unsubscribe","id":"u","sub":"s"}`)
					if f := want[frame.Unsubscribed](c); f.ID != "u" || f.Sub != "s" {
						t.Errorf("%q: got %s", s.start, f.Append(nil))
					}
				}
				c.send(`{"op":"subscribe","id":"c","category":"auction","cursor":"15"}`)
				want[frame.Subscribed](c)
				for p := 16; p <= 20; p++ {
					if f := want[frame.Event](c); int(f.Position) != p {
						t.Errorf("got %s, want position %d", f.Append(nil), p)
					}
				}
				if f := want[frame.Live](c); f.Version != nil || f.Cursor != "20" {
					t.Errorf("got %s", f.Append(nil))
				}
			}
		})
	}
}

// protocol: gateway event
func TestEventFrameHasTheStoredEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"a","stream":"auction/ä 1"}` + "\n" + `{"op":"subscribe","id":"b","stream":"counter/1"}`)
	for range 4 {
		c.read()
	}
	c.send(`{"op":"command","id":"1","aggregate":"auction/ä 1","command":"add","data":{ "by": 1 },"key":"k\"1"}`)
	var f frame.Event
	for f.Sub == "" {
		f, _ = c.read().(frame.Event)
	}
	if f.Sub != "a" || f.Stream.String() != "auction/ä 1" || f.Version != 1 || f.Position != 1 || f.Event != "added" ||
		f.Cause != `k"1` || f.By != "ada" || time.Since(f.Time) > time.Minute {
		t.Errorf("got %s", f.Append(nil))
	}
	var data struct{ By int }
	if err := json.Unmarshal(f.Data, &data); err != nil || data.By != 1 {
		t.Errorf("got the data %s", f.Data)
	}
	w.add("counter/1", 1)
	for f.Sub != "b" {
		f, _ = c.read().(frame.Event)
	}
	if f.By != "" {
		t.Errorf("counters don't show who caused their events: got %s", f.Append(nil))
	}
}

// protocol: gateway state
func TestSubscriptionMayBeginWithTheState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(small)
	w.add("counter/a", 20)
	w.add("counter/b", 3)
	n.catchUp()
	n.feed.hold(true)
	w.add("counter/a", 2) // the state includes them, the feed delivers them later
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a","state":true}`)
	want[frame.Subscribed](c)
	if f := want[frame.State](c); f.Sub != "s" || f.Version != 22 || f.Position != 25 || string(f.Data) != `{"version":22}` {
		t.Errorf("got %s", f.Append(nil))
	}
	n.feed.hold(false)
	if f := want[frame.Live](c); *f.Version != 22 {
		t.Errorf("got %s", f.Append(nil))
	}
	w.add("counter/a", 1)
	c.wantEvents("s", 23)
}
