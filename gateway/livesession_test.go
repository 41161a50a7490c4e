package gateway_test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// isHeld waits until a number of questions wait for the table's hold.
func (t *table) isHeld(n int) func() bool {
	return func() bool {
		t.mu.Lock()
		defer t.mu.Unlock()
		return t.held == n
	}
}

// setHold makes questions wait, until the returned function is called.
func (t *table) setHold() (release func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	hold := make(chan struct{})
	t.hold, t.held = hold, 0
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.hold = nil
		close(hold)
	}
}

func TestTokenRenewedBeforeTheFirstAnswerDecides(t *testing.T) {
	t.Parallel()
	rows := newTable()
	rows.put("ada", 1, "", "a")
	rows.put("bob", 2, "", "b")
	n := newWorld(t).node(with(rows))
	c := n.join("ada")
	release := rows.setHold()
	c.send(`{"op":"subscribe","id":"m","query":"mine","data":{}}` + "\n" + `{"op":"subscribe","id":"v","query":"vault","data":{}}`)
	waitFor(t, rows.isHeld(2))
	c.send(`{"op":"auth","id":"r","token":"dev:ada {\"all\":true,\"out\":true}"}`)
	want[frame.Result](c)
	release()
	v, refused := newView(), false
	for complete := false; !complete || !refused; {
		switch f := c.read().(type) {
		case frame.Fault:
			refused = f.ID == "v" && f.Code == command.CodeForbidden
		case frame.Subscribed:
		default:
			complete = v.apply(t, f)
		}
	}
	if v.shows() != "a=1 b=2" {
		t.Errorf("the client shows %q", v.shows())
	}
	waitFor(t, func() bool { return rows.following() == 1 })
}

func TestEndOfASessionClosesItsLiveQueries(t *testing.T) {
	t.Parallel()
	rows := newTable()
	n := newWorld(t).node(with(rows))
	for name, end := range map[string]func(*client){
		"the client leaves":      func(c *client) { _ = c.conn.CloseNow() },
		"an operator closes it":  func(*client) { n.KickClient("ada") },
		"the log went back":      func(*client) { n.Begin(0) },
		"a bad frame":            func(c *client) { c.send("nonsense") },
		"a token that is other":  func(c *client) { c.send(`{"op":"auth","id":"r","token":"dev:bob"}`) },
		"a drain of one session": func(*client) { n.Move(t.Context(), 1) },
	} {
		c := n.join("ada")
		c.send(`{"op":"subscribe","id":"s","query":"cheap","data":{}}`)
		want[frame.Subscribed](c)
		newView().until(c, "")
		release := rows.setHold()
		c.send(`{"op":"subscribe","id":"t","query":"cheap","data":{}}`) // has not begun at the end
		waitFor(t, rows.isHeld(1))
		end(c)
		if strings.HasPrefix(name, "a drain") { // waits for the answer
			release()
			release = func() {}
		}
		for _, err := c.next(); err == nil; _, err = c.next() { // answer the close frame
		}
		waitFor(t, func() bool { return rows.following() == 0 && n.Stats().Following == 0 })
		release()
		if t.Failed() {
			t.Fatal(name)
		}
		waitFor(t, func() bool { return n.Stats().Sessions == 0 })
	}
}

// TestDrainedClientResumesItsLiveQueryElsewhere changes rows while a session is
// drained.
//
// protocol: gateway goodbye, close 1012
func TestDrainedClientResumesItsLiveQueryElsewhere(t *testing.T) {
	t.Parallel()
	rows := newTable()
	w := newWorld(t)
	gateways := []*node{w.node(with(rows)), w.node(with(rows))}
	c := gateways[0].join("ada")
	c.send(`{"op":"subscribe","id":"s","query":"cheap","data":{}}`)
	want[frame.Subscribed](c)
	v := newView()
	v.until(c, "")
	for i := range 4 {
		var changes sync.WaitGroup
		changes.Go(func() {
			for j := range 50 {
				rows.put("ada", j%3, "", fmt.Sprint("k", j%5))
			}
		})
		gateways[i%2].Move(t.Context(), 1)
		for goodbye := false; !goodbye; {
			switch f := c.read().(type) {
			case frame.Goodbye:
				goodbye = true
			case frame.Heartbeat:
			default:
				v.apply(t, f)
			}
		}
		c.wantClose(frame.CloseDraining)
		v.batch = nil // of an incomplete batch
		changes.Wait()
		c = gateways[(i+1)%2].join("ada")
		c.sendf(`{"op":"subscribe","id":"s","query":"cheap","data":{},"cursor":%q}`, v.cursor)
		want[frame.Subscribed](c)
		v.until(c, rows.shows())
	}
	if v.live != 1 || len(v.resets) != 0 {
		t.Errorf("got %d live frames and the resets %v", v.live, v.resets)
	}
}

// shows returns what a view of all rows shows.
func (t *table) shows() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var list []string
	for _, r := range t.matching(func(goods) bool { return true }) {
		list = append(list, fmt.Sprintf("%s=%d", r.Key, r.Position))
	}
	return strings.Join(list, " ")
}

