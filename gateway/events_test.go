package gateway_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// sse is a client of Server-Sent Events, which reads them as the HTML standard
// says (9.2.6, interpreting an event stream).
type sse struct {
	resp   *http.Response
	lines  *bufio.Reader
	lastID string
	retry  int
}

// sseEvent is one that was dispatched.
type sseEvent struct {
	name, data string
	id         string // lastID then
}

// events asks for Server-Sent Events.
func (n *node) events(path, who string, header ...string) *sse {
	n.w.t.Helper()
	e, err := openEvents(oneShot, n.url+path, who, header...)
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.w.t.Cleanup(e.close)
	if e.resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(e.resp.Body)
		n.w.t.Fatalf("%s: %s %s", path, e.resp.Status, body)
	}
	theContract(n.w.t).check(n.w.t, http.MethodGet, path, e.resp, "")
	return e
}

func openEvents(transport http.RoundTripper, url, who string, header ...string) (*sse, error) {
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/event-stream")
	if who != "" {
		req.Header.Set("Authorization", "Bearer dev:"+who)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	return &sse{resp: resp, lines: bufio.NewReader(resp.Body)}, nil
}

func (e *sse) close() { _ = e.resp.Body.Close() }

// next returns the next event that is dispatched. Its error is io.EOF after an
// end in good order.
func (e *sse) next() (sseEvent, error) {
	var ev sseEvent
	var data []string
	id := e.lastID
	for {
		line, err := e.lines.ReadString('\n')
		if err != nil {
			return ev, err
		}
		line = strings.TrimSuffix(line, "\n")
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "":
			if line != "" { // a comment
				continue
			}
			e.lastID = id
			if len(data) == 0 { // nothing to dispatch, but the id counts
				ev = sseEvent{}
				return sseEvent{name: "", id: id}, nil
			}
			ev.data, ev.id = strings.Join(data, "\n"), id
			return ev, nil
		case "event":
			ev.name = value
		case "data":
			data = append(data, value)
		case "id":
			id = value
		case "retry":
			e.retry, _ = strconv.Atoi(value)
		default:
			return ev, fmt.Errorf("an unknown line: %q", line)
		}
	}
}

// wantEvent reads the next event, which must be of that name.
func (e *sse) wantEvent(t testing.TB, name, data string) sseEvent {
	t.Helper()
	ev, err := e.next()
	if err != nil || ev.name != name || !strings.Contains(ev.data, data) {
		t.Fatalf("got %+v (%v), want %q with %s", ev, err, name, data)
	}
	return ev
}

func (e *sse) wantVersions(t testing.TB, stream string, from, to int) {
	t.Helper()
	for v := from; v <= to; v++ {
		ev := e.wantEvent(t, "", fmt.Sprintf(`{"stream":%q,"version":%d,"position":%s,`, stream, v, e.position(t)))
		var members map[string]any
		if err := json.Unmarshal([]byte(ev.data), &members); err != nil || members["op"] != nil || members["sub"] != nil {
			t.Errorf("got %s (%v)", ev.data, err)
		}
	}
}

// position peeks at the id of what comes next.
func (e *sse) position(t testing.TB) string {
	t.Helper()
	for n := 8; ; n += 8 {
		b, err := e.lines.Peek(n)
		if err != nil {
			t.Fatal(err)
		}
		if id, _, ok := strings.Cut(strings.TrimPrefix(string(b), "id: "), "\n"); ok {
			return id
		}
	}
}

