package gateway_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// oneShot keeps no idle connections, for which tests would have to wait.
var oneShot = &http.Transport{DisableKeepAlives: true}

func closeCode(err error) int { return int(websocket.CloseStatus(err)) }

// do makes a request, and checks the response against the OpenAPI document.
func (n *node) do(method, path, who, body string) (int, string) {
	n.w.t.Helper()
	req, err := http.NewRequestWithContext(n.w.t.Context(), method, n.url+path, strings.NewReader(body))
	if err != nil {
		n.w.t.Fatal(err)
	}
	if who != "" {
		req.Header.Set("Authorization", "Bearer dev:"+who)
	}
	resp, err := oneShot.RoundTrip(req)
	if err != nil {
		n.w.t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		n.w.t.Fatal(err)
	}
	openAPIContract(n.w.t).check(n.w.t, method, path, resp, string(got))
	return resp.StatusCode, string(got)
}

// protocol: http POST /v1/commands, http GET /v1/aggregates/{type}/{id}, http POST /v1/queries/{name}
// protocol: http GET /v1/streams/{type}/{id}/events, http GET /v1/categories/{type}/events, status 200
func TestCommandsAndStatesOverHTTP(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	add := `{"aggregate":"counter/a","command":"add","data":{"by":1},"key":"k1"}`
	for _, c := range []struct {
		method, path, who, body string
		status                  int
		has                     string
	}{
		{"POST", "/v1/commands", "ada", add, 200, `"key":"k1","version":1,"position":1`},
		{"POST", "/v1/commands", "ada", add, 200, `"replayed":true`},
		{"POST", "/v1/commands", "", add, 401, `"code":"unauthenticated"`},
		{"POST", "/v1/commands", "ada", strings.Replace(add, ":1}", ":2}", 1), 409, `"code":"key_reused"`},
		{"POST", "/v1/commands", "ada", `{"aggregate":"counter/a","command":"add","data":{},"expect":9}`, 409, `"code":"conflict"`},
		{"POST", "/v1/commands", "ada", `{"aggregate":"counter/a","command":"fail","data":{},"id":"7"}`, 422, `"id":"7"`},
		{"POST", "/v1/commands", "ada", `{"aggregate":"unicorn/a","command":"add","data":{}}`, 404, `"code":"not_found"`},
		{"POST", "/v1/commands", "ada", `{"aggregate":"counter/a","command":"add"}`, 400, `"field":"data"`},
		{"POST", "/v1/commands", "ada", `nonsense`, 400, `"code":"bad_request"`},
		{"POST", "/v1/commands", "ada", strings.Repeat(" ", 97<<10), 413, `"code":"too_large"`},
		{"POST", "/v1/commands", "ada", `{"aggregate":"counter/w","command":"wait","data":{},"timeout_ms":1}`, 504, `"retry":"same_key"`},
		{"GET", "/v1/aggregates/counter/a", "ada", "", 200, `"version":1,"position":1,"data":{"version":1}`},
		{"GET", "/v1/aggregates/counter/a?at_least=1&strong=true", "ada", "", 200, `"version":1`},
		{"GET", "/v1/aggregates/counter/a?at_least=x", "ada", "", 400, `"field":"at_least"`},
		{"GET", "/v1/aggregates/counter/a?at_least=9007199254740992", "ada", "", 400, `2^53`},
		{"GET", "/v1/aggregates/counter/a?at_least=99999999999999999999", "ada", "", 400, `2^53`},
		{"GET", "/v1/aggregates/counter/a?at_least=1&at_least=2", "ada", "", 400, `at_least is given twice`},
		{"GET", "/v1/aggregates/counter/a?strong=true&strong=false", "ada", "", 400, `"field":"strong"`},
		{"GET", "/v1/aggregates/counter/a?strong=%zz", "ada", "", 400, `query string can't be read`},
		{"GET", "/v1/aggregates/counter/a?at_least=1;strong", "ada", "", 400, `query string can't be read`},
		{"GET", "/v1/aggregates/counter/a%ff", "ada", "", 400, `not valid UTF-8`},
		{"GET", "/v1/streams/counter/a/events?from=now&from=now", "ada", "", 400, `"field":"from"`},
		{"GET", "/v1/streams/counter/a/events?log=%ff", "ada", "", 400, `"field":"log"`},
		{"GET", "/v1/categories/counter/events?cursor=0&cursor=1", "ada", "", 400, `"field":"cursor"`},
		{"POST", "/v1/commands", "ada", `{"aggregate":"counter/\ud800","command":"add","data":{}}`, 400, `half of a surrogate pair`},
		{"POST", "/v1/commands", "ada\xff", add, 401, `not valid UTF-8`},
		{"GET", "/v1/aggregates/counter/%2e%2e", "ada", "", 400, `"code":"bad_request"`},
		{"GET", "/v1/aggregates/counter/a%2Fb", "ada", "", 400, `"code":"bad_request"`},
		{"GET", "/v1/aggregates/client/bob", "ada", "", 403, `"code":"forbidden"`},
		{"GET", "/v1/aggregates/auction/%C3%A4%20b", "", "", 200, `"version":0`},
		{"GET", "/v1/streams/counter/a/events", "ada", "", 200, `{"stream":"counter/a","version":1,"position":1,"event":"added"`},
		{"GET", "/v1/streams/counter/a/events?after=2", "ada", "", 409, `"code":"cursor_ahead"`},
		{"GET", "/v1/streams/counter/a/events?after=9007199254740992", "ada", "", 400, `2^53`},
		{"GET", "/v1/streams/counter/a/events?last=9007199254740992", "ada", "", 400, `2^53`},
		{"GET", "/v1/streams/counter/a/events?after=x", "ada", "", 400, `"field":"after"`},
		{"GET", "/v1/streams/counter/a/events?last=0", "ada", "", 400, `"field":"last"`},
		{"GET", "/v1/streams/counter/a/events?state=each", "ada", "", 400, `a listing has events alone`},
		{"GET", "/v1/streams/counter/a/events?after=0&last=1", "ada", "", 400, `exclude each other`},
		{"GET", "/v1/categories/counter/events?after=0", "ada", "", 400, `"field":"after"`},
		{"GET", "/v1/categories/counter/events?last=1", "ada", "", 400, `"field":"last"`},
		{"GET", "/v1/categories/counter/events?cursor=9", "ada", "", 409, `"code":"cursor_ahead"`},
		{"GET", "/v1/categories/client/events", "ada", "", 403, `"code":"forbidden"`},
		{"POST", "/v1/queries/q", "ada", "{}", 400, `"code":"unsupported"`},
		{"GET", "/v1/ws", "ada", "", 426, `"code":"bad_request"`},
		{"GET", "/v1/nothing", "ada", "", 404, `"code":"not_found"`},
	} {
		status, body := n.do(c.method, c.path, c.who, c.body)
		if status != c.status || !strings.Contains(body, c.has) {
			t.Errorf("%s %s %.60s:\n got %d %s\nwant %d with %s", c.method, c.path, c.body, status, body, c.status, c.has)
		}
	}
	close(w.router.release)
}

