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

// small makes the window and the pages so small that subscriptions read the log.
func small(c *gateway.Config) { c.WindowEvents, c.PageCommits = 4, 3 }

// waitFor waits until another goroutine has made a condition true.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the condition did not become true")
		}
	}
}

// protocol: client hello
func TestHelloResumesEverySubscriptionInOneRoundTrip(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	w.add("counter/a", 5)
	n.catchUp()
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
	if faults["2"] != command.CodeBadRequest || faults[""] != command.CodeBadRequest || faults["h2"] != command.CodeNotFound {
		t.Errorf("got the errors %v", faults)
	}
}

// protocol: error cursor_ahead
func TestCursorOfALostLogIsCursorAhead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	w.add("counter/a", 5)
	n.catchUp()
	c := n.join("ada")
	for _, start := range []string{
		`"stream":"counter/a","after":6`, `"stream":"counter/a","cursor":"6"`, `"category":"counter","cursor":"6"`, `"stream":"counter/z","after":1`,
	} {
		c.sendf(`{"op":"subscribe","id":"s",%s}`, start)
		c.wantFault("s", command.CodeCursorAhead)
	}
	c = n.dial()
	c.send(`{"op":"hello","id":"h","client":"ada","log":"an older one","subscriptions":[{"id":"1","stream":"counter/a","after":3},` +
		`{"id":"2","category":"counter","cursor":"0"},{"id":"3","stream":"counter/a"}]}`)
	want[frame.Welcome](c)
	c.wantFault("1", command.CodeCursorAhead)
	c.wantFault("2", command.CodeCursorAhead)
	if f := want[frame.Subscribed](c); f.ID != "3" {
		t.Errorf("got %s", f.Append(nil))
	}
	want[frame.Live](c)
	// The cursor stays refused later; the client must start again.
	c.send(`{"op":"subscribe","id":"4","stream":"counter/a","cursor":"3"}`)
	c.wantFault("4", command.CodeCursorAhead)
	c.send(`{"op":"subscribe","id":"5","stream":"counter/a","cursor":"0"}`)
	want[frame.Subscribed](c)
	c.wantEvents("5", 1, 2, 3, 4, 5)
}

func TestCursorAheadOfTheGatewayWaitsForItsEvents(t *testing.T) {
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

func TestStreamAndItsCategoryEachGetTheEventOnce(t *testing.T) {
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

func TestUnshownEventEndsItsSubscriptionOnly(t *testing.T) {
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
	if f.Sub != "s" || f.Code != command.CodeUnavailable || f.Cursor != "1" || f.ID != "" || f.Message == "" {
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
// client that resumes from its last cursor, at any gateway, after any time,
// gets each matching event once, in order. Clients are cut at random moments
// and reconnect to random gateways, with small windows, pages and queues.
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
	cursors := map[string]string{} // by subscription: where to resume
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
func TestSlowReaderIsDemotedAndCatchesUpExactly(t *testing.T) {
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
	var total, read int
	events := large(100)
	for n.Stats().Demotions == 0 {
		w.append(eventstore.StreamID{Type: "auction", ID: "1"}, events...)
		for range events {
			total++
			quick.wantEvents("s", total) // the other client is not affected
		}
		if n.Stats().Full > 0 { // a session is demoted when its socket takes something again
			read++
			slow.wantEvents("s", read)
		}
	}
	slow.send(`{"op":"ping","id":"p"}`) // replies are never dropped
	for v, ponged, live := read, false, false; v < total || !ponged || !live; {
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
func TestClientThatReadsNothingIsClosed(t *testing.T) {
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
func TestDrainRepliesToOpenRequestsAndSaysGoodbye(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(func(c *gateway.Config) { c.DrainWindow = 1 }) // all together
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
	busy.send(`{"op":"command","id":"2","aggregate":"counter/a","command":"add","data":{}}`) // sent too late to be read
	close(w.router.release)
	if f := want[frame.Result](busy); f.ID != "1" {
		t.Errorf("got %s", f.Append(nil))
	}
	last := busy.read()
	if f, ok := last.(frame.Result); ok && f.ID == "2" { // it was read, if the session's turn came later than that of the idle one
		last = busy.read()
	}
	if _, ok := last.(frame.Heartbeat); !ok {
		t.Errorf("got %s", last.Append(nil))
	}
	want[frame.Goodbye](busy)
	busy.wantClose(1012)
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// protocol: close 4200
func TestSuspendClosesSessionsAndResumeAdmitsThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	w.add("counter/a", 3)
	n.catchUp()
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
func TestSecondBeginClosesSessionsOfTheLostLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	w.add("counter/a", 5)
	n.catchUp()
	c := n.join("ada")
	c.send(`{"op":"subscribe","id":"s","stream":"counter/a","after":0}`)
	want[frame.Subscribed](c)
	c.wantEvents("s", 1, 2, 3, 4, 5)
	want[frame.Live](c)

	// The log went back to 3. Its new events 4 to 7 are those of other commands.
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
