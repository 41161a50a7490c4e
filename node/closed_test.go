package node_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

// The streams of a process manager have the type "seen". For clients there is no
// such type.
func TestStreamsOfProcessManagersAreClosedToClients(t *testing.T) {
	t.Parallel()
	catalog, _ := counted()
	process.Define(catalog, process.Type[levelOf]{
		Name: "seen",
		On: process.Handlers[levelOf]{process.On(func(_ process.At, e passed, s *levelOf) process.Commands {
			s.Level = int(e.Level)
			return nil
		})},
	})
	dir := t.TempDir()
	urls, _ := harness.Serve(t, 1, func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{Catalog: catalog, Listen: "127.0.0.1:0", Store: dir, Ready: ready}, 1)
	})
	const missing = `"code":"not_found"`
	for _, command := range []string{"woken", "rejected", "ticked"} {
		if code, text := post(t, urls[0]+"/v1/commands", `{"aggregate":"seen/1","command":"`+command+`","key":"k","data":{"due":"2026-05-01T12:00:00Z"}}`); code != http.StatusNotFound || !strings.Contains(text, missing) {
			t.Errorf("%s over HTTP: %d %s", command, code, text)
		}
	}
	for _, path := range []string{"/v1/aggregates/seen/1", "/v1/streams/seen/1/events", "/v1/categories/seen/events"} {
		if code, text := read(t, urls[0]+path); code != http.StatusNotFound || !strings.Contains(text, missing) {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	if code, text := read(t, urls[0]+"/v1/schema"); code != http.StatusOK || !strings.Contains(text, "verdict") || strings.Contains(text, "seen") {
		t.Errorf("the contract has it: %d %s", code, text)
	}
	k := (&court{urls: urls}).connect(t, nil)
	k.send(map[string]any{"op": "hello", "id": "h", "client": "ada"})
	for id, frame := range map[string]map[string]any{
		"1": {"op": "command", "aggregate": "seen/1", "command": "woken", "data": map[string]any{"due": "2026-05-01T12:00:00Z"}},
		"2": {"op": "get", "aggregate": "seen/1"},
		"3": {"op": "subscribe", "stream": "seen/1"},
		"4": {"op": "subscribe", "category": "seen"},
	} {
		frame["id"] = id
		if a := k.ask(frame); a.Code != "not_found" {
			t.Errorf("%s over WebSocket: %+v", frame["op"], a)
		}
	}
}

func read(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(text)
}