func TestEventListingReachesTheStoredHead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node(small)
	for range 10 {
		w.add("auction/1", 2)
		w.add("auction/2", 1)
	}
	for path, events := range map[string]int{
		"/v1/streams/auction/1/events":            20,
		"/v1/streams/auction/1/events?after=15":   5,
		"/v1/streams/auction/1/events?cursor=30":  0,
		"/v1/streams/auction/1/events?last=3":     3,
		"/v1/streams/auction/1/events?last=99":    20,
		"/v1/categories/auction/events":           30,
		"/v1/categories/auction/events?cursor=7":  23,
		"/v1/categories/auction/events?cursor=30": 0,
	} {
		status, body := n.do("GET", path, "", "")
		if got := strings.Count(body, "\n"); status != 200 || got != events {
			t.Errorf("%s: got %d with %d events, want %d", path, status, got, events)
		}
	}
}

func TestRefusingGatewayStatesItsReason(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	for _, step := range []struct {
		change func()
		says   string
	}{
		{func() {}, "<nil>"},
		{func() { n.Suspend(4200, "lost") }, "has lost the cluster or the log"},
		{n.Resume, "<nil>"},
		{func() { _ = n.Drain(t.Context()) }, "draining"},
	} {
		step.change()
		if says := fmt.Sprint(n.Refusing()); !strings.Contains(says, step.says) {
			t.Errorf("got %s, want %s", says, step.says)
		}
	}
}