func TestServerSentEventsGoOnLiveAndResumeAnywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.node(small), w.node()
	w.add("auction/1", 10)
	w.add("auction/2", 5)
	first.settle()
	second.settle()

	e := first.events("/v1/streams/auction/1/events?after=3", "")
	if h := e.resp.Header; h.Get("Content-Type") != "text/event-stream" || h.Get("Cache-Control") != "no-store" || h.Get("Ganglion-Cursor") != "15" || h.Get("Ganglion-Log") != w.store.LogID() {
		t.Errorf("got %v", h)
	}
	e.wantVersions(t, "auction/1", 4, 10)
	if ev := e.wantEvent(t, "live", `{"version":10,"cursor":"15"}`); ev.id != "15" {
		t.Errorf("got %+v", ev)
	}
	w.add("auction/1", 2)
	w.add("auction/2", 1)
	e.wantVersions(t, "auction/1", 11, 12)
	e.close()

	// The URL is still that of the first request.
	e = second.events("/v1/streams/auction/1/events?after=3", "", "Last-Event-ID", e.lastID)
	w.add("auction/1", 1)
	e.wantEvent(t, "live", `"version":12`)
	e.wantVersions(t, "auction/1", 13, 13)

	c := second.events("/v1/categories/auction/events?cursor=12&log="+w.store.LogID(), "ada")
	c.wantVersions(t, "auction/2", 3, 5)
	c.wantVersions(t, "auction/1", 11, 12)
	c.wantVersions(t, "auction/2", 6, 6)
	c.wantVersions(t, "auction/1", 13, 13)
	c.wantEvent(t, "live", `{"cursor":"19"}`)

	now := first.events("/v1/categories/auction/events?from=now", "ada")
	now.wantEvent(t, "live", `"cursor":"19"`)
	w.add("auction/3", 1)
	now.wantVersions(t, "auction/3", 1, 1)
	waitFor(t, func() bool { return first.Stats().Sessions == 1 }) // the one that was closed has ended
}

// TestReconnectingReadersOfServerSentEventsMissNothing cuts readers at random
// moments; they come back to random gateways with their last id, as an
// EventSource does.
func TestReconnectingReadersOfServerSentEventsMissNothing(t *testing.T) {
	t.Parallel()
	const total, readers = 600, 6
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := newWorld(t)
	nodes := []*node{
		w.node(func(c *gateway.Config) { c.WindowEvents, c.PageCommits, c.QueueBytes = 50, 7, 2000 }),
		w.node(),
	}
	var working sync.WaitGroup
	working.Go(func() {
		for range total / 10 {
			w.add("auction/1", 10)
		}
	})
	for i := range readers {
		working.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for got, lastID := 0, "0"; got < total; {
				e, err := openEvents(oneShot, nodes[r.IntN(2)].url+"/v1/categories/auction/events", "", "Last-Event-ID", lastID)
				if err != nil {
					t.Error(err)
					return
				}
				for left := r.IntN(total / 3); left >= 0 && got < total; left-- {
					ev, err := e.next()
					if err != nil {
						t.Error(err)
						break
					}
					if ev.name == "" && ev.data != "" {
						if got++; !strings.Contains(ev.data, fmt.Sprintf(`"version":%d,`, got)) {
							t.Errorf("got %s, want version %d", ev.data, got)
							return
						}
					}
				}
				lastID = e.lastID
				e.close()
			}
		})
	}
	working.Wait()
}

func TestASlowReaderOfServerSentEventsIsDemoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(func(c *gateway.Config) { c.QueueBytes, c.SendBuffer, c.WindowEvents = 4<<10, 4<<10, 100 })
	e := n.events("/v1/categories/auction/events", "")
	e.wantEvent(t, "live", "")
	total := 0
	for n.Stats().Demotions == 0 {
		events := make([]eventstore.Event, 100)
		for i := range events {
			events[i] = eventstore.Event{Type: "added", Form: 1, Data: json.RawMessage("{\r\"text\":\"" + strings.Repeat("x", 1000) + `"}`)}
		}
		w.append(eventstore.StreamID{Type: "auction", ID: "1"}, events...)
		total += len(events)
	}
	for v := 1; v <= total; {
		ev, err := e.next()
		if err != nil {
			t.Fatal(err)
		}
		if ev.name == "" && ev.data != "" {
			if !strings.Contains(ev.data, fmt.Sprintf(`"version":%d,`, v)) || !json.Valid([]byte(ev.data)) {
				t.Fatalf("got %.100s, want version %d", ev.data, v)
			}
			v++
		}
	}
	e.wantEvent(t, "live", fmt.Sprintf(`"cursor":"%d"`, total)) // again
}

