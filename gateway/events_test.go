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
)

// sse is a client of Server-Sent Events, which reads them as the HTML standard
// specifies (9.2.6, interpreting an event stream).
type sse struct {
	resp   *http.Response
	lines  *bufio.Reader
	lastID string
	retry  int
}

// sseEvent is a dispatched event.
type sseEvent struct {
	name, data string
	id         string // lastID at the event
}

// events requests Server-Sent Events.
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
	openAPIContract(n.w.t).check(n.w.t, http.MethodGet, path, e.resp, "")
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
	return newSSE(resp), nil
}

func newSSE(resp *http.Response) *sse { return &sse{resp: resp, lines: bufio.NewReader(resp.Body)} }

func (e *sse) close() { _ = e.resp.Body.Close() }

// next returns the next dispatched event. Its error is io.EOF after the final
// chunk.
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

// wantEvent reads the next event, which must have the name.
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

// position peeks at the id of the next event.
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

func TestEventStreamContinuesLiveAndResumesAnywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.node(small), w.node()
	w.add("auction/1", 10)
	w.add("auction/2", 5)
	first.catchUp()
	second.catchUp()

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

	// A browser repeats the URL of the first request.
	second.catchUp()
	e = second.events("/v1/streams/auction/1/events?after=3", "", "Last-Event-ID", e.lastID)
	e.wantEvent(t, "live", `"version":12`)
	w.add("auction/1", 1)
	e.wantVersions(t, "auction/1", 13, 13)

	c := second.events("/v1/categories/auction/events?cursor=12&log="+w.store.LogID(), "ada")
	c.wantVersions(t, "auction/2", 3, 5)
	c.wantVersions(t, "auction/1", 11, 12)
	c.wantVersions(t, "auction/2", 6, 6)
	c.wantVersions(t, "auction/1", 13, 13)
	c.wantEvent(t, "live", `{"cursor":"19"}`)

	first.catchUp()
	now := first.events("/v1/categories/auction/events?from=now", "ada")
	now.wantEvent(t, "live", `"cursor":"19"`)
	w.add("auction/3", 1)
	now.wantVersions(t, "auction/3", 1, 1)
	waitFor(t, func() bool { return first.Stats().Sessions == 1 }) // the closed session has ended
}

// TestReconnectingEventStreamsMissNothing disconnects readers at random moments.
// They reconnect to random gateways with their last id, as an EventSource does.
func TestReconnectingEventStreamsMissNothing(t *testing.T) {
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

func TestSlowEventStreamIsDemoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(func(c *gateway.Config) { c.QueueBytes, c.SendBuffer, c.WindowEvents = 4<<10, 4<<10, 100 })
	e := n.events("/v1/categories/auction/events", "")
	e.wantEvent(t, "live", "")
	total, read, lives := 0, 0, 0
	next := func() { // reads the next version
		t.Helper()
		for ev := (sseEvent{}); ev.name != "" || ev.data == ""; {
			var err error
			if ev, err = e.next(); err != nil {
				t.Fatal(err)
			}
			if ev.name == "live" {
				lives++
			}
			if ev.name != "" || ev.data == "" {
				continue
			}
			if read++; !strings.Contains(ev.data, fmt.Sprintf(`"version":%d,`, read)) || !json.Valid([]byte(ev.data)) {
				t.Fatalf("got %.100s, want version %d", ev.data, read)
			}
		}
	}
	for n.Stats().Demotions == 0 {
		events := make([]eventstore.Event, 100)
		for i := range events {
			events[i] = eventstore.Event{Type: "added", Form: 1, Data: json.RawMessage("{\r\"text\":\"" + strings.Repeat("x", 1000) + `"}`)}
		}
		w.append(eventstore.StreamID{Type: "auction", ID: "1"}, events...)
		total += len(events)
		if n.Stats().Full > 0 { // a session is demoted when its socket takes something again
			next()
		}
	}
	for read < total {
		next()
	}
	if lives == 0 { // it is live again, if it has not been before the last events were stored
		e.wantEvent(t, "live", fmt.Sprintf(`"cursor":"%d"`, total))
	}
}

func TestInvalidEventStreamRequestGetsAProblem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(limited(func(l *gateway.Limits) { l.Sessions, l.SessionsPerClient = 3, 1 }))
	w.add("auction/1", 3)
	n.catchUp()
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
		openAPIContract(t).check(t, http.MethodGet, path, e.resp, string(body))
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
		{"/v1/streams/auction/1/events?state=true", "ada", nil, 400, `must be each or only`},
		{"/v1/streams/auction/1/events?state=only&after=1", "ada", nil, 400, `choose events`},
		{"/v1/categories/auction/events?state=each", "ada", nil, 400, `a category has no state`},
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

func TestEventStreamEndsWithItsCloseReason(t *testing.T) {
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

func TestEventStreamHasHeartbeatsAndEndsWithItsToken(t *testing.T) {
	t.Parallel()
	bubbleWithTransport(t, func(c *gateway.Config) { c.Auth = expiring{c.Auth, 10 * time.Minute} }, func(t *testing.T, g *gateway.Gateway, transport *http.Transport) {
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
		for i := range 21 { // the client sends nothing and is not closed
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

func TestHeadRequestForEventsHasNoBody(t *testing.T) {
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
