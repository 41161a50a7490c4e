package e2e

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestEveryLimitIsEnforcedAndCounted sets every limit with its flag, exceeds it, and
// finds it in /metrics.
func TestEveryLimitIsEnforcedAndCounted(t *testing.T) {
	t.Parallel()
	node := harness.Start(t, binary, 1, "node", "--name", "n", "--store", t.TempDir(),
		"--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0",
		"--max-frame-bytes", "40000", "--max-header-bytes", "20000", "--max-hello-time", "3s", "--max-sessions", "2",
		"--max-anonymous-sessions", "8", "--max-connections", "16",
		"--max-sessions-per-client", "1", "--max-subscriptions", "1", "--max-live-queries", "1", "--max-queries", "1", "--max-open-requests", "2", "--max-commands-per-second", "3")
	url := node.URLs[0]

	late := dial(t, url) // sends no hello

	ada := dial(t, url)
	ada.send(`{"op":"hello","id":"1","client":"ada","subscriptions":[{"id":"a","stream":"counter/1"}]}`, `{"op":"subscribe","id":"b","stream":"counter/2"}`)
	if f := ada.skipTo("error"); f.ID != "b" || f.Code != "rate_limited" {
		t.Errorf("a second subscription: %s for %s", f.Code, f.ID)
	}
	again := dial(t, url)
	again.send(`{"op":"hello","id":"1","client":"ada"}`)
	if code := again.closed(); code != 4101 {
		t.Errorf("a second session of a client: closed with %d, want 4101", code)
	}
	// More commands than may be unanswered, and than are allowed in the time that a
	// slow machine needs for them.
	var pipelined []string
	for n := range 30 {
		pipelined = append(pipelined, fmt.Sprintf(`{"op":"command","id":"c%d","aggregate":"counter/1","command":"add","data":{"by":1}}`, n+1))
	}
	ada.send(pipelined...)
	if f := ada.skipTo("error"); slices.Contains([]string{"c1", "c2", "c3"}, f.ID) || f.Code != "rate_limited" || f.AfterMS == 0 {
		t.Errorf("of 30 commands, 3 allowed per second: %s for %s, after %d ms", f.Code, f.ID, f.AfterMS)
	}
	large := dial(t, url)
	_ = large.conn.Write(t.Context(), 1, []byte(strings.Repeat(" ", 50_000)))
	if code := large.closed(); code != 1009 {
		t.Errorf("a large frame: closed with %d, want 1009", code)
	}
	if code := late.closed(); code != 4003 {
		t.Errorf("no hello: closed with %d, want 4003", code)
	}
	for code := websocket.StatusCode(4003); code == 4003; { // a busy machine may need the time for hello to open them
		closed := make(chan websocket.StatusCode, 9) // one more than allowed without hello
		for range cap(closed) {
			silent := dial(t, url)
			go func() { closed <- silent.closed() }()
		}
		if code = <-closed; code != 4101 && code != 4003 {
			t.Errorf("the ninth session without hello: one is closed with %d, want 4101", code)
		}
	}
	bob := dial(t, url)
	bob.send(`{"op":"hello","id":"1","client":"bob"}`)
	bob.until("welcome")
	if code := dial(t, url).closed(); code != 4101 {
		t.Errorf("a third session of the node: closed with %d, want 4101", code)
	}
	bob.send(`{"op":"subscribe","id":"l","query":"open_auctions","data":{}}`)
	bob.until("live")
	bob.send(`{"op":"subscribe","id":"m","query":"open_auctions","data":{}}`)
	if f := bob.skipTo("error"); f.ID != "m" || f.Code != "rate_limited" {
		t.Errorf("a second live query: %s for %s", f.Code, f.ID)
	}
	// A second query is busy once the first has begun, which waits for a position.
	waiting := `{"op":"query","id":"q","query":"open_auctions","data":{},"at_least":999999,"timeout_ms":2000}`
	bob.send(waiting)
	for isBusy, waits, isAsked := false, true, false; !isBusy || waits; {
		if !isBusy && !isAsked {
			bob.send(`{"op":"query","id":"r","query":"open_auctions","data":{}}`)
			isAsked = true
		}
		f := bob.next()
		for f.ID != "q" && f.ID != "r" {
			f = bob.next()
		}
		if f.ID == "r" {
			isAsked = false
		}
		switch {
		case f.ID == "r" && f.Code == "busy":
			isBusy = true
			if f.AfterMS == 0 {
				t.Errorf("the second query is told no time to wait: %+v", f)
			}
		case f.ID == "q" && f.Code == "busy": // an "r" was in progress
			isBusy = true
			waits = false
		case f.ID == "q" && f.Code == "unavailable" && isBusy:
			waits = false
		case f.ID == "q" && f.Code == "unavailable": // on a busy machine "r" came after its time
			bob.send(waiting)
		case f.ID == "r" && f.Op == "result":
		default:
			t.Fatalf("of two queries: %+v", f)
		}
	}
	for i := range 11 {
		bob.send(fmt.Sprintf(`{"op":"auth","id":"%d","token":"dev:bob"}`, i))
	}
	if f := bob.skipTo("error"); f.Code != "rate_limited" || f.AfterMS == 0 {
		t.Errorf("the eleventh renewal of a token: %s, after %d ms", f.Code, f.AfterMS)
	}
	for range 17 { // one more than the allowed connections
		conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	for _, bytes := range []int{20_000, 1 << 20} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v1/aggregates/counter/1", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Long", strings.Repeat("x", bytes))
		harness.Eventually(t, fmt.Sprint("the answer to a header of ", bytes, " bytes"), func() error { // which may get lost while the header is sent
			resp, err := harness.HTTP.Do(req)
			if err != nil {
				return err
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
				t.Fatalf("a header of %d bytes: %s", bytes, resp.Status)
			}
			return nil
		})
	}

	metrics := scrape(t, url)
	for _, limit := range []string{
		"frame_bytes", "header_bytes", "hello_timeout", "sessions", "sessions_per_client", "subscriptions", "open_requests", "commands_per_second",
		"anonymous_sessions", "connections", "renewals", "live_queries", "queries",
	} {
		_, count, ok := strings.Cut(metrics, `ganglion_limited_total{limit="`+limit+`"} `)
		if count, _, _ = strings.Cut(count, "\n"); !ok || count == "0" {
			t.Errorf("%s: /metrics has %q", limit, count)
		}
	}
}
