// Package wire encodes what a session sends, and reads what its client sends:
// [WebSocket] speaks ganglion.v1, [EventStream] sends Server-Sent Events.
package wire

import (
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/gateway/internal/socket"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// Wire is a protocol that carries frames. One goroutine calls Read and Ignore;
// the other methods are safe for concurrent use.
type Wire interface {
	// Read handles the messages that the client has sent. It returns more if
	// the session continues. Otherwise the session ends with the close code;
	// the code is 0 if another part of the session closes it, or the client
	// has gone.
	Read(in *socket.Conn, h Handler) (more bool, code int, reason string)
	// Ignore reads and drops input until the client has closed its side or the
	// socket's read deadline has passed.
	Ignore(in *socket.Conn)
	// Release frees the resources of the connection.
	Release()

	// Frame encodes a frame. Separator stands between two frames of a message.
	Frame(f frame.Frame) []byte
	Separator() string
	// Ping returns a message that the client's WebSocket library answers, or
	// nil.
	Ping() []byte
	// AppendEvent appends the frame of an event: the head, which is the same
	// for all events of a subscription, and the entry.
	AppendEvent(b []byte, head string, e *history.Entry) []byte
	// AppendState appends the frame of a shared state: the head, which is the
	// same for all states of a subscription, and the state.
	AppendState(b []byte, head string, s *history.SharedState) []byte
	// AppendPart appends a frame of a live query. head is the beginning of its
	// frames after their op, from its closing quote on.
	AppendPart(b []byte, head string, p ask.Part) []byte
	// Message makes a message of the frames in b, whose first HeaderRoom bytes
	// are free. The message shares b's memory.
	Message(b []byte) []byte
	// Close returns the message that tells the client why the session ends. The
	// reason has at most 123 bytes.
	Close(code int, reason string) []byte
}

// Handler handles the requests of a client.
type Handler interface {
	// Limits returns the limits, of which Wire enforces those on messages.
	Limits() *limits.Limits
	// Reached counts that a limit was reached.
	Reached(limits.Kind)
	// Acquire blocks until another request may be open. It returns false if the
	// session accepts no more requests.
	Acquire() bool
	// Handle handles a request. Acquire must be called before it.
	Handle(frame.Request)
	// Malformed replies to an invalid request, and returns the code of the
	// reply. Acquire must be called before it.
	Malformed(error) command.Code
}

// HeaderRoom is the room before a message for its header: of a WebSocket frame
// or of an HTTP chunk.
const HeaderRoom = socket.HeaderRoom

// MessageBytes is the size at which a message is full. CrowdedMessageBytes
// replaces it while the outbound buffers are crowded.
const (
	MessageBytes        = 32 << 10
	CrowdedMessageBytes = 4 << 10
)

// EndsWithSubscription reports whether a session over the wire has one
// subscription, and ends with it.
func EndsWithSubscription(w Wire) bool { _, ok := w.(EventStream); return ok }

// Outcome turns a command's outcome into its frame.
func Outcome(id, key string, o command.Outcome) frame.Frame {
	if o.Failure != nil {
		return Fault(id, key, o.Failure)
	}
	r := o.Result
	return frame.Result{ID: id, Key: key, Version: r.Version, Position: r.Position, Replayed: r.Replayed, Data: r.Data}
}

// Fault turns a failure into its frame.
func Fault(id, key string, f *command.Failure) frame.Fault {
	out := frame.Fault{
		ID: id, Key: key, Code: f.Code, Reason: f.Reason, Message: f.Message, Retry: f.Retry,
		AfterMS: f.After.Milliseconds(), Version: f.Version, Field: f.Field, Replayed: f.Replayed,
	}
	if out.Retry == "" {
		out.Retry = command.RetryNo
	}
	return out
}