func TestWhatServerSentEventsCannotBeginWithIsAProblem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(limited(func(l *gateway.Limits) { l.Sessions, l.SessionsPerClient = 3, 1 }))
	w.add("auction/1", 3)
	n.settle()
	ask := func(path, who string, header ...string) (int, string) {
		t.Helper()
		e, err := openEvents(oneShot, n.url+path, who, header...)
		if err != nil {
			t.Fatal(err)
		}
		defer e.close()
		var body []byte
		if e.resp.StatusCode != http.StatusOK {
			body, _ = io.ReadAll(e.resp.Body)
		}
		theContract(t).check(t, http.MethodGet, path, e.resp, string(body))
		return e.resp.StatusCode, string(body)
	}
	for _, c := range []struct {
		path, who string
		header    []string
		status    int
		has       string
	}{
		{"/v1/streams/counter/1/events", "", nil, 401, `"code":"unauthenticated"`},
		{"/v1/streams/client/bob/events", "ada", nil, 403, `"code":"forbidden"`},
		{"/v1/categories/unicorn/events", "ada", nil, 404, `"code":"not_found"`},
		{"/v1/categories/auction/events?cursor=4", "ada", nil, 409, `"code":"cursor_ahead"`},
		{"/v1/categories/auction/events", "ada", []string{"Last-Event-ID", "4"}, 409, `"code":"cursor_ahead"`},
		{"/v1/categories/auction/events", "ada", []string{"Last-Event-ID", "x"}, 400, `"field":"cursor"`},
		{"/v1/categories/auction/events?cursor=2&log=another", "ada", nil, 409, `"code":"cursor_ahead"`},
		{"/v1/categories/auction/events?log=another", "ada", []string{"Last-Event-ID", "2"}, 409, `"code":"cursor_ahead"`},
		{"/v1/categories/auction/events?from=then", "ada", nil, 400, `"field":"from"`},
		{"/v1/categories/auction/events?from=now&cursor=1", "ada", nil, 400, `exclude each other`},
		{"/v1/categories/auction/events", "ada", []string{"Origin", "https://evil.example"}, 403, `"code":"forbidden"`},
	} {
		if status, body := ask(c.path, c.who, c.header...); status != c.status || !strings.Contains(body, c.has) {
			t.Errorf("%s %v: got %d %s, want %d with %s", c.path, c.header, status, body, c.status, c.has)
		}
	}

	n.join("ada")
	if status, body := ask("/v1/categories/auction/events", "ada"); status != 429 || !strings.Contains(body, `"code":"rate_limited"`) {
		t.Errorf("a second session of ada: got %d %s", status, body)
	}
	n.events("/v1/categories/auction/events", "bob")
	n.events("/v1/categories/auction/events", "carol", "Origin", n.url)
	if status, body := ask("/v1/categories/auction/events", "eve"); status != 503 || !strings.Contains(body, `"code":"unavailable"`) {
		t.Errorf("a fourth session: got %d %s", status, body)
	}

	conn, err := net.Dial("tcp", strings.TrimPrefix(w.node().url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /v1/categories/auction/events HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n")
	if answer, _ := io.ReadAll(conn); !strings.Contains(string(answer), " 400 ") || !strings.Contains(string(answer), "need HTTP/1.1") {
		t.Errorf("HTTP/1.0: got %s", answer)
	}
}

func TestServerSentEventsEndWithWhy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	shown := n.events("/v1/categories/auction/events", "")
	hidden := n.events("/v1/streams/counter/a/events", "ada")
	shown.wantEvent(t, "live", "")
	hidden.wantEvent(t, "live", "")
	w.append(eventstore.StreamID{Type: "counter", ID: "a"}, eventstore.Event{Type: "added", Form: 2, Data: []byte(`{}`)})
	hidden.wantEvent(t, "unsubscribed", `{"code":"unavailable","message":"node n1 can't show version 1 of counter/a`)
	hidden.wantEvent(t, "close", `{"code":4200,"reason":"unsubscribed"}`)
	if _, err := hidden.next(); err != io.EOF {
		t.Errorf("got %v, want the last chunk", err)
	}

	drained := make(chan error)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		drained <- n.Drain(ctx)
	}()
	if ev := shown.wantEvent(t, "", ""); ev.id != "1" || ev.data != "" {
		t.Errorf("the last heartbeat: got %+v", ev)
	}
	shown.retry = -1
	shown.wantEvent(t, "goodbye", `{"reason":"draining","reconnect_in_ms":`)
	if shown.retry < 0 || shown.retry > 1000 {
		t.Errorf("retry is %d", shown.retry)
	}
	shown.wantEvent(t, "close", `{"code":1012,"reason":"draining"}`)
	if _, err := shown.next(); err != io.EOF {
		t.Errorf("got %v, want the last chunk", err)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestServerSentEventsBeatAndEndWithTheirToken(t *testing.T) {
	t.Parallel()
	bubbleOver(t, func(c *gateway.Config) { c.Auth = expiring{c.Auth, 10 * time.Minute} }, func(t *testing.T, g *gateway.Gateway, transport *http.Transport) {
		e, err := openEvents(transport, "http://gateway/v1/streams/counter/a/events", "ada")
		if err != nil {
			t.Fatal(err)
		}
		defer e.close()
		e.wantEvent(t, "live", `{"version":0,"cursor":"0"}`)
		began := time.Now()
		g.Deliver([]eventstore.Commit{{
			Position: 7, Stream: eventstore.StreamID{Type: "auction", ID: "1"}, Version: 7, At: time.Now(),
			Events: make([]eventstore.Event, 7),
		}})
		for i := range 21 { // the client says nothing, and lives
			ev, err := e.next()
			if err != nil || ev.name != "" || ev.data != "" || e.lastID != "7" {
				t.Fatalf("heartbeat %d: got %+v, %v", i, ev, err)
			}
			if at := time.Since(began); at != time.Duration(i+1)*25*time.Second {
				t.Errorf("heartbeat %d came after %v", i+1, at)
			}
		}
		e.wantEvent(t, "expiring", `{"in_ms":60000}`)
		for {
			ev, err := e.next()
			if err != nil {
				t.Fatal(err)
			}
			if ev.name != "" {
				if ev.name != "close" || !strings.Contains(ev.data, `"code":4001`) || time.Since(began) != 10*time.Minute {
					t.Errorf("got %+v after %v", ev, time.Since(began))
				}
				break
			}
		}
	})
}

func TestJSONLinesOfAHeadRequestAreNone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	w.add("auction/1", 3)
	for _, accept := range []string{"application/x-ndjson", "text/event-stream"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodHead, n.url+"/v1/categories/auction/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		resp, err := oneShot.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != accept || n.Stats().Sessions != 0 {
			t.Errorf("%s: got %s %v", accept, resp.Status, resp.Header)
		}
	}
}

// TestSessionsAreSentAwayOneAfterAnother holds what a draining gateway does
// against time: a session that waits for its turn is served.
func TestSessionsAreSentAwayOneAfterAnother(t *testing.T) {
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
		told := map[time.Duration]int{}
		waits := map[int64]bool{}
		for _, c := range clients {
			reading.Go(func() {
				for {
					switch f := c.eventually().(type) {
					case frame.Goodbye:
						mu.Lock()
						told[time.Since(began)]++
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
			if at := time.Duration(i) * 2 * time.Millisecond; told[at] != 1 {
				t.Errorf("%d sessions were told at %v, want 1", told[at], at)
			}
		}
		if len(waits) < 5 {
			t.Errorf("20 sessions were told the %d times to reconnect: %v", len(waits), waits)
		}
	})
}

// TestEventsThatWereThereComeBeforeGoodbye sends a session away while its feed
// has more for it than one message holds.
func TestEventsThatWereThereComeBeforeGoodbye(t *testing.T) {
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
	n.settle()
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