// TestLiveQueriesOfManySessionsEndEqual lets sessions subscribe, unsubscribe, renew
// their tokens and reconnect at random while rows change.
func TestLiveQueriesOfManySessionsEndEqual(t *testing.T) {
	t.Parallel()
	rows := newTable()
	w := newWorld(t)
	gateways := []*node{w.node(with(rows), small), w.node(with(rows), small)}
	var clients, writer sync.WaitGroup
	done := make(chan struct{})
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
				rows.put("ada", i%7, strings.Repeat("x", i%2000), fmt.Sprint("k", i%23))
				w.add("auction/1", 1) // events share the sockets
			}
		}
	})
	for id := range 8 {
		clients.Go(func() { gateways[id%2].livesOf(fmt.Sprint("client", id), gateways, 15) })
	}
	clients.Wait()
	close(done)
	writer.Wait()
	c := gateways[0].join("ada")
	c.send(`{"op":"subscribe","id":"s","query":"cheap","data":{}}`)
	want[frame.Subscribed](c)
	newView().until(c, rows.shows())
	waitFor(t, func() bool { return rows.following() == 1 })
}

// livesOf is a client that follows a query over some sessions. In each it waits until
// it has applied some batches.
func (n *node) livesOf(who string, gateways []*node, sessions int) {
	v := newView()
	for range sessions {
		c := gateways[rand.IntN(len(gateways))].join(who)
		start := ""
		if v.cursor != "" {
			start = fmt.Sprintf(`,"cursor":%q`, v.cursor)
		}
		c.sendf(`{"op":"subscribe","id":"s","query":"cheap","data":{}%s}`, start)
		c.send(`{"op":"subscribe","id":"e","stream":"auction/1","after":0}` + "\n" + `{"op":"subscribe","id":"t","query":"cheap","data":{}}` + "\n" +
			`{"op":"auth","id":"r","token":"dev:` + who + `"}` + "\n" + `{"op":"unsubscribe","id":"u","sub":"t"}`)
		version := 0
		for batches := 0; batches < 5; {
			switch f := c.read().(type) {
			case frame.Event:
				if version++; int(f.Version) != version {
					c.t.Errorf("got version %d, want %d", f.Version, version)
				}
			case frame.Subscribed, frame.Result, frame.Unsubscribed:
			case frame.Live:
				if f.Sub == "s" && v.apply(c.t, f) {
					batches++
				}
			default:
				if strings.Contains(string(f.Append(nil)), `"sub":"s"`) && v.apply(c.t, f) {
					batches++
				}
			}
		}
		v.batch = nil
		_ = c.conn.CloseNow()
	}
	if len(v.resets) != 0 {
		n.w.t.Errorf("%s got the resets %v", who, v.resets)
	}
}

// TestAnswersOfQueriesWaitForRoomInTheSendBuffer asks for more than a session may
// hold, without reading.
func TestAnswersOfQueriesWaitForRoomInTheSendBuffer(t *testing.T) {
	t.Parallel()
	rows := newTable()
	rows.put("ada", 1, strings.Repeat("x", 128<<10), "a", "b") // two rows a page
	n := newWorld(t).node(with(rows))
	c := n.join("eve")
	const requests = 30
	c.send(pipelined(requests, `{"op":"query","id":"%d","query":"cheap","data":{}}`))
	waitFor(t, func() bool { return n.Stats().Full == 1 })
	for range requests {
		if waits := n.Stats().Outbound; waits > 3*256<<10 {
			t.Fatalf("one session has %d pending bytes", waits)
		}
		want[frame.Result](c)
	}
}

// TestHeartbeatsOfALiveQueryOverHTTPHaveItsCursor also shows that a heartbeat applies
// the access rules again.
func TestHeartbeatsOfALiveQueryOverHTTPHaveItsCursor(t *testing.T) {
	t.Parallel()
	rows := newTable()
	rows.put("ada", 1, "", "a")
	bubbleWithTransport(t, func(c *gateway.Config) { c.Queries = rows }, func(t *testing.T, _ *gateway.Gateway, transport *http.Transport) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://gateway/v1/queries/vault", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", "text/event-stream")
		req.Header.Set("Authorization", "Bearer dev:ada")
		resp, err := transport.RoundTrip(req)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatal(resp, err)
		}
		defer func() { _ = resp.Body.Close() }()
		e := newSSE(resp)
		e.wantEvent(t, "state", `"key":"a"`)
		live := e.wantEvent(t, "live", "")
		time.Sleep(25 * time.Second)
		synctest.Wait()
		if ev := e.wantEvent(t, "", ""); ev.data != "" || ev.id != live.id {
			t.Errorf("got %+v, want a heartbeat with the id %s", ev, live.id)
		}
		rows.mu.Lock()
		renewed := rows.renewed
		rows.closed = true
		rows.mu.Unlock()
		if renewed != 1 {
			t.Errorf("a heartbeat applied the rules %d times, want once", renewed)
		}
		time.Sleep(25 * time.Second)
		for {
			ev, err := e.next()
			if err != nil {
				t.Fatal(err)
			}
			if ev.name == "unsubscribed" {
				if !strings.Contains(ev.data, `"code":"forbidden"`) {
					t.Errorf("got %+v", ev)
				}
				break
			}
		}
		e.wantEvent(t, "close", "4200")
	})
}
