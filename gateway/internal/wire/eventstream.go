package wire

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/socket"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// EventStream is the wire of Server-Sent Events, in chunks of an HTTP/1.1
// response. The client sends nothing.
type EventStream struct{}

const (
	// EventStreamSub is the id of the only subscription of the session. It is
	// not sent.
	EventStreamSub = "events"
	// eventStreamHead is the head of its events. Subscriptions of WebSockets
	// have other heads, so sessions of the two wires do not share messages.
	eventStreamHead = "id: "
)

// Protocol implements [Wire].
func (EventStream) Protocol() string { return "event stream" }

// Read waits until the client has gone.
func (EventStream) Read(in *socket.Conn, h Handler) (more bool, code int, reason string) {
	_, _ = io.CopyN(io.Discard, in.Input, int64(h.Limits().FrameBytes))
	return false, 0, ""
}

// Ignore implements [Wire].
func (EventStream) Ignore(in *socket.Conn) { _, _ = io.Copy(io.Discard, in.Input) }

// Release implements [Wire].
func (EventStream) Release() {}

// Frame encodes a frame as an event that is named after the frame's op. The
// event's data is the frame without the op and the id of the subscription.
func (EventStream) Frame(f frame.Frame) []byte {
	var b []byte
	switch f := f.(type) {
	case frame.Heartbeat: // a comment, with an id that sets the client's Last-Event-ID
		at := f.Cursor
		if len(f.Behind) > 0 {
			at = f.Behind[0].Cursor
		}
		if at == "" {
			return append(b, ": heartbeat\n\n"...)
		}
		return append(append(append(b, ": heartbeat\nid: "...), at...), "\n\n"...)
	case frame.Live:
		b = append(append(append(b, "id: "...), f.Cursor...), '\n')
	case frame.Goodbye:
		b = append(strconv.AppendInt(append(b, "retry: "...), f.ReconnectInMS, 10), '\n')
	}
	data := bytes.TrimPrefix(f.Append(nil), []byte(`{"op":"`+f.Op()+`"`))
	data = bytes.TrimPrefix(data, []byte(`,"sub":"`+EventStreamSub+`"`))
	data = bytes.TrimPrefix(data, []byte(`,`))
	b = append(append(b, "event: "...), f.Op()...)
	b = append(append(b, "\ndata: {"...), data...)
	return append(b, "\n\n"...)
}

// CloseAfter implements [Wire].
func (EventStream) CloseAfter(frame.Frame) (code int, reason string) { return 0, "" }

// Terms implements [Wire].
func (EventStream) Terms(string) Terms { return Terms{Event: eventStreamHead} }

// Separator implements [Wire].
func (EventStream) Separator() string { return "" }

// Ping implements [Wire].
func (EventStream) Ping() []byte { return nil }

// Silence implements [Wire].
func (EventStream) Silence(quiet time.Duration) time.Duration { return quiet }

// AppendEvent implements [Wire].
func (EventStream) AppendEvent(b []byte, head string, e *history.Entry) []byte {
	b = strconv.AppendUint(append(b, head...), uint64(e.Position), 10)
	b = append(append(b, "\ndata: {"...), e.Tail...)
	return append(b, "\n\n"...)
}

// AppendState implements [Wire]. The event has no id: a state has no cursor.
func (EventStream) AppendState(b []byte, _ string, s *history.SharedState) []byte {
	return append(append(append(b, "event: state\ndata: {"...), s.Tail...), "\n\n"...)
}

// AppendPart implements [Wire]. The events live and synced have their cursor as id.
func (EventStream) AppendPart(b []byte, _ string, p ask.Part) []byte {
	if p.Op == "live" || p.Op == "synced" {
		var f struct{ Cursor string }
		if err := json.Unmarshal(append([]byte{'{'}, p.Tail...), &f); err == nil && f.Cursor != "" {
			b = append(append(append(b, "id: "...), f.Cursor...), '\n')
		}
	}
	b = append(append(b, "event: "...), p.Op...)
	b = append(append(b, "\ndata: {"...), p.Tail...)
	return append(b, "\n\n"...)
}

// Message makes a chunk (RFC 9112, 7.1).
func (EventStream) Message(b []byte) []byte {
	header := strconv.AppendUint(make([]byte, 0, HeaderRoom), uint64(len(b)-HeaderRoom), 16)
	header = append(header, "\r\n"...)
	message := b[HeaderRoom-len(header):]
	copy(message, header)
	return append(message, "\r\n"...)
}

// Close returns the last event and the last chunk.
func (e EventStream) Close(code int, reason string) []byte {
	b := append(make([]byte, HeaderRoom), "event: close\ndata: {\"code\":"...)
	b = strconv.AppendInt(b, int64(code), 10)
	b = frame.AppendString(append(b, `,"reason":`...), reason)
	return append(e.Message(append(b, "}\n\n"...)), "0\r\n\r\n"...)
}

// EventStreamResponse returns the head of the response: the status line, and the
// header, to which it adds that of the wire.
func EventStreamResponse(header http.Header) []byte {
	header.Set("Content-Type", "text/event-stream")
	header.Set("X-Accel-Buffering", "no") // keeps nginx from buffering events
	header.Set("Transfer-Encoding", "chunked")
	header.Set("Connection", "close")
	header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 200 OK\r\n")
	_ = header.Write(&b) // a buffer takes everything
	b.WriteString("\r\n")
	return b.Bytes()
}
