package gateway

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/coder/websocket"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// wire is how a session's frames travel: as messages of a WebSocket, or as
// Server-Sent Events.
type wire interface {
	// read handles what the client has sent. When that is all done it returns
	// again. Otherwise no more is taken, and it returns with what code the
	// session is to be closed; 0 if that was decided elsewhere, or the client
	// has gone.
	read(s *session) (again bool, code int, reason string)
	// ignore reads on until the client has closed its side, or its time for
	// that is over.
	ignore(s *session)
	// release frees what belongs to the connection.
	release()

	// frame encodes a frame, separator stands between two of one message.
	frame(f frame.Frame) []byte
	separator() string
	// ping returns what the client's end answers by itself, if there is such
	// a thing.
	ping() []byte
	// event appends an event of a subscription, which begins with its head.
	event(b []byte, head string, e *entry) []byte
	// message makes a message of frames, which have headerRoom before them.
	message(b []byte) []byte
	// close returns what tells the client that the session ends, and why. The
	// reason has at most 123 bytes.
	close(code int, reason string) []byte
}

// headerRoom is what the header of a message needs at most: of a frame of
// WebSockets (RFC 6455, 5.2; servers do not mask) as of an HTTP chunk.
const headerRoom = 10

// within puts a header right before a message's frames.
func within(b []byte, header []byte) []byte {
	message := b[headerRoom-len(header):]
	copy(message, header)
	return message
}

// webSocket is the wire of ganglion.v1. What the client sends is read in
// session.go.
type webSocket struct{ conn *websocket.Conn }

func (w webSocket) release() { _ = w.conn.CloseNow() }

func (webSocket) frame(f frame.Frame) []byte { return f.Append(nil) }

func (webSocket) separator() string { return "\n" }

func (webSocket) ping() []byte { return pingFrame() }

func (webSocket) event(b []byte, head string, e *entry) []byte {
	return append(append(b, head...), e.tail...)
}

// message makes an unmasked text message of one frame.
func (webSocket) message(b []byte) []byte {
	header := make([]byte, 0, headerRoom)
	header = append(header, 0x81)
	switch payload := len(b) - headerRoom; {
	case payload <= 125:
		header = append(header, byte(payload))
	case payload <= 1<<16-1:
		header = binary.BigEndian.AppendUint16(append(header, 126), uint16(payload))
	default:
		header = binary.BigEndian.AppendUint64(append(header, 127), uint64(payload))
	}
	return within(b, header)
}

func (webSocket) close(code int, reason string) []byte { return closeFrame(code, reason) }

// eventStream is the wire of Server-Sent Events, in chunks of an HTTP/1.1
// response. The client sends nothing.
type eventStream struct{ in io.Reader }

const (
	// eventStreamSub is the id of the one subscription of such a session. It
	// is not shown.
	eventStreamSub = "events"
	// eventStreamHead is what its events begin with. No other subscription's
	// do, so that their messages are not taken for each other.
	eventStreamHead = "id: "
)

// read waits for the client to go.
func (e eventStream) read(s *session) (bool, int, string) {
	_, _ = io.CopyN(io.Discard, e.in, int64(s.g.cfg.Limits.FrameBytes))
	return false, 0, ""
}

func (e eventStream) ignore(*session) { _, _ = io.Copy(io.Discard, e.in) }

func (eventStream) release() {}

// frame encodes a frame as an event that is named after it. Its data is the
// frame's, without what goes without saying.
func (eventStream) frame(f frame.Frame) []byte {
	var b []byte
	switch f := f.(type) {
	case frame.Heartbeat: // no event at all, and yet the client's Last-Event-ID
		at := f.Cursor
		if len(f.Behind) > 0 {
			at = f.Behind[0].Cursor
		}
		return append(append(append(b, ": heartbeat\nid: "...), at...), "\n\n"...)
	case frame.Live:
		b = append(append(append(b, "id: "...), f.Cursor...), '\n')
	case frame.Goodbye:
		b = append(strconv.AppendInt(append(b, "retry: "...), f.ReconnectInMS, 10), '\n')
	}
	data := bytes.TrimPrefix(f.Append(nil), []byte(`{"op":"`+f.Op()+`"`))
	data = bytes.TrimPrefix(data, []byte(`,"sub":"`+eventStreamSub+`"`))
	data = bytes.TrimPrefix(data, []byte(`,`))
	b = append(append(b, "event: "...), f.Op()...)
	b = append(append(b, "\ndata: {"...), data...)
	return append(b, "\n\n"...)
}

func (eventStream) separator() string { return "" }

func (eventStream) ping() []byte { return nil }

func (eventStream) event(b []byte, head string, e *entry) []byte {
	b = strconv.AppendUint(append(b, head...), uint64(e.position), 10)
	b = append(append(b, "\ndata: {"...), e.tail...)
	return append(b, "\n\n"...)
}

// message makes a chunk (RFC 9112, 7.1).
func (eventStream) message(b []byte) []byte {
	header := strconv.AppendUint(make([]byte, 0, headerRoom), uint64(len(b)-headerRoom), 16)
	return append(within(b, append(header, "\r\n"...)), "\r\n"...)
}

// close returns the last event and the last chunk.
func (e eventStream) close(code int, reason string) []byte {
	b := append(make([]byte, headerRoom), "event: close\ndata: {\"code\":"...)
	b = strconv.AppendInt(b, int64(code), 10)
	b = frame.AppendString(append(b, `,"reason":`...), reason)
	return append(e.message(append(b, "}\n\n"...)), "0\r\n\r\n"...)
}

// eventStreamHeader returns the beginning of the response, with the header that
// was set so far.
func eventStreamHeader(header http.Header) []byte {
	header.Set("Content-Type", "text/event-stream")
	header.Set("X-Accel-Buffering", "no") // what nginx calls not to hold events back
	header.Set("Transfer-Encoding", "chunked")
	header.Set("Connection", "close")
	header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 200 OK\r\n")
	_ = header.Write(&b) // a buffer takes everything
	b.WriteString("\r\n")
	return b.Bytes()
}
