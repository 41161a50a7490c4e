package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// with makes a gateway answer queries from a table.
func with(t *table) func(*gateway.Config) { return func(c *gateway.Config) { c.Queries = t } }

// ask sends a query and returns its answer.
func (c *client) ask(query, data string, members ...string) (frame.Result, frame.Page) {
	c.t.Helper()
	c.sendf(`{"op":"query","id":"q","query":%q,"data":%s%s}`, query, data, strings.Join(members, ""))
	r := want[frame.Result](c)
	page, err := frame.ParsePage(r.Data)
	if err != nil || r.ID != "q" || r.Version != 0 {
		c.t.Fatalf("got %s (%v)", r.Append(nil), err)
	}
	return r, page
}

func keysOf(rows []frame.Row) string {
	var keys []string
	for _, r := range rows {
		keys = append(keys, r.Key)
	}
	return strings.Join(keys, " ")
}

// protocol: client query, gateway result
func TestQueryIsAnsweredWithPagesOfRows(t *testing.T) {
	t.Parallel()
	rows := newTable()
	rows.put("ada", 30, "", "c")
	rows.put("bob", 10, "", "a")
	rows.put("ada", 20, "", "b")
	rows.blocked = 2
	c := newWorld(t).node(with(rows)).join("ada")
	r, page := c.ask("cheap", `{}`)
	if keysOf(page.Rows) != "a b" || page.Next == "" || page.Blocked != 2 || r.Position != 3 {
		t.Errorf("got %s", r.Append(nil))
	}
	if got := page.Rows[0]; got.Rank != "000000010a" || got.Position != 2 || string(got.Data) != `{"price":10,"owner":"bob","text":""}` {
		t.Errorf("got %+v", got)
	}
	if _, page = c.ask("cheap", `{}`, fmt.Sprintf(`,"after":%q`, page.Next)); keysOf(page.Rows) != "c" || page.Next != "" {
		t.Errorf("got the second page %+v", page)
	}
	if _, page = c.ask("mine", `{"max":25}`); keysOf(page.Rows) != "b" {
		t.Errorf("ada has %+v", page)
	}
}

// protocol: error bad_request, error not_found, error forbidden, error unauthenticated, error unavailable, error timeout
func TestRefusedQueriesSayWhatIsWrong(t *testing.T) {
	t.Parallel()
	rows := newTable()
	rows.put("ada", 30, "", "c")
	n := newWorld(t).node(with(rows))
	c, anonymous := n.join("bob"), n.join("")
	for _, f := range []struct {
		from        *client
		frame       string
		code        command.Code
		field, says string
	}{
		{c, `"query":"unicorns","data":{}`, "not_found", "", "unicorns"},
		{c, `"query":"cheap","data":{"maxx":1}`, "bad_request", "max", "maxx"},
		{c, `"query":"vault","data":{}`, "forbidden", "", "bob may not"},
		{anonymous, `"query":"mine","data":{}`, "unauthenticated", "", "identify yourself"},
		{c, `"query":"cheap"`, "bad_request", "data", "{}"},
		{c, `"query":"","data":{}`, "bad_request", "query", "name the query"},
	} {
		for _, op := range []string{"query", "subscribe"} {
			f.from.sendf(`{"op":%q,"id":"1",%s}`, op, f.frame)
			if got := f.from.wantFault("1", f.code); got.Field != f.field || !strings.Contains(got.Message, f.says) {
				t.Errorf("%s %s: got %s", op, f.frame, got.Append(nil))
			}
		}
	}
	c.send(`{"op":"query","id":"1","query":"cheap","data":{},"at_least":2,"timeout_ms":1}`)
	if f := c.wantFault("1", command.CodeUnavailable); !strings.Contains(f.Message, "position 1, not yet 2") {
		t.Errorf("got %s", f.Append(nil))
	}
	rows.hold = make(chan struct{})
	c.send(`{"op":"query","id":"1","query":"cheap","data":{},"timeout_ms":1}`)
	c.wantFault("1", command.CodeTimeout)
	if got := rows.following(); got != 0 {
		t.Errorf("%d live queries remain of refused ones", got)
	}
}

