package gateway_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// protocol: client hello, gateway welcome
// protocol: rule Authentication
func TestHelloGetsAWelcome(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(func(c *gateway.Config) { c.Heartbeat = 0 }) // the default
	w.add("counter/a", 3)
	n.catchUp()
	for name, c := range map[string]func() (*client, string){
		"a client id on trust": func() (*client, string) {
			c := n.dial()
			c.send(`{"op":"hello","id":"1","client":"ada"}`)
			return c, "ada"
		},
		"a token": func() (*client, string) {
			c := n.dial()
			c.send(`{"op":"hello","id":"1","token":"dev:ada"}`)
			return c, "ada"
		},
		"a header": func() (*client, string) {
			c := n.dial("Authorization", "Bearer dev:ada")
			c.send(`{"op":"hello","id":"1"}`)
			return c, "ada"
		},
		"anonymous":       func() (*client, string) { c := n.dial(); c.send(`{"op":"hello","id":"1"}`); return c, "" },
		"unknown members": func() (*client, string) { c := n.dial(); c.send(`{"op":"hello","id":"1","shiny":[1]}`); return c, "" },
	} {
		t.Run(name, func(t *testing.T) {
			c, who := c()
			f := want[frame.Welcome](c)
			if f.ID != "1" || f.Client != who || f.Node != "n1" || f.Server != "v0.0.1" || f.Log != w.store.LogID() || f.Cursor != "3" ||
				f.Session == "" || f.HeartbeatMS != 25000 ||
				f.Limits != (frame.Limits{FrameBytes: 96 << 10, OpenRequests: 256, Subscriptions: 1000}) {
				t.Errorf("got %s", f.Append(nil))
			}
		})
	}
}

// protocol: error unauthenticated, close 4001, status 401
// protocol: rule Authentication
func TestUnauthenticatedClientIsRejected(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	for name, hello := range map[string]string{
		"an invalid token":          `{"op":"hello","id":"1","token":"secret"}`,
		"another than the header's": `{"op":"hello","id":"1","client":"bob"}`,
		"another in hello's token":  `{"op":"hello","id":"1","token":"dev:bob"}`,
	} {
		c := n.dial("Authorization", "Bearer dev:ada")
		c.send(hello)
		f := c.wantFault("1", command.CodeUnauthenticated)
		if strings.Contains(f.Message, "secret") {
			t.Errorf("%s: the message repeats the token: %s", name, f.Message)
		}
		c.wantClose(4001)
	}
	_, resp, err := n.tryDial("Authorization", "Bearer secret")
	if err == nil || resp.StatusCode != 401 {
		t.Errorf("an invalid token in the header: got %v, want 401", err)
	}
}

// protocol: http GET /v1/ws, status 400, status 403
// protocol: rule GET /v1/ws, subprotocol ganglion.v1
// protocol: rule Browsers
func TestHandshakeChecksSubprotocolAndOrigin(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node(func(c *gateway.Config) { c.Origins = []string{"*.example.org", "https://app.example.com"} })
	host := strings.TrimPrefix(n.url, "http://")
	for _, c := range []struct {
		name   string
		header []string
		status int
	}{
		{"ganglion.v1", nil, 101},
		{"no subprotocol", []string{"Sec-WebSocket-Protocol", ""}, 101},
		{"one of several", []string{"Sec-WebSocket-Protocol", "future.v9 ganglion.v1"}, 101},
		{"only an unknown one", []string{"Sec-WebSocket-Protocol", "future.v9"}, 400},
		{"the same host", []string{"Origin", "http://" + host}, 101},
		{"a listed host", []string{"Origin", "http://a.example.org"}, 101},
		{"a listed origin", []string{"Origin", "https://app.example.com"}, 101},
		{"a listed origin with another scheme", []string{"Origin", "http://app.example.com"}, 403},
		{"another host", []string{"Origin", "https://evil.example"}, 403},
		{"the origin null", []string{"Origin", "null"}, 403},
	} {
		_, resp, err := n.tryDial(c.header...)
		if resp == nil || resp.StatusCode != c.status {
			t.Errorf("%s: got %v (%v), want %d", c.name, resp, err, c.status)
		}
	}
}