func TestConfigReportsEveryProblemTogether(t *testing.T) {
	t.Parallel()
	_, err := gateway.New(gateway.Config{QueueBytes: -1, Heartbeat: -1, Origins: []string{"["}})
	for _, problem := range []string{"Node", "Catalog", "Store", "Router", "Auth", "QueueBytes", "Heartbeat", "Origins"} {
		if err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%v does not mention %s", err, problem)
		}
	}
}

// protocol: status 400, status 401, status 403, status 404, status 409, status 413, status 422, status 429, status 500, status 503, status 504
func TestStatusesAreThoseOfTheProtocol(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	for code, status := range map[command.Code]int{
		command.CodeBadRequest: 400, command.CodeUnsupported: 400, command.CodeUnauthenticated: 401, command.CodeForbidden: 403, command.CodeNotFound: 404,
		command.CodeConflict: 409, command.CodeKeyReused: 409, command.CodeCursorAhead: 409, command.CodeTooLarge: 413, command.CodeRejected: 422,
		command.CodeRateLimited: 429, command.CodeBusy: 429, command.CodeInternal: 500, command.CodeUnavailable: 503, command.CodeTimeout: 504,
	} {
		w.router.refuse(code)
		got, body := n.do("POST", "/v1/commands", "ada", `{"aggregate":"counter/a","command":"add","data":{}}`)
		f, err := frame.ParseAnswer([]byte(body))
		if err != nil || got != status || f.(frame.Fault).Code != code {
			t.Errorf("%s: got %d %s (%v), want %d", code, got, body, err, status)
		}
	}
}

func TestLimitParameterPagesListingsOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.node()
	w.add("counter/a", 3)
	w.add("auction/1", 2)
	w.add("counter/b", 2)
	page := func(path string) (events []string, cursor string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer dev:ada")
		resp, err := oneShot.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %v %s %s", path, err, resp.Status, body)
		}
		openAPIContract(t).check(t, http.MethodGet, path, resp, string(body))
		for line := range strings.Lines(string(body)) {
			var e struct {
				Stream  string
				Version int
			}
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			events = append(events, fmt.Sprint(e.Stream, " ", e.Version))
		}
		return events, resp.Header.Get("Ganglion-Cursor")
	}
	for path, want := range map[string][]string{
		"/v1/categories/counter/events?limit=2": {"counter/a 1, counter/a 2", "counter/a 3, counter/b 1", "counter/b 2", ""},
		"/v1/streams/counter/a/events?limit=2":  {"counter/a 1, counter/a 2", "counter/a 3", ""},
		"/v1/streams/counter/a/events?limit=9":  {"counter/a 1, counter/a 2, counter/a 3", ""},
	} {
		cursor := "0"
		for i, events := range want {
			got, next := page(path + "&cursor=" + cursor)
			if strings.Join(got, ", ") != events {
				t.Errorf("%s, page %d: got %q, want %q", path, i, got, events)
			}
			cursor = next
		}
		if cursor != "7" {
			t.Errorf("%s ends at the cursor %s, want the head", path, cursor)
		}
	}
	for path, says := range map[string]string{
		"/v1/categories/counter/events?limit=0":     "limit must be a whole number of 1 or more",
		"/v1/categories/counter/events?limit=":      "limit must be",
		"/v1/streams/counter/a/events?limit=many":   "limit must be",
		"/v1/streams/counter/a/events?limmit=2":     `there is no parameter \"limmit\" here: use after, last, cursor, from, log, limit`,
		"/v1/aggregates/counter/a?limit=2":          `there is no parameter \"limit\" here: use at_least, strong`,
		"/v1/aggregates/counter/a?strong&atleast=2": `there is no parameter \"atleast\"`,
	} {
		if status, body := n.do("GET", path, "ada", ""); status != http.StatusBadRequest || !strings.Contains(body, says) {
			t.Errorf("%s: %d %s, want %s", path, status, body, says)
		}
	}
	e, err := openEvents(oneShot, n.url+"/v1/streams/counter/a/events?limit=2", "ada")
	if err != nil {
		t.Fatal(err)
	}
	defer e.close()
	if body, err := io.ReadAll(e.resp.Body); err != nil || e.resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "Server-Sent Events do not end") {
		t.Errorf("a limit on Server-Sent Events: %v %s %s", err, e.resp.Status, body)
	}
}
