package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/coder/websocket"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/gateway/internal/socket"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// WebSocket is the wire of ganglion.v1: text messages with one frame a line.
type WebSocket struct{ Conn *websocket.Conn }

// Protocol implements [Wire].
func (WebSocket) Protocol() string { return "websocket" }

// Read implements [Wire].
func (w WebSocket) Read(in *socket.Conn, h Handler) (more bool, code int, reason string) {
	for {
		typ, r, err := w.Conn.Reader(context.Background())
		if err != nil {
			return false, 0, ""
		}
		if typ == websocket.MessageBinary {
			_, _ = io.Copy(io.Discard, r)
			return false, frame.CloseBinary, "binary messages are not part of " + frame.Subprotocol
		}
		most := h.Limits().FrameBytes
		message, err := io.ReadAll(io.LimitReader(r, int64(most)+1))
		if err != nil {
			return false, 0, ""
		}
		if len(message) > most {
			h.Reached(limits.FrameBytes)
			return false, frame.CloseTooLarge, fmt.Sprintf("a message has more than %d bytes (welcome.limits.frame_bytes): send smaller messages", most)
		}
		if ok, code, reason := handleLines(message, h); !ok {
			return false, code, reason
		}
		if in.Input.Buffered() == 0 {
			return true, 0, ""
		}
	}
}

// handleLines handles the requests of one message. It returns false if the
// session must end.
func handleLines(message []byte, h Handler) (ok bool, code int, reason string) {
	for line := range frame.Lines(message) {
		if !h.Acquire() {
			return false, 0, ""
		}
		f, err := frame.ParseRequestWithin(line, h.Limits().Subscriptions)
		switch {
		case errors.Is(err, frame.ErrNotJSON):
			return false, frame.CloseBadFrame, "bad frame: not JSON in UTF-8, one object a line"
		case err != nil:
			if h.Malformed(err) == command.CodeRateLimited {
				h.Reached(limits.Subscriptions)
				return false, frame.CloseTooMany, "hello asks for more subscriptions than a session may have"
			}
		default:
			h.Handle(f)
		}
	}
	return true, 0, ""
}

// Ignore implements [Wire]. A socket that is closed with unread input resets
// the connection, and the client might not see the close frame.
func (w WebSocket) Ignore(in *socket.Conn) {
	for {
		_, r, err := w.Conn.Reader(context.Background())
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		switch {
		case err == nil:
		case websocket.CloseStatus(err) != -1:
			return
		default: // after invalid input, the library reads no more
			_, _ = io.Copy(io.Discard, io.LimitReader(in.Conn, 64<<20))
			return
		}
	}
}

// Release implements [Wire].
func (w WebSocket) Release() { _ = w.Conn.CloseNow() }

// Frame implements [Wire].
func (WebSocket) Frame(f frame.Frame) []byte { return f.Append(nil) }

// CloseAfter implements [Wire].
func (WebSocket) CloseAfter(frame.Frame) (code int, reason string) { return 0, "" }

// Terms implements [Wire]. The head of parts begins after their op, with its closing
// quote.
func (WebSocket) Terms(sub string) Terms {
	return Terms{
		Event: string(frame.AppendEventHead(nil, sub)),
		State: string(frame.AppendStateHead(nil, sub)),
		Part:  `","sub":` + string(frame.AppendString(nil, sub)),
	}
}

// Separator implements [Wire].
func (WebSocket) Separator() string { return "\n" }

// Ping implements [Wire].
func (WebSocket) Ping() []byte { return socket.Ping() }

// Silence implements [Wire].
func (WebSocket) Silence(quiet time.Duration) time.Duration { return quiet }

// AppendEvent implements [Wire].
func (WebSocket) AppendEvent(b []byte, head string, e *history.Entry) []byte {
	return append(append(b, head...), e.Tail...)
}

// AppendState implements [Wire].
func (WebSocket) AppendState(b []byte, head string, s *history.SharedState) []byte {
	return append(append(b, head...), s.Tail...)
}

// AppendPart implements [Wire].
func (WebSocket) AppendPart(b []byte, head string, p ask.Part) []byte {
	b = append(append(append(b, `{"op":"`...), p.Op...), head...)
	if len(p.Tail) > 1 {
		b = append(b, ',')
	}
	return append(b, p.Tail...)
}

// Message implements [Wire].
func (WebSocket) Message(b []byte) []byte { return socket.Text(b) }

// Close implements [Wire].
func (WebSocket) Close(code int, reason string) []byte { return socket.Close(code, reason) }