// protocol: client query, error bad_request, error too_large, error not_found, error unsupported, gateway error
// protocol: rule An unknown op
// protocol: rule Names
func TestBadInputIsRefusedAndTheSessionContinues(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	c := n.join("ada")
	for _, bad := range []struct {
		send  string
		id    string
		code  command.Code
		field string
		says  string
	}{
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{"by":"\u0000"}}`, "1", "bad_request", "data", "U+0000"},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"key":"` + strings.Repeat("k", 65) + `"}`, "1", "bad_request", "key", "64"},
		{`{"op":"command","id":"1","aggregate":"counter/..","command":"add","data":{}}`, "1", "bad_request", "aggregate", `".."`},
		{`{"op":"command","id":"1","aggregate":"counter","command":"add","data":{}}`, "1", "bad_request", "aggregate", "type/id"},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"timeout_ms":30001}`, "1", "bad_request", "timeout_ms", "30000"},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"timeout_ms":0}`, "1", "bad_request", "timeout_ms", "1"},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{},"expect":"7"}`, "1", "bad_request", "expect", "quotes"},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add"}`, "1", "bad_request", "data", "missing"},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":7,"data":{}}`, "1", "bad_request", "command", "string"},
		{`{"op":"command","id":"1","aggregate":"counter/a","data":{}}`, "1", "bad_request", "command", "missing"},
		{`{"op":"command","id":"1","command":"add","data":{}}`, "1", "bad_request", "aggregate", "missing"},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":"` + strings.Repeat("x", 64<<10) + `"}`, "1", "too_large", "data", "65536"},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{"ammount":1}}`, "1", "bad_request", "ammount", "data.ammount"},
		{`{"op":"command","id":"1","aggregate":"counter/a","command":"fly","data":{}}`, "1", "not_found", "", "fly"},
		{`{"op":"command","id":"1","aggregate":"unicorn/a","command":"add","data":{}}`, "1", "not_found", "", "unicorn"},
		{`{"op":"get","id":"1","aggregate":"unicorn/a"}`, "1", "not_found", "", "unicorn"},
		{`{"op":"get","id":"1","aggregate":"counter/a","strong":"yes"}`, "1", "bad_request", "strong", "true"},
		{`{"op":"get","id":"1","aggregate":"counter/a","at_least":-1}`, "1", "bad_request", "at_least", "whole number"},
		{`{"op":"query","id":"1","query":"tops","data":{}}`, "1", "unsupported", "", "no queries"},
		{`{"op":"subscribe","id":"1","query":"tops","data":{}}`, "1", "unsupported", "", "stream"},
		{`{"op":"subscribe","id":"1"}`, "1", "bad_request", "stream", "stream"},
		{`{"op":"subscribe","id":"1","stream":"counter/a","category":"counter"}`, "1", "bad_request", "stream", "one of"},
		{`{"op":"subscribe","id":"1","stream":"counter/a","after":0,"cursor":"0"}`, "1", "bad_request", "cursor", "at most one"},
		{`{"op":"subscribe","id":"1","stream":"counter/a","last":0}`, "1", "bad_request", "last", "1"},
		{`{"op":"subscribe","id":"1","category":"counter","state":true}`, "1", "bad_request", "state", "streams"},
		{`{"op":"subscribe","id":"1","category":"counter","after":3}`, "1", "bad_request", "after", "streams"},
		{`{"op":"subscribe","id":"1","category":"Counter"}`, "1", "bad_request", "category", "lower-case"},
		{`{"op":"subscribe","id":"1","category":"unicorn"}`, "1", "not_found", "", "unicorn"},
		{`{"op":"subscribe","id":"1","stream":"counter/a","cursor":"x"}`, "1", "bad_request", "cursor", "malformed"},
		{`{"op":"subscribe","id":"1","stream":"counter/a","cursor":"007"}`, "1", "bad_request", "cursor", "malformed"},
		{`{"op":"subscribe","id":"1","stream":"counter/a","cursor":7}`, "1", "bad_request", "cursor", "string"},
		{`{"op":"unsubscribe","id":"1","sub":"nothing"}`, "1", "bad_request", "sub", "nothing"},
		{`{"op":"unsubscribe","id":"1"}`, "1", "bad_request", "sub", "missing"},
		{`{"op":"auth","id":"1"}`, "1", "bad_request", "token", "missing"},
		{`{"op":"auth","id":"1","token":"x"}`, "1", "unauthenticated", "", "dev:"},
		{`{"op":"dance","id":"1"}`, "1", "bad_request", "op", "dance"},
		{`{"op":["ping"],"id":"1"}`, "1", "bad_request", "op", "string"},
		{`{"id":"1"}`, "1", "bad_request", "op", "missing"},
		{`{"op":"ping"}`, "", "bad_request", "id", "missing"},
		{`{"op":"ping","id":1}`, "", "bad_request", "id", "string"},
		{`{"op":"ping","id":"` + strings.Repeat("i", 65) + `"}`, "", "bad_request", "id", "64"},
		{`{"op":"ping","id":"é"}`, "", "bad_request", "id", "ASCII"},
		{`{"op":"ping","id":"1","id":"2"}`, "", "bad_request", "id", "twice"},
		{`["ping"]`, "", "bad_request", "", "object"},
		{`{"op":"hello","id":"1"}`, "1", "bad_request", "op", "once"},
	} {
		c.send(bad.send)
		f := c.wantFault(bad.id, bad.code)
		if f.Field != bad.field || !strings.Contains(f.Message, bad.says) {
			t.Errorf("%.80s\n got %s\nwant the field %q and %q in the message", bad.send, f.Append(nil), bad.field, bad.says)
		}
	}
	c.send(`{"op":"ping","id":"1"}`)
	if f := want[frame.Pong](c); f.ID != "1" {
		t.Errorf("got %s", f.Append(nil))
	}
}

