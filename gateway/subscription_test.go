package gateway_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// Small windows and pages make every test pass through the log.
func small(c *gateway.Config) { c.WindowEvents, c.PageCommits = 4, 3 }

// protocol: client subscribe, gateway subscribed, gateway live
func TestASubscriptionStartsWhereItIsAsked(t *testing.T) {
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
			late := w.node(change) // has seen none of it
			for _, n := range []*node{early, late} {
				c := n.join("ada")
				n.settle()
				for _, s := range []struct {
					start string
					from  int // first version of what follows; 11: nothing
				}{
					{``, 11},
					{`,"after":0`, 1},
					{`,"after":7`, 8},
					{`,"after":10`, 11},
					{`,"cursor":"0"`, 1},
					{`,"cursor":"13"`, 8},  // the position of version 7
					{`,"cursor":"14"`, 8},  // between versions 7 and 8
					{`,"cursor":"19"`, 11}, // of the last
					{`,"cursor":"20"`, 11}, // of the head
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

// waitFor waits for something that another goroutine brings about.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
	}
}

// protocol: gateway event
func TestAnEventSaysWhatHappened(t *testing.T) {
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
func TestASubscriptionMayBeginWithTheState(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(small)
	w.add("counter/a", 20)
	w.add("counter/b", 3)
	n.settle()
	n.feed.hold(true)
	w.add("counter/a", 2) // the state knows of them, the feed brings them later
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

// protocol: client hello
func TestHelloResumesEverySubscriptionInOneRoundTrip(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	w.add("counter/a", 5)
	n.settle()
	c := n.dial()
	c.sendf(`{"op":"hello","id":"h","client":"ada","log":%q,"subscriptions":[
		{"id":"1","stream":"counter/a","after":3},
		{"id":"2","stream":"counter/a","cursor":4},
		{"id":"1","stream":"counter/b"},
		{"id":"h2","category":"unicorn"},
		{"op":"subscribe","id":"3","category":"counter","cursor":"4"}]}`, w.store.LogID())
	c.wantClose(4000) // a frame is one line
	c = n.dial()
	c.send(strings.ReplaceAll(fmt.Sprintf(`{"op":"hello","id":"h","client":"ada","log":%q,"subscriptions":[
		{"id":"1","stream":"counter/a","after":3},
		{"id":"2","stream":"counter/a","cursor":4},
		{"id":"1","stream":"counter/b"},
		{"id":"h2","category":"unicorn"},
		{"op":"subscribe","id":"3","category":"counter","cursor":"4"}]}`, w.store.LogID()), "\n", ""))
	want[frame.Welcome](c)
	events, lives, faults := map[string]int{}, 0, map[string]command.Code{}
	for lives < 2 || len(faults) < 3 {
		switch f := c.read().(type) {
		case frame.Event:
			events[f.Sub]++
		case frame.Live:
			lives++
		case frame.Fault:
			faults[f.ID] = f.Code
		}
	}
	if events["1"] != 2 || events["3"] != 1 {
		t.Errorf("got the events %v", events)
	}
	if faults["2"] != command.BadRequest || faults[""] != command.BadRequest || faults["h2"] != command.NotFound {
		t.Errorf("got the errors %v", faults)
	}
}

// protocol: error cursor_ahead
func TestWhatAClientKnowsOfALostLogIsCursorAhead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	w.add("counter/a", 5)
	n.settle()
	c := n.join("ada")
	for _, start := range []string{
		`"stream":"counter/a","after":6`, `"stream":"counter/a","cursor":"6"`, `"category":"counter","cursor":"6"`, `"stream":"counter/z","after":1`,
	} {
		c.sendf(`{"op":"subscribe","id":"s",%s}`, start)
		c.wantFault("s", command.CursorAhead)
	}
	c = n.dial()
	c.send(`{"op":"hello","id":"h","client":"ada","log":"an older one","subscriptions":[{"id":"1","stream":"counter/a","after":3},` +
		`{"id":"2","category":"counter","cursor":"0"},{"id":"3","stream":"counter/a"}]}`)
	want[frame.Welcome](c)
	c.wantFault("1", command.CursorAhead)
	c.wantFault("2", command.CursorAhead)
	if f := want[frame.Subscribed](c); f.ID != "3" {
		t.Errorf("got %s", f.Append(nil))
	}
	want[frame.Live](c)
	// Nor is it resumed later on; to start again is what the client is told to do.
	c.send(`{"op":"subscribe","id":"4","stream":"counter/a","cursor":"3"}`)
	c.wantFault("4", command.CursorAhead)
	c.send(`{"op":"subscribe","id":"5","stream":"counter/a","cursor":"0"}`)
	want[frame.Subscribed](c)
	c.wantEvents("5", 1, 2, 3, 4, 5)
}

func TestACursorFromAGatewayThatIsFurtherIsWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	behind := w.node()
	behind.feed.hold(true)
	w.add("counter/a", 5)
	c := behind.join("ada")
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a","cursor":"3"}` + "\n" + `{"op":"subscribe","id":"c","category":"counter","cursor":"5"}`)
	want[frame.Subscribed](c)
	want[frame.Subscribed](c)
	c.send(`{"op":"ping","id":"p"}`)
	want[frame.Pong](c)
	behind.feed.hold(false)
	var seen []string
	for lives := 0; lives < 2; {
		switch f := c.read().(type) {
		case frame.Event:
			seen = append(seen, fmt.Sprint(f.Sub, f.Position))
		case frame.Live:
			lives++
		}
	}
	if got := strings.Join(seen, " "); got != "s4 s5" {
		t.Errorf("got %s, want s4 s5", got)
	}
}

// protocol: client unsubscribe, gateway unsubscribed
func TestUnsubscribedIsTheLastFrameOfASubscription(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	stop := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				w.add("counter/a", 5)
			}
		}
	})
	defer writing.Wait()
	defer close(stop)
	c := n.join("ada")
	for i := range 50 {
		sub := fmt.Sprint("s", i)
		c.sendf(`{"op":"subscribe","id":%q,"stream":"counter/a","cursor":"0"}`, sub)
		for range 2 + i {
			c.read()
		}
		c.sendf(`{"op":"unsubscribe","id":"u","sub":%q}`, sub)
		for over := false; ; {
			f := c.read()
			if e, ok := f.(frame.Event); ok && (over || e.Sub != sub) {
				t.Fatalf("got %s after unsubscribed", f.Append(nil))
			}
			if _, ok := f.(frame.Unsubscribed); ok {
				over = true
				c.send(`{"op":"ping","id":"p"}`)
			}
			if _, ok := f.(frame.Pong); ok {
				break
			}
		}
	}
}

