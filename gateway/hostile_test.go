package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// largeStates is an owner whose aggregates have states of the given size.
type largeStates struct {
	gateway.Router
	bytes int
	asked atomic.Int64
}

func (l *largeStates) Get(context.Context, command.Get) (command.State, error) {
	l.asked.Add(1)
	return command.State{Version: 1, Position: 1, Data: []byte(`"` + strings.Repeat("x", l.bytes) + `"`)}, nil
}

func (w *world) largeStates(bytes int) (*largeStates, func(*gateway.Config)) {
	l := &largeStates{Router: w.router, bytes: bytes}
	return l, func(c *gateway.Config) { c.Router = l }
}

// pipelined returns a message with n copies of a request, in which %d becomes the
// number of the copy.
func pipelined(n int, request string) string {
	lines := make([]string, n)
	for i := range lines {
		lines[i] = fmt.Sprintf(request, i)
	}
	return strings.Join(lines, "\n")
}

func TestStatesWaitForRoomInTheSendBuffer(t *testing.T) {
	t.Parallel()
	const state = 256 << 10
	const requests = 30
	const most = 256<<10 + 2*state // QueueBytes, one more state, and the rest of a message with a state
	for name, request := range map[string]string{
		"get":   `{"op":"get","id":"%d","aggregate":"auction/1"}`,
		"state": `{"op":"subscribe","id":"%d","stream":"auction/1","state":true}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			states, large := w.largeStates(state)
			n := w.node(large)
			c := n.join("eve")
			c.send(pipelined(requests, request))
			waitFor(t, func() bool { return n.Stats().Full == 1 })
			answers := 0
			for answers < requests { // the client reads replies, so the gateway asks for more states
				if waits := n.Stats().Outbound; waits > most {
					t.Fatalf("one session has %d pending bytes, want at most %d", waits, most)
				}
				switch f := c.read().(type) {
				case frame.Result, frame.State:
					answers++
				case frame.Fault:
					t.Fatalf("got %s", f.Append(nil))
				}
			}
			if asked := states.asked.Load(); asked > 3*requests {
				t.Errorf("the router was asked %d times for %d answers", asked, requests)
			}
			waitFor(t, func() bool { return n.Stats().Outbound == 0 })
		})
	}
}

// protocol: close 4100
func TestLargestHoldersAreEvictedAndNewcomersAdmitted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, large := w.largeStates(64 << 10)
	n := w.node(large, limited(func(l *gateway.Limits) { l.OutboundBytes = 256 << 10 }))
	quick := n.join("ada")
	var hostile []*client
	for range 8 { // each has up to 256 KB pending, and as much in the kernel
		c := n.join("")
		c.send(pipelined(30, `{"op":"get","id":"%d","aggregate":"auction/1"}`))
		hostile = append(hostile, c)
	}
	waitFor(t, func() bool { return n.Stats().Limited["outbound_bytes"] > 0 && n.Stats().Outbound <= 256<<10 })
	quick.send(`{"op":"ping","id":"p"}`)
	want[frame.Pong](quick)
	n.join("eve")
	closed := uint64(0)
	for _, c := range hostile {
		var err error
		for answers := 0; answers < 30 && err == nil; answers++ {
			_, err = c.next()
		}
		if err == nil {
			continue
		}
		if code := websocket.CloseStatus(err); code != frame.CloseOverloaded {
			t.Errorf("closed with %d (%v), want 4100", code, err)
		}
		closed++
	}
	if limited := n.Stats().Limited["outbound_bytes"]; closed == 0 || closed != limited {
		t.Errorf("%d sessions were closed, and %d were counted", closed, limited)
	}
}

func TestSlowHTTPResponsesAreEvicted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(limited(func(l *gateway.Limits) { l.OutboundBytes = 256 << 10 }))
	for range 100 { // more than the kernel takes
		w.append(eventstore.StreamID{Type: "auction", ID: "1"}, large(100)...)
	}
	n.catchUp()
	c := n.connectRaw()
	c.send([]byte("GET /v1/categories/auction/events HTTP/1.1\r\nHost: x\r\n\r\n"))
	waitFor(t, func() bool { return n.Stats().Limited["outbound_bytes"] == 1 && n.Stats().Outbound == 0 })
	resp, err := http.ReadResponse(c.r, nil)
	if err == nil { // else it was cut off in its header
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a response that was cut off ends with %v", err)
	}
	n.join("ada")
}

// protocol: error rate_limited, close 4101
func TestAnonymousSessionsMakeRoomForKnownClients(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(limited(func(l *gateway.Limits) { l.Sessions, l.AnonymousSessions = 3, 2 }))
	first, second := n.join(""), n.join("")
	third := n.dial()
	third.send(`{"op":"hello","id":"1"}`)
	if f := third.wantFault("1", command.CodeRateLimited); f.Retry != command.RetryLater {
		t.Errorf("got %s", f.Append(nil))
	}
	third.wantClose(frame.CloseTooMany)
	n.wantLimited("anonymous_sessions", 1)
	n.join("ada")
	n.join("bob")
	first.wantClose(frame.CloseTooMany)
	n.join("eve")
	second.wantClose(frame.CloseTooMany)
	n.dial().wantClose(frame.CloseTooMany)
	stream, err := openEvents(oneShot, n.url+"/v1/categories/auction/events", "dan")
	if err != nil {
		t.Fatal(err)
	}
	stream.close()
	if stream.resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("an event stream past the sessions of the node: got %s", stream.resp.Status)
	}
}

func TestSessionsBeforeHelloMakeRoomForNewcomers(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(limited(func(l *gateway.Limits) { l.Sessions, l.AnonymousSessions = 2, 2 }))
	ends := make(chan error, 10)
	for range cap(ends) {
		silent := n.dial()
		go func() {
			_, err := silent.next()
			ends <- err
		}()
	}
	waitFor(t, func() bool { return n.Stats().Limited["anonymous_sessions"] == 8 }) // all are admitted, of which two are left
	n.join("ada")
	n.join("bob")
	for range cap(ends) - 2 { // which of them depends on the order of their admission
		if err := <-ends; websocket.CloseStatus(err) != frame.CloseTooMany {
			t.Errorf("a session before hello: %v, want it closed with %d", err, frame.CloseTooMany)
		}
	}
}

func TestRejectedSessionsAreBounded(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(limited(func(l *gateway.Limits) { l.Sessions = 1 }))
	n.join("ada")
	var rejected []*raw
	for range 40 { // none of the clients answers the close frame
		rejected = append(rejected, n.openRaw())
	}
	waitFor(t, func() bool { return n.Stats().Limited["sessions"] == 40 })
	waitFor(t, func() bool { return n.Stats().Rejecting <= 16 })
	for _, c := range rejected {
		_, err := io.Copy(io.Discard, c.r)
		if netErr, ok := errors.AsType[net.Error](err); ok && netErr.Timeout() {
			t.Error("a rejected connection stays open")
		}
		_ = c.conn.Close()
	}
	waitFor(t, func() bool { return n.Stats().Rejecting == 0 })
}

// private is an application in which an anonymous client may do nothing.
type private struct{ catalog }

func (private) AllowsAnonymous() bool { return false }

// tokensOnly is an Authenticator that is not [gateway.Development].
type tokensOnly struct{ gateway.Authenticator }

// protocol: error unauthenticated, close 4001
func TestHelloWithoutTokenIsRefusedWhereNothingIsPublic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tokens := func(c *gateway.Config) { c.Auth = tokensOnly{c.Auth} }
	n := w.node(tokens, func(c *gateway.Config) { c.Catalog = private{} })
	c := n.dial()
	c.send(`{"op":"hello","id":"1"}`)
	c.wantFault("1", command.CodeUnauthenticated)
	c.wantClose(frame.CloseUnauthenticated)
	c = n.dial()
	c.send(`{"op":"hello","id":"1","token":"dev:ada"}`)
	want[frame.Welcome](c)
	w.node(tokens).join("") // an application with something public
}

// protocol: client auth, error rate_limited
func TestRenewalsPastTheirRateAreRefused(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, g *gateway.Gateway, dial func() *client) {
		c := dial()
		c.send(`{"op":"hello","id":"h","token":"dev:ada"}`)
		want[frame.Welcome](c)
		c.send(pipelined(200, `{"op":"auth","id":"%d","token":"dev:ada"}`))
		results := 0
		for range 200 {
			switch f := c.read().(type) {
			case frame.Result:
				results++
			case frame.Fault:
				if f.Code != command.CodeRateLimited || f.Retry != command.RetryLater || f.AfterMS != 1000 {
					t.Errorf("got %s", f.Append(nil))
				}
			}
		}
		if results != 10 || g.Stats().Limited["renewals"] != 190 {
			t.Errorf("%d renewals were accepted and %d refused, want 10 and 190", results, g.Stats().Limited["renewals"])
		}
		time.Sleep(time.Second)
		c.send(`{"op":"auth","id":"again","token":"dev:ada"}`)
		want[frame.Result](c)
		_ = c.conn.CloseNow()
	})
}

// gatedStore is a store whose reads of a type wait until the test allows them.
type gatedStore struct {
	eventstore.Store
	read  chan string // the type of the read that waits
	allow chan struct{}
}

func (g gatedStore) ReadType(ctx context.Context, typ string, after eventstore.Position, limit, most int) ([]eventstore.Commit, eventstore.Position, error) {
	g.read <- typ
	<-g.allow
	return g.Store.ReadType(ctx, typ, after, limit, most)
}

func TestListingsOfOneClientDelayNoOtherClient(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.add("counter/1", 1)
	w.add("auction/1", 1)
	store := gatedStore{w.store, make(chan string), make(chan struct{})}
	n := w.node(func(c *gateway.Config) { c.Store, c.PageReads = store, 1 })
	var listings sync.WaitGroup
	for range 20 {
		listings.Go(func() { n.do("GET", "/v1/categories/counter/events", "eve", "") })
	}
	next := func(allow bool) string {
		typ := <-store.read
		if allow {
			store.allow <- struct{}{}
		}
		return typ
	}
	next(false)
	waitFor(t, func() bool { return n.ReadsWaiting() == 19 })
	c := n.join("bob")
	c.send(`{"op":"subscribe","id":"s","category":"auction","cursor":"0"}`)
	want[frame.Subscribed](c)
	waitFor(t, func() bool { return n.ReadsWaiting() == 20 })
	store.allow <- struct{}{}
	for before := 0; next(true) != "auction"; before++ {
		if before == 2 {
			t.Error("bob waited for more than two of eve's listings")
		}
	}
	c.wantEvents("s", 1)
	done := make(chan struct{})
	go func() {
		listings.Wait()
		close(done)
	}()
	for {
		select {
		case <-store.read:
			store.allow <- struct{}{}
			continue
		case <-done:
		}
		break
	}
}

// protocol: status 429
func TestRequestsInProgressOfOneClientAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(limited(func(l *gateway.Limits) { l.OpenRequests = 2 }))
	var waiting sync.WaitGroup
	for i := range 2 {
		waiting.Go(func() {
			n.do("POST", "/v1/commands", "eve", fmt.Sprintf(`{"aggregate":"counter/%d","command":"wait","data":{}}`, i))
		})
	}
	waitFor(t, func() bool { return n.Stats().Commands == 2 })
	status, body := n.do("GET", "/v1/aggregates/auction/1", "eve", "")
	if status != http.StatusTooManyRequests || !strings.Contains(body, `"code":"rate_limited"`) {
		t.Errorf("got %d %s", status, body)
	}
	if status, body := n.do("GET", "/v1/aggregates/auction/1", "ada", ""); status != http.StatusOK {
		t.Errorf("another client: got %d %s", status, body)
	}
	n.wantLimited("open_requests", 1)
	close(w.router.release)
	waiting.Wait()
	if status, body := n.do("GET", "/v1/aggregates/auction/1", "eve", ""); status != http.StatusOK {
		t.Errorf("after the others were answered: got %d %s", status, body)
	}
}

func TestIdleConnectionsMakeRoomForNewcomers(t *testing.T) {
	t.Parallel()
	bound := gateway.NewConnections(4)
	entered, release := make(chan struct{}), make(chan struct{})
	srv := &http.Server{ConnState: bound.State, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			entered <- struct{}{}
			<-release
		}
	})}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(listener) })
	open := func(request string) net.Conn {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	answered := func(conn net.Conn) bool {
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		return err == nil && resp.StatusCode == http.StatusOK
	}
	const header = "GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"
	var idle []net.Conn
	for range 10 {
		idle = append(idle, open("GET / HTTP/1.1\r\n")) // an incomplete request
	}
	if !answered(open(fmt.Sprintf(header, ""))) {
		t.Error("a new connection was not served while idle ones were open")
	}
	for _, conn := range idle[:7] {
		if _, err := io.Copy(io.Discard, conn); err != nil {
			if netErr, ok := errors.AsType[net.Error](err); ok && netErr.Timeout() {
				t.Error("an idle connection stays open")
			}
		}
	}
	var slow []net.Conn
	for range 4 {
		slow = append(slow, open(fmt.Sprintf(header, "slow")))
		<-entered
	}
	if !answered(open(fmt.Sprintf(header, ""))) {
		t.Error("a new connection was not served during slow requests")
	}
	close(release)
	if answered(slow[0]) {
		t.Error("the connection with the oldest request stayed open")
	}
	if !answered(slow[3]) {
		t.Error("more connections were closed than necessary")
	}
	if bound.Closed() < 8 {
		t.Errorf("%d connections were closed, want at least 8", bound.Closed())
	}
	_ = srv.Close()
	serving.Wait()
}