// protocol: close 1009, close 4000, close 4002
func TestMessageWithoutAFrameClosesTheConnection(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	for name, c := range map[string]struct {
		typ  websocket.MessageType
		data string
		code int
	}{
		"not JSON":    {websocket.MessageText, `{"op":"ping","id":"1"`, 4000},
		"not UTF-8":   {websocket.MessageText, "{\"op\":\"ping\",\"id\":\"\xff\"}", 4000},
		"binary":      {websocket.MessageBinary, `{"op":"ping","id":"1"}`, 4002},
		"over 96 KiB": {websocket.MessageText, `{"op":"ping","id":"1","x":"` + strings.Repeat("x", 96<<10) + `"}`, 1009},
		"10 MiB":      {websocket.MessageText, `{"op":"ping","id":"1","x":"` + strings.Repeat("x", 10<<20) + `"}`, 1009},
	} {
		cl := n.join("ada")
		if err := cl.conn.Write(t.Context(), c.typ, []byte(c.data)); err != nil {
			t.Logf("%s: %v", name, err) // the gateway reads the rest for only 5 s
		}
		cl.wantClose(c.code)
	}
	n.join("ada") // the node continues
}

// protocol: client ping, gateway pong
// protocol: rule Nothing but hello
func TestNothingButPingIsServedBeforeHello(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.node().dial("Authorization", "Bearer dev:ada")
	c.send(`{"op":"ping","id":"1"}`)
	want[frame.Pong](c)
	c.send(`{"op":"command","id":"2","aggregate":"counter/a","command":"add","data":{},"key":"k"}`)
	if f := c.wantFault("2", command.CodeBadRequest); f.Key != "k" {
		t.Errorf("the refusal of a command does not name its key: %s", f.Append(nil))
	}
	c.send(`{"op":"hello","id":"2"}`)
	want[frame.Welcome](c)
	if head, _ := w.store.Head(t.Context()); head != 0 {
		t.Error("a command before hello was executed")
	}
}