func TestAStreamAndItsCategoryEachGetTheEventOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.node().join("ada")
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a"}` + "\n" + `{"op":"subscribe","id":"c","category":"counter"}` + "\n" + `{"op":"subscribe","id":"t","stream":"counter/a"}`)
	for range 6 {
		c.read()
	}
	w.add("counter/a", 100)
	got := map[string]int{}
	for range 300 {
		f := want[frame.Event](c)
		got[f.Sub]++
		if int(f.Version) != got[f.Sub] {
			t.Fatalf("got %s, want version %d", f.Append(nil), got[f.Sub])
		}
	}
}

func TestAnEventThatCannotBeShownEndsItsSubscriptionOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a"}` + "\n" + `{"op":"subscribe","id":"t","stream":"counter/b"}`)
	for range 4 {
		c.read()
	}
	a := eventstore.StreamID{Type: "counter", ID: "a"}
	w.add("counter/a", 1)
	c.wantEvents("s", 1)
	w.append(a, eventstore.Event{Type: "added", Form: 2, Data: []byte(`{}`)})
	f := want[frame.Unsubscribed](c)
	if f.Sub != "s" || f.Code != command.Unavailable || f.Cursor != "1" || f.ID != "" || f.Message == "" {
		t.Errorf("got %s", f.Append(nil))
	}
	w.add("counter/b", 1)
	c.wantEvents("t", 1)
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a","cursor":"0"}`)
	want[frame.Subscribed](c)
	c.wantEvents("s", 1)
	want[frame.Unsubscribed](c)
}

