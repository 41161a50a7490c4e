package e2e

import (
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestStoppedNodeSaysGoodbyeToItsSessions stops a node that has WebSocket sessions
// and a stream of Server-Sent Events. All get their pending frames, goodbye, and
// an orderly end.
func TestStoppedNodeSaysGoodbyeToItsSessions(t *testing.T) {
	t.Parallel()
	node := harness.Start(t, binary, 1, "dev", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	url := node.URLs[0]

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v1/categories/counter/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Authorization", "Bearer dev:eve")
	stream, err := (&http.Client{Transport: harness.HTTP.Transport}).Do(req) // without a time limit, since it lasts until the end of the node
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	var sessions []*raw
	for range 10 {
		s := dial(t, url)
		s.send(`{"op":"hello","id":"1","client":"ada","subscriptions":[{"id":"2","category":"counter","cursor":"0"}]}`)
		s.until("live")
		sessions = append(sessions, s)
	}
	sessions[0].send(`{"op":"command","id":"3","aggregate":"counter/a","command":"add","data":{"by":1}}`)
	sessions[0].until("result")

	node.Signal(syscall.SIGTERM)
	for _, s := range sessions {
		for s.next().Op != "goodbye" {
		}
		if code := s.closed(); code != 1012 {
			t.Errorf("closed with %d, want 1012", code)
		}
	}
	body, err := io.ReadAll(stream.Body)
	if err != nil {
		t.Errorf("the Server-Sent Events end without a last chunk: %v", err)
	}
	for _, part := range []string{"id: 1\ndata: {\"stream\":\"counter/a\",", ": heartbeat\nid: 1\n\n", "retry: ", "event: goodbye\n", "event: close\ndata: {\"code\":1012,"} {
		_, rest, ok := strings.Cut(string(body), part)
		if !ok {
			t.Errorf("%q is missing or out of order in\n%s", part, body)
		}
		body = []byte(rest)
	}
	if code := node.Wait(); code != 0 {
		t.Errorf("the node exits with status %d", code)
	}
}