// protocol: rule id is the client's own correlation string
func TestDuplicateIDLeavesTheOpenRequestOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.node().join("ada")
	c.send(`{"op":"subscribe","id":"s","stream":"counter/b"}`)
	want[frame.Subscribed](c)
	want[frame.Live](c)
	c.send(`{"op":"command","id":"1","aggregate":"counter/a","command":"wait","data":{}}`)
	for _, id := range []string{"1", "s"} {
		c.sendf(`{"op":"ping","id":%q}`, id)
		if f := c.wantFault("", command.CodeBadRequest); !strings.Contains(f.Message, `"`+id+`"`) {
			t.Errorf("the message does not name %q: %s", id, f.Message)
		}
		c.sendf(`{"op":"dance","id":%q}`, id)
		if f := c.wantFault("", command.CodeBadRequest); !strings.Contains(f.Message, id) {
			t.Errorf("the message does not name %q: %s", id, f.Message)
		}
	}
	close(w.router.release)
	if f := want[frame.Result](c); f.ID != "1" {
		t.Errorf("got %s", f.Append(nil))
	}
	c.send(`{"op":"ping","id":"1"}`) // free again
	want[frame.Pong](c)
}

// protocol: client command, client get, gateway result, error key_reused, error conflict, error rejected, error timeout
// protocol: rule Read your writes
// protocol: rule Exactly once
func TestCommandsGetTheirOutcome(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.node().join("ada")
	c.send(`{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{"by":1},"key":"k1"}`)
	if f := want[frame.Result](c); f.ID != "1" || f.Key != "k1" || f.Version != 1 || f.Position != 1 || f.Replayed || string(f.Data) != `{"ok":true}` {
		t.Errorf("got %s", f.Append(nil))
	}
	c.send(`{"op":"command","id":"2","aggregate":"counter/a","command":"add","data":{"by":1},"key":"k1"}`)
	if f := want[frame.Result](c); f.Version != 1 || !f.Replayed {
		t.Errorf("the same key again: got %s", f.Append(nil))
	}
	c.send(`{"op":"command","id":"3","aggregate":"counter/a","command":"add","data":{"by":2},"key":"k1"}`)
	c.wantFault("3", command.CodeKeyReused)
	c.send(`{"op":"command","id":"4","aggregate":"counter/a","command":"add","data":{"by":1}}`)
	if f := want[frame.Result](c); f.Version != 2 || len(f.Key) != 36 || f.Key[14] != '7' {
		t.Errorf("without a key the gateway makes a UUIDv7: got %s", f.Append(nil))
	}
	c.send(`{"op":"command","id":"5","aggregate":"counter/a","command":"add","data":{"by":1},"expect":1}`)
	if f := c.wantFault("5", command.CodeConflict); f.Version == nil || *f.Version != 2 {
		t.Errorf("got %s", f.Append(nil))
	}
	c.send(`{"op":"command","id":"6","aggregate":"counter/a","command":"fail","data":{}}`)
	if f := c.wantFault("6", command.CodeRejected); f.Reason != "zero" || f.Key == "" {
		t.Errorf("got %s", f.Append(nil))
	}
	c.send(`{"op":"command","id":"7","aggregate":"counter/a","command":"wait","data":{},"timeout_ms":1,"key":"k7"}`)
	if f := c.wantFault("7", command.CodeTimeout); f.Retry != command.RetrySameKey || f.Key != "k7" {
		t.Errorf("got %s", f.Append(nil))
	}
	close(w.router.release) // the late reply has no effect
	c.send(`{"op":"get","id":"8","aggregate":"counter/a","strong":true,"at_least":2}`)
	if f := want[frame.Result](c); f.ID != "8" || f.Version < 2 || f.Data == nil || f.Key != "" {
		t.Errorf("got %s", f.Append(nil))
	}
}

