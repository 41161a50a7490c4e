package wire_test

import (
	"fmt"
	"io"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// message makes a message of frames.
func message(w wire.Wire, frames ...[]byte) []byte {
	b := make([]byte, wire.HeaderRoom)
	for i, f := range frames {
		if i > 0 {
			b = append(b, w.Separator()...)
		}
		b = append(b, f...)
	}
	return w.Message(b)
}

func TestEventStreamHasChunksOfNamedEvents(t *testing.T) {
	t.Parallel()
	w := wire.EventStream{}
	version := history.Entry{Position: 7, Version: 2, Tail: []byte(`"version":2}`)}
	var response []byte
	response = append(response, message(w,
		w.AppendEvent(nil, w.Terms("").Event, &version),
		w.Frame(frame.Live{Sub: wire.EventStreamSub, Cursor: "7"}),
		w.Frame(frame.Heartbeat{Cursor: "9"}))...)
	response = append(response, message(w, w.Frame(frame.Goodbye{Reason: "draining", ReconnectInMS: 500}))...)
	response = append(response, w.Close(1012, `"draining"`)...)
	body, err := io.ReadAll(httputil.NewChunkedReader(strings.NewReader(string(response))))
	want := "id: 7\ndata: {\"version\":2}\n\n" +
		"id: 7\nevent: live\ndata: {\"cursor\":\"7\"}\n\n" +
		": heartbeat\nid: 9\n\n" +
		"retry: 500\nevent: goodbye\ndata: {\"reason\":\"draining\",\"reconnect_in_ms\":500}\n\n" +
		"event: close\ndata: {\"code\":1012,\"reason\":\"\\\"draining\\\"\"}\n\n"
	if err != nil || string(body) != want {
		t.Errorf("got %q, %v, want %q", body, err, want)
	}
}

func TestWebSocketMessageHasOneFrameALine(t *testing.T) {
	t.Parallel()
	w := wire.WebSocket{}
	entry := history.Entry{Tail: []byte(`,"version":2}`)}
	got := message(w, w.AppendEvent(nil, `{"op":"event"`, &entry), w.Frame(frame.Pong{ID: "1"}))
	want := `{"op":"event","version":2}` + "\n" + `{"op":"pong","id":"1"}`
	if got := string(got[2:]); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPartsOfLiveQueriesAreFramesOfTheirWire(t *testing.T) {
	t.Parallel()
	update := ask.Part{Op: "update", Tail: []byte(`"key":"k","gone":true}`)}
	synced := ask.Part{Op: "synced", Tail: []byte(`"cursor":"a\u0062","position":7}`)}
	empty := ask.Part{Op: "reset", Tail: []byte(`}`)}
	for part, want := range map[*ask.Part][2]string{
		&update: {`{"op":"update","sub":"s","key":"k","gone":true}`, "event: update\ndata: {\"key\":\"k\",\"gone\":true}\n\n"},
		&synced: {`{"op":"synced","sub":"s","cursor":"a\u0062","position":7}`, "id: ab\nevent: synced\ndata: {\"cursor\":\"a\\u0062\",\"position\":7}\n\n"},
		&empty:  {`{"op":"reset","sub":"s"}`, "event: reset\ndata: {}\n\n"},
	} {
		if got := string(wire.WebSocket{}.AppendPart(nil, `","sub":"s"`, *part)); got != want[0] || got != string(part.Append(nil, "s")) {
			t.Errorf("got %s, want %s", got, want[0])
		}
		if got := string(wire.EventStream{}.AppendPart(nil, "", *part)); got != want[1] {
			t.Errorf("got %q, want %q", got, want[1])
		}
	}
	if got := string(wire.EventStream{}.Frame(frame.Heartbeat{})); got != ": heartbeat\n\n" {
		t.Errorf("a heartbeat without a cursor is %q", got)
	}
}

func TestEveryFaultHasARetry(t *testing.T) {
	t.Parallel()
	for _, f := range []*command.Failure{command.Forbidden("no"), command.Unavailable("later"), {Code: command.CodeInternal, Message: "x"}} {
		if got := wire.Fault("1", "k", f); got.Retry == "" || got.Message != f.Message || fmt.Sprint(got.Code) != fmt.Sprint(f.Code) {
			t.Errorf("%+v became %+v", f, got)
		}
	}
}