// protocol: rule Read your writes
func TestQueryWaitsForItsPosition(t *testing.T) {
	t.Parallel()
	rows := newTable()
	c := newWorld(t).node(with(rows)).join("ada")
	c.send(`{"op":"query","id":"q","query":"cheap","data":{},"at_least":1}` + "\n" + `{"op":"subscribe","id":"s","query":"cheap","data":{},"at_least":1}` + "\n" + `{"op":"ping","id":"p"}`)
	want[frame.Pong](c) // neither is answered yet
	rows.put("ada", 1, "", "a")
	for range 4 {
		switch f := c.read().(type) {
		case frame.Result:
			if f.Position != 1 || !bytes.Contains(f.Data, []byte(`"key":"a"`)) {
				t.Errorf("got %s", f.Append(nil))
			}
		case frame.Rows:
			if keysOf(f.Rows) != "a" {
				t.Errorf("got %s", f.Append(nil))
			}
		case frame.Subscribed, frame.Live:
		default:
			t.Errorf("got %s", f.Append(nil))
		}
	}
}

// protocol: http POST /v1/queries/{name}, status 200
func TestQueriesOverHTTP(t *testing.T) {
	t.Parallel()
	rows := newTable()
	rows.put("ada", 30, "", "c", "d", "e")
	n := newWorld(t).node(with(rows))
	for _, c := range []struct {
		path, who, body string
		status          int
		has             string
	}{
		{"cheap", "", `{"max":30}`, 200, `{"op":"result","version":0,"position":3,"data":{"rows":[{"key":"c","rank":"000000030c","position":1,"data":{"price":30,`},
		{"cheap", "", ``, 200, `"next":"000000030d"`},
		{"cheap?after=000000030d", "", `{}`, 200, `"rows":[{"key":"e"`},
		{"mine?at_least=3&timeout_ms=30000", "bob", `{}`, 200, `"data":{"rows":[]}`},
		{"count", "", `{"max":30}`, 200, `{"op":"result","version":0,"position":3,"data":3}`},
		{"cheap?at_least=4&timeout_ms=1", "", `{}`, 503, `position 3, not yet 4`},
		{"cheap?at_least=x", "", `{}`, 400, `"field":"at_least"`},
		{"cheap?at_least=9007199254740992", "", `{}`, 400, `2^53`},
		{"cheap?timeout_ms=0", "", `{}`, 400, `"field":"timeout_ms"`},
		{"cheap?timeout_ms=30001", "", `{}`, 400, `must be 1 to 30000`},
		{"cheap?after=%C3%A4", "", `{}`, 400, `"field":"after"`},
		{"cheap?after=" + strings.Repeat("x", 1025), "", `{}`, 400, `"field":"after"`},
		{"cheap?cursor=x", "", `{}`, 400, `"field":"cursor"`},
		{"cheap?strong", "", `{}`, 400, `"field":"strong"`},
		{"cheap", "", `{"maxx":1}`, 400, `"field":"max"`},
		{"cheap", "", `nonsense`, 400, `not JSON`},
		{"cheap", "", `{"max":"\u0000"}`, 400, `"field":"data"`},
		{"cheap", "", `"` + strings.Repeat("x", 64<<10) + `"`, 413, `"code":"too_large"`},
		{"cheap", "", strings.Repeat(" ", 97<<10), 413, `"code":"too_large"`},
		{"unicorns", "", `{}`, 404, `"code":"not_found"`},
		{"vault", "bob", `{}`, 403, `"code":"forbidden"`},
		{"vault", "", `{}`, 401, `"code":"unauthenticated"`},
	} {
		status, body := n.do("POST", "/v1/queries/"+c.path, c.who, c.body)
		if status != c.status || !strings.Contains(body, c.has) {
			t.Errorf("%s %.60s:\n got %d %s\nwant %d with %s", c.path, c.body, status, body, c.status, c.has)
		}
	}
}

// follow requests a query as Server-Sent Events.
func (n *node) follow(path, who, body string, header ...string) (*sse, *http.Response, error) {
	n.w.t.Helper()
	req, err := http.NewRequestWithContext(n.w.t.Context(), http.MethodPost, n.url+path, strings.NewReader(body))
	if err != nil {
		n.w.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if who != "" {
		req.Header.Set("Authorization", "Bearer dev:"+who)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := oneShot.RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	n.w.t.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		openAPIContract(n.w.t).check(n.w.t, http.MethodPost, path, resp, string(text))
		return nil, resp, fmt.Errorf("%s", text)
	}
	openAPIContract(n.w.t).check(n.w.t, http.MethodPost, path, resp, "")
	return newSSE(resp), resp, nil
}