// lateRouter replies 500 ms after the deadline.
type lateRouter struct{ *owner }

func (r lateRouter) Send(c command.Command, reply func(command.Outcome)) {
	time.AfterFunc(time.Until(c.Deadline)+500*time.Millisecond, func() {
		reply(command.Outcome{Result: command.Result{Key: c.Key, Version: 1, Position: 1}})
	})
}

func TestOnlyTheRouterRepliesTimeout(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(func(c *gateway.Config) { c.Router = lateRouter{w.router} })
	c := n.join("ada")
	c.send(`{"op":"command","id":"2","aggregate":"counter/a","command":"add","data":{"by":1},"timeout_ms":1}`)
	if f := want[frame.Result](c); f.ID != "2" {
		t.Errorf("got %s", f.Append(nil))
	}
	status, body := n.do("POST", "/v1/commands", "ada", `{"aggregate":"counter/a","command":"add","data":{"by":1},"timeout_ms":1}`)
	if status != http.StatusOK {
		t.Errorf("over HTTP: %d %s", status, body)
	}
}

// protocol: rule Commands keep their order
// protocol: rule A WebSocket text message carries
func TestPipelinedCommandsKeepTheirOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.node().join("ada")
	const commands = 100
	var sent []string
	go func() {
		var batch strings.Builder
		for i := range commands {
			fmt.Fprintf(&batch, `{"op":"command","id":"%d","aggregate":"counter/a","command":"add","data":{"by":%d},"timeout_ms":30000}`+"\n", i, i)
			if i%7 == 6 || i == commands-1 {
				_ = c.conn.Write(context.Background(), websocket.MessageText, []byte(batch.String()))
				batch.Reset()
			}
		}
	}()
	for i := range commands {
		sent = append(sent, fmt.Sprintf(`{"by":%d}`, i))
		if f := want[frame.Result](c); f.ID != fmt.Sprint(i) || int(f.Version) != i+1 {
			t.Fatalf("answer %d: got %s", i, f.Append(nil))
		}
	}
	w.router.mu.Lock()
	defer w.router.mu.Unlock()
	if !slices.Equal(w.router.order, sent) {
		t.Error("the router got the commands in another order than the client sent")
	}
}

// protocol: error unauthenticated, error forbidden
func TestAccessIsCheckedAsDeclared(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	anonymous := n.dial()
	anonymous.send(`{"op":"hello","id":"0"}`)
	want[frame.Welcome](anonymous)
	ada := n.join("ada")
	for _, c := range []struct {
		who  *client
		send string
		code command.Code // empty: granted
	}{
		{anonymous, `{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{}}`, "unauthenticated"},
		{anonymous, `{"op":"get","id":"1","aggregate":"client/ada"}`, "unauthenticated"},
		{anonymous, `{"op":"get","id":"1","aggregate":"auction/1"}`, ""},
		{anonymous, `{"op":"subscribe","id":"1","category":"counter"}`, "unauthenticated"},
		{ada, `{"op":"get","id":"1","aggregate":"client/ada"}`, ""},
		{ada, `{"op":"get","id":"1","aggregate":"client/bob"}`, "forbidden"},
		{ada, `{"op":"subscribe","id":"1","stream":"client/bob"}`, "forbidden"},
		{ada, `{"op":"subscribe","id":"1","category":"client"}`, "forbidden"},
	} {
		c.who.send(c.send)
		if c.code != "" {
			c.who.wantFault("1", c.code)
		} else {
			want[frame.Result](c.who)
		}
	}
}

// protocol: client auth, close 4001
func TestAuthRenewsTheSameClientOnly(t *testing.T) {
	t.Parallel()
	c := newWorld(t).node().join("ada")
	c.send(`{"op":"auth","id":"1","token":"dev:ada"}`)
	if f := want[frame.Result](c); f.ID != "1" {
		t.Errorf("got %s", f.Append(nil))
	}
	c.send(`{"op":"auth","id":"2","token":"dev:bob"}`)
	c.wantFault("2", command.CodeUnauthenticated)
	c.wantClose(4001)
}

func TestSocketIsNotReadPastTheOpenRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(func(c *gateway.Config) { c.Limits.OpenRequests = 4 })
	c := n.join("ada")
	for i := range 10 {
		c.sendf(`{"op":"command","id":"%d","aggregate":"counter/a","command":"wait","data":{"by":%d}}`, i, i)
	}
	other := n.join("bob") // once it has its reply, the gateway has read all the commands that it reads
	other.send(`{"op":"command","id":"x","aggregate":"counter/b","command":"add","data":{}}`)
	want[frame.Result](other)
	w.router.mu.Lock()
	if got := len(w.router.order); got > 5 {
		t.Errorf("%d commands reached the router, want at most 4", got-1)
	}
	w.router.mu.Unlock()
	close(w.router.release)
	for i := range 10 {
		if f := want[frame.Result](c); f.ID != fmt.Sprint(i) {
			t.Errorf("answer %d: got %s", i, f.Append(nil))
		}
	}
}

// failingRouter is a router whose errors a client must not see.
type failingRouter struct{ gateway.Router }

func (failingRouter) Get(context.Context, command.Get) (command.State, error) {
	return command.State{}, errors.New("postgres://ganglion:hunter2@db: connection refused")
}

// protocol: gateway error, error rejected, error conflict, error key_reused, error busy, error unavailable, error timeout, error internal
func TestFailuresReachTheClientWithoutInternals(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(func(c *gateway.Config) { c.Router = failingRouter{c.Router} })
	c := n.join("ada")
	for _, code := range []command.Code{
		command.CodeRejected, command.CodeConflict, command.CodeKeyReused, command.CodeBusy, command.CodeUnavailable, command.CodeTimeout, command.CodeInternal,
	} {
		w.router.refuse(code)
		c.sendf(`{"op":"command","id":%q,"aggregate":"counter/a","command":"add","data":{},"key":"k"}`, code)
		if f := c.wantFault(string(code), code); f.Key != "k" {
			t.Errorf("%s does not name the command's key: %s", code, f.Append(nil))
		}
	}
	c.send(`{"op":"get","id":"g","aggregate":"counter/a"}`)
	if f := c.wantFault("g", command.CodeInternal); strings.Contains(f.Message, "hunter2") || strings.Contains(f.Message, "postgres") {
		t.Errorf("got %s", f.Append(nil))
	}
}

// slowHandshake is a ResponseWriter that runs a function before it hands over
// its connection.
type slowHandshake struct {
	http.ResponseWriter
	first func()
}

func (s slowHandshake) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	s.first()
	return http.NewResponseController(s.ResponseWriter).Hijack()
}

// TestConnectionDuringAStopGetsTheReason drains or stops a gateway during a
// handshake. The session is closed with the reason, even after Run has returned.
//
// protocol: close 1012
func TestConnectionDuringAStopGetsTheReason(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]func(*node){
		"draining": func(n *node) { _ = n.Drain(context.Background()) },
		"stopped":  func(n *node) { n.stop(); <-n.stopped },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newWorld(t).node()
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n.Handler().ServeHTTP(slowHandshake{w, func() { first(n) }}, r)
			}))
			defer srv.Close()
			c, _, err := dialWith(t, srv.URL, nil)
			if err != nil {
				t.Fatal(err)
			}
			c.wantClose(frame.CloseDraining)
		})
	}
}

// protocol: close 1001
func TestStoppingGatewayClosesItsSessions(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	c, silent := n.join("ada"), n.dial()
	waitFor(t, func() bool { return n.Stats().Sessions == 2 }) // the handshake ends before the session starts
	n.stop()
	c.wantClose(1001)
	silent.wantClose(1001)
}