// TestReconnectingSubscribersMissNothing is the promise of the protocol: a
// client that hands back its last cursor, to any gateway, after any time, gets
// each matching event once, in order. Clients are cut at random moments and
// come back at random gateways, with small windows, pages and queues.
func TestReconnectingSubscribersMissNothing(t *testing.T) {
	t.Parallel()
	const streams, writers, perWriter, clients = 5, 4, 200, 10
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := newWorld(t)
	nodes := []*node{
		w.node(func(c *gateway.Config) { c.WindowEvents, c.PageCommits, c.QueueBytes = 50, 7, 2000 }),
		w.node(func(c *gateway.Config) { c.WindowEvents, c.PageCommits = 200, 30 }),
		w.node(),
	}
	var writing sync.WaitGroup
	for i := range writers {
		writing.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for done := 0; done < perWriter; {
				n := min(1+r.IntN(20), perWriter-done)
				w.add(fmt.Sprint("counter/", r.IntN(streams)), n)
				done += n
			}
		})
	}
	var following sync.WaitGroup
	for i := range clients {
		following.Go(func() {
			r := rand.New(rand.NewPCG(seed, 100+uint64(i)))
			if err := followWithCuts(t, r, nodes, i, streams, writers*perWriter); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	writing.Wait()
	following.Wait()
}

// followWithCuts follows a category or all streams until it has total events.
func followWithCuts(t *testing.T, r *rand.Rand, nodes []*node, me, streams, total int) error {
	cursors := map[string]string{} // by subscription: where to go on
	versions := map[string]map[string]uint64{}
	positions := map[string]uint64{}
	subs := []string{`"category":"counter"`}
	if me%2 == 1 {
		subs = nil
		for i := range streams {
			subs = append(subs, fmt.Sprintf(`"stream":"counter/%d"`, i))
		}
	}
	got := 0
	for got < total {
		c, _, err := nodes[r.IntN(len(nodes))].tryDial()
		if err != nil {
			return err
		}
		hello := `{"op":"hello","id":"h","client":"ada","subscriptions":[`
		for i, s := range subs {
			id := fmt.Sprint("s", i)
			if i > 0 {
				hello += ","
			}
			if cursors[id] == "" {
				cursors[id] = "0"
			}
			hello += fmt.Sprintf(`{"id":%q,%s,"cursor":%q}`, id, s, cursors[id])
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		err = c.conn.Write(ctx, websocket.MessageText, []byte(hello+"]}"))
		cancel()
		if err != nil {
			return err
		}
		live := map[string]bool{}
		for left := r.IntN(total / 3); left >= 0 && got < total; left-- {
			f, err := c.next()
			if err != nil {
				return err
			}
			switch f := f.(type) {
			case frame.Event:
				if versions[f.Sub] == nil {
					versions[f.Sub] = map[string]uint64{}
				}
				v := versions[f.Sub]
				if s := f.Stream.String(); uint64(f.Version) != v[s]+1 {
					return fmt.Errorf("%s after version %d (live: %v)", f.Append(nil), v[s], live[f.Sub])
				}
				if uint64(f.Position) <= positions[f.Sub] {
					return fmt.Errorf("%s after position %d", f.Append(nil), positions[f.Sub])
				}
				v[f.Stream.String()]++
				positions[f.Sub] = uint64(f.Position)
				cursors[f.Sub] = fmt.Sprint(f.Position)
				got++
			case frame.Live:
				live[f.Sub] = true
				cursors[f.Sub] = f.Cursor
			case frame.Fault:
				return fmt.Errorf("got %s", f.Append(nil))
			}
		}
		_ = c.conn.CloseNow()
	}
	return nil
}

// protocol: rule A slow client is demoted
func TestASlowReaderIsDemotedAndCatchesUpExactly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(func(c *gateway.Config) { c.QueueBytes, c.SendBuffer, c.WindowEvents = 4<<10, 4<<10, 100 })
	slow, quick := n.join("ada"), n.join("bob")
	for _, c := range []*client{slow, quick} {
		c.send(`{"op":"subscribe","id":"s","category":"auction"}` + "\n" + `{"op":"subscribe","id":"q","stream":"counter/quiet"}`)
		for range 4 {
			c.read()
		}
	}
	var total int
	events := large(100)
	for n.Stats().Demotions == 0 {
		w.append(eventstore.StreamID{Type: "auction", ID: "1"}, events...)
		for range events {
			total++
			quick.wantEvents("s", total) // notices nothing
		}
	}
	slow.send(`{"op":"ping","id":"p"}`) // answers are never dropped
	for v, ponged, live := 0, false, false; v < total || !ponged || !live; {
		switch f := slow.read().(type) {
		case frame.Event:
			if v++; int(f.Version) != v {
				t.Fatalf("got version %d, want %d", f.Version, v)
			}
		case frame.Pong:
			ponged = true
		case frame.Live:
			live = true
		}
	}
	w.append(eventstore.StreamID{Type: "auction", ID: "1"}, eventstore.Event{Type: "added", Data: []byte(`{}`)})
	for {
		if f, ok := slow.read().(frame.Event); ok {
			if int(f.Version) != total+1 {
				t.Errorf("got version %d, want %d", f.Version, total+1)
			}
			break
		}
	}
}

// protocol: close 4102
func TestAClientThatReadsNothingIsClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(func(c *gateway.Config) { c.SendBuffer, c.ReadGrace = 4<<10, 200*time.Millisecond })
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"s","category":"auction"}`)
	want[frame.Subscribed](c)
	want[frame.Live](c)
	events := make([]eventstore.Event, 100)
	for i := range events {
		events[i] = eventstore.Event{Type: "added", Form: 1, Data: json.RawMessage(`{"text":"` + strings.Repeat("x", 1000) + `"}`)}
	}
	for n.Stats().Sessions > 0 {
		w.append(eventstore.StreamID{Type: "auction", ID: "1"}, events...)
	}
	for {
		if _, err := c.next(); err != nil {
			if websocket.CloseStatus(err) != 4102 {
				t.Fatalf("got %v, want the code 4102", err)
			}
			return
		}
	}
}

// protocol: gateway goodbye, close 1012
func TestDrainAnswersWhatIsOpenAndSaysGoodbye(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(func(c *gateway.Config) { c.DrainWindow = 1 }) // all at once
	idle, busy := n.join("ada"), n.join("bob")
	busy.send(`{"op":"command","id":"1","aggregate":"counter/a","command":"wait","data":{}}`)
	waitFor(t, func() bool { return n.Stats().Commands == 1 })
	drained := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		drained <- n.Drain(ctx)
	}()
	want[frame.Heartbeat](idle)
	if f := want[frame.Goodbye](idle); f.Reason != "draining" || f.ReconnectInMS < 0 || f.ReconnectInMS > 1000 {
		t.Errorf("got %s", f.Append(nil))
	}
	idle.wantClose(1012)
	if _, resp, err := n.tryDial(); err == nil || resp.StatusCode != 503 {
		t.Errorf("a new session while draining: got %v, want 503", err)
	}
	busy.send(`{"op":"command","id":"2","aggregate":"counter/a","command":"add","data":{}}`) // too late: not read
	close(w.router.release)
	if f := want[frame.Result](busy); f.ID != "1" {
		t.Errorf("got %s", f.Append(nil))
	}
	want[frame.Heartbeat](busy)
	want[frame.Goodbye](busy)
	busy.wantClose(1012)
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// protocol: close 4200
func TestSuspendSendsClientsElsewhereAndResumeTakesThemBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	w.add("counter/a", 3)
	n.settle()
	c := n.join("ada")
	n.Suspend(4200, "the log is out of reach")
	c.wantClose(4200)
	if _, resp, err := n.tryDial(); err == nil || resp.StatusCode != 503 {
		t.Errorf("a new session while suspended: got %v, want 503", err)
	}
	n.Resume()
	c = n.join("ada")
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a","after":0}`)
	want[frame.Subscribed](c)
	c.wantEvents("s", 1, 2, 3)
}

// protocol: close 4200
func TestBeginAgainClosesSessionsOfTheLostLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	w.add("counter/a", 5)
	n.settle()
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a","after":0}`)
	want[frame.Subscribed](c)
	c.wantEvents("s", 1, 2, 3, 4, 5)
	want[frame.Live](c)

	// The log went back to 3, and has 4 to 7 from other commands.
	n.Begin(3)
	added := eventstore.Event{Type: "added", Form: 1, Data: []byte(`{"by":1}`)}
	n.Deliver([]eventstore.Commit{{
		Position: 7, Stream: eventstore.StreamID{Type: "counter", ID: "a"}, Version: 7, Key: "new", At: time.Now(),
		Events: []eventstore.Event{added, added, added, added},
	}})
	f, err := c.next()
	if err == nil {
		t.Fatalf("the session of the lost log got %.200s, want no more than the close frame", f.Append(nil))
	}
	if code := websocket.CloseStatus(err); code != 4200 {
		t.Errorf("closed with %d (%v), want 4200", code, err)
	}
}
