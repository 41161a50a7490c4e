package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion/test/harness"
)

// raw is a WebSocket connection on which a test sends exact frames.
type raw struct {
	t    *testing.T
	conn *websocket.Conn
	rest []string
}

func dial(t *testing.T, url string) *raw {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), harness.WS(url)+"/v1/ws", &websocket.DialOptions{Subprotocols: []string{"ganglion.v1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	conn.SetReadLimit(-1)
	return &raw{t: t, conn: conn}
}

func (r *raw) send(frames ...string) {
	r.t.Helper()
	if err := r.conn.Write(r.t.Context(), websocket.MessageText, []byte(strings.Join(frames, "\n"))); err != nil {
		r.t.Fatal(err)
	}
}

// next returns the next frame.
func (r *raw) next() harness.Frame {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), hungAfter)
	defer cancel()
	for len(r.rest) == 0 {
		_, message, err := r.conn.Read(ctx)
		if err != nil {
			r.t.Fatal(err)
		}
		r.rest = strings.Split(string(message), "\n")
	}
	var f harness.Frame
	if err := json.Unmarshal([]byte(r.rest[0]), &f); err != nil {
		r.t.Fatalf("%q: %v", r.rest[0], err)
	}
	r.rest = r.rest[1:]
	return f
}

// until returns the next frame with an op, and fails on an error frame.
func (r *raw) until(op string) harness.Frame {
	r.t.Helper()
	for {
		f := r.next()
		if f.Op == op {
			return f
		}
		if f.Op == "error" {
			r.t.Fatalf("waiting for %s: %s %s: %s", op, f.Code, f.Reason, f.Message)
		}
	}
}

// closed returns the code that the connection is closed with.
func (r *raw) closed() websocket.StatusCode {
	r.t.Helper()
	for {
		if _, _, err := r.conn.Read(r.t.Context()); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

// TestAuction plays the session of the README. A client opens an auction and
// another bids; both events arrive on a connection of a third node. A low bid is
// refused, and a client that reconnects resumes from its cursor.
func TestAuction(t *testing.T) {
	t.Parallel()
	dev := harness.Start(t, binary, 3, "dev", "--nodes", "3", "--listen", "127.0.0.1:0", "--data", t.TempDir())

	bob := dial(t, dev.URLs[1])
	bob.send(`{"op":"hello","id":"1","client":"bob"}`, `{"op":"subscribe","id":"2","stream":"auction/42","after":0}`)
	bob.until("live")
	ada := dial(t, dev.URLs[0])
	ada.send(`{"op":"hello","id":"1","client":"ada"}`,
		`{"op":"command","id":"2","aggregate":"auction/42","command":"open","data":{"item":"a lamp","reserve":1000,"closes_at":"2099-01-01T00:00:00Z"}}`)
	ada.until("result")

	eve := dial(t, dev.URLs[2])
	eve.send(`{"op":"hello","id":"1","client":"eve"}`,
		`{"op":"command","id":"2","aggregate":"auction/42","command":"bid","data":{"amount":1500}}`,
		`{"op":"command","id":"3","aggregate":"auction/42","command":"bid","data":{"amount":1400}}`)
	answers := map[string]harness.Frame{} // they may overtake each other
	for len(answers) < 2 {
		if f := eve.next(); f.ID == "2" || f.ID == "3" {
			answers[f.ID] = f
		}
	}
	if f := answers["2"]; f.Op != "result" || f.Version != 2 {
		t.Errorf("the bid: %s %s, version %d instead of 2", f.Op, f.Code, f.Version)
	}
	if f := answers["3"]; f.Code != "rejected" || f.Reason != "too_low" {
		t.Errorf("the low bid: %s/%s: %s", f.Code, f.Reason, f.Message)
	}

	if f := bob.until("event"); f.Event != "opened" || f.Version != 1 {
		t.Errorf("the first event is %s, version %d", f.Event, f.Version)
	}
	seen := bob.until("event")
	if seen.Event != "bid_placed" || seen.Version != 2 || seen.Stream != "auction/42" {
		t.Errorf("the second event is %s of %s, version %d", seen.Event, seen.Stream, seen.Version)
	}
	bob.conn.CloseNow()

	eve.send(`{"op":"command","id":"4","aggregate":"auction/42","command":"bid","data":{"amount":2000}}`)
	eve.until("result")
	back := dial(t, dev.URLs[0])
	back.send(fmt.Sprintf(`{"op":"hello","id":"1","client":"bob","subscriptions":[{"id":"2","stream":"auction/42","cursor":"%d"}]}`, seen.Position))
	if f := back.until("event"); f.Version != 3 {
		t.Errorf("after resuming the first event is version %d, want 3", f.Version)
	}

	// The same over HTTP.
	body := post(t, dev.URLs[1], "bob", `{"id":"1","aggregate":"auction/42","command":"bid","data":{"amount":2500}}`, 200)
	if !strings.Contains(body, `"version":4`) {
		t.Errorf("a bid over HTTP: %s", body)
	}
	body = post(t, dev.URLs[1], "ada", `{"id":"1","aggregate":"auction/42","command":"bid","data":{"amount":9000}}`, 422)
	if !strings.Contains(body, `"own_auction"`) {
		t.Errorf("the seller's bid over HTTP: %s", body)
	}

	// Bob has outbid Eve, so the process manager outbid tells her.
	told := dial(t, dev.URLs[2])
	told.send(`{"op":"hello","id":"1","client":"eve","subscriptions":[{"id":"2","stream":"client/eve","after":0}]}`)
	if f := told.skipTo("event"); f.Event != "notified" || string(f.Data) != `{"from":"~outbid","text":"you were outbid in auction 42"}` {
		t.Errorf("eve is told %s %s", f.Event, f.Data)
	}
}

// skipTo returns the next frame with an op, and ignores the frames before it.
func (r *raw) skipTo(op string) harness.Frame {
	r.t.Helper()
	for {
		if f := r.next(); f.Op == op {
			return f
		}
	}
}

func post(t *testing.T, url, client, body string, want int) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/commands", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer dev:"+client)
	resp, err := harness.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != want {
		t.Errorf("POST returned %s, want %d: %s", resp.Status, want, text)
	}
	return string(text)
}

// TestBadInputIsRefusedAndNodeContinues sends wrong frames of all kinds to a node,
// which refuses each and continues.
func TestBadInputIsRefusedAndNodeContinues(t *testing.T) {
	t.Parallel()
	dev := harness.Start(t, binary, 1, "dev", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	hello := `{"op":"hello","id":"h","client":"ada"}`

	session := dial(t, dev.URLs[0])
	session.send(hello)
	session.until("welcome")
	for _, c := range []struct{ name, frame, code, text string }{
		{"NUL in data", `{"op":"command","id":"1","aggregate":"client/bob","command":"notify","data":{"text":"a\u0000b"}}`, "bad_request", "U+0000"},
		{"a key of 65 bytes", `{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{"by":1},"key":"` + strings.Repeat("k", 65) + `"}`, "bad_request", "key"},
		{"an unknown member of data", `{"op":"command","id":"1","aggregate":"auction/1","command":"bid","data":{"ammount":5}}`, "bad_request", "ammount"},
		{"an aggregate id ..", `{"op":"command","id":"1","aggregate":"counter/..","command":"add","data":{"by":1}}`, "bad_request", ".."},
		{"an unknown op", `{"op":"frobnicate","id":"1"}`, "", "frobnicate"},
		{"a wrong type", `{"op":"command","id":"1","aggregate":7,"command":"add","data":{"by":1}}`, "bad_request", "aggregate"},
		{"a missing field", `{"op":"command","id":"1","command":"add","data":{"by":1}}`, "bad_request", "aggregate"},
		{"data of the wrong shape", `{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":[1]}`, "bad_request", "object"},
		{"a member of the wrong type", `{"op":"command","id":"1","aggregate":"counter/a","command":"add","data":{"by":"one"}}`, "bad_request", "by"},
		{"a second hello", hello, "bad_request", "hello"},
		{"an unknown type", `{"op":"command","id":"1","aggregate":"rocket/1","command":"add","data":{}}`, "not_found", "rocket"},
		{"an unknown command", `{"op":"command","id":"1","aggregate":"counter/a","command":"halve","data":{}}`, "not_found", "halve"},
		{"another client's events", `{"op":"subscribe","id":"1","stream":"client/bob"}`, "forbidden", ""},
		{"a cursor past the head", `{"op":"subscribe","id":"1","category":"counter","cursor":"99999"}`, "cursor_ahead", ""},
	} {
		session.send(c.frame)
		f := session.skipTo("error")
		if c.code != "" && f.Code != c.code || !strings.Contains(f.Message+f.Field, c.text) {
			t.Errorf("%s: %s (field %q): %s", c.name, f.Code, f.Field, f.Message)
		}
	}
	session.send(`{"op":"subscribe","id":"dup","category":"counter"}`)
	session.until("subscribed")
	session.send(`{"op":"ping","id":"dup"}`)
	if f := session.skipTo("error"); f.ID != "" || !strings.Contains(f.Message, "dup") {
		t.Errorf("the error for a duplicate id has id %q: %s", f.ID, f.Message)
	}

	for _, c := range []struct {
		name, frame string
		code        websocket.StatusCode
	}{
		{"no JSON", `]not json[`, 4000},
		{"a frame of 10 MB", `{"op":"ping","id":"1","x":"` + strings.Repeat("x", 10<<20) + `"}`, 1009},
	} {
		r := dial(t, dev.URLs[0])
		r.send(hello)
		r.until("welcome")
		_ = r.conn.Write(context.Background(), websocket.MessageText, []byte(c.frame)) // the node may close the connection before it has read everything
		if code := r.closed(); code != c.code {
			t.Errorf("%s: closed with %d, want %d", c.name, code, c.code)
		}
	}

	session.send(`{"op":"command","id":"last","aggregate":"counter/a","command":"add","data":{"by":1}}`)
	if f := session.until("result"); f.Version != 1 {
		t.Errorf("after the wrong frames, the first command is version %d", f.Version)
	}
}

// TestDevelopmentNodeAcceptsOnlyLocalOrigins connects to a development node from
// pages of this machine, which it accepts, and of others, which it refuses.
func TestDevelopmentNodeAcceptsOnlyLocalOrigins(t *testing.T) {
	t.Parallel()
	dev := harness.Start(t, binary, 1, "dev", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	for origin, want := range map[string]int{
		"http://localhost:5173":              101,
		"http://127.0.0.1:8000":              101,
		"https://localhost":                  101,
		"http://localhost.evil.example":      403,
		"http://127.0.0.1.evil.example:8000": 403,
	} {
		conn, resp, err := websocket.Dial(t.Context(), harness.WS(dev.URLs[0])+"/v1/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {origin}}})
		if conn != nil {
			conn.CloseNow()
		}
		if resp == nil || resp.StatusCode != want {
			t.Errorf("%s: got %v (%v), want %d", origin, resp, err, want)
		}
	}
}
