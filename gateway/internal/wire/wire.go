// Package wire encodes what a session sends, and reads what its client sends:
// [WebSocket] speaks ganglion.v1, [EventStream] sends Server-Sent Events.
package wire

import (
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
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
	// Protocol is the name for operators.
	Protocol() string
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

	// Frame encodes a frame. It returns nothing if the wire has no such frame.
	// Separator stands between two frames of a message.
	Frame(f frame.Frame) []byte
	Separator() string
	// CloseAfter returns the close code and the reason with which the session ends
	// after a frame, or 0 if it does not. It is called after Frame.
	CloseAfter(f frame.Frame) (code int, reason string)
	// Terms returns the terms of a subscription.
	Terms(sub string) Terms
	// Ping returns a message that the client's WebSocket library answers, or
	// nil.
	Ping() []byte
	// Silence returns for how long the client has shown no sign of life. quiet is the
	// time since the connection got its last byte.
	Silence(quiet time.Duration) time.Duration
	// AppendEvent appends the frame of an event: the head, which is the same
	// for all events of a subscription, and the entry. A wire whose Separator is
	// empty may leave the event out.
	AppendEvent(b []byte, head string, e *history.Entry) []byte
	// AppendState appends the frame of a shared state: the head, which is the
	// same for all states of a subscription, and the state.
	AppendState(b []byte, head string, s *history.SharedState) []byte
	// AppendPart appends a frame of a live query, with the head that Terms returned.
	AppendPart(b []byte, head string, p ask.Part) []byte
	// Message makes a message of the frames in b, whose first HeaderRoom bytes
	// are free. The message shares b's memory.
	Message(b []byte) []byte
	// Close returns the message that tells the client why the session ends. The
	// reason has at most 123 bytes.
	Close(code int, reason string) []byte
}

// Terms are what a wire and its client have agreed on for one subscription.
type Terms struct {
	// Event, State and Part are the heads of its frames: what all frames of the
	// kind begin with. Again is that of events that were sent before.
	Event, State, Part, Again string
	// Window is how many events may follow the oldest unacknowledged one, itself
	// included; 0 if the client acknowledges none.
	Window int
}

// Ack says what a client has done with an event of a subscription with a window.
type Ack struct {
	Sub      string
	Position eventstore.Position // of the event
	// IsOne is set if the ack is for this event alone, and not for all up to it.
	IsOne bool
	// IsRefused is set if the client wants the event again, later.
	IsRefused bool
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
	// Done returns a channel that is closed when no more answers follow.
	Done() <-chan struct{}
	// Acknowledge moves the window of a subscription. It returns false if the event
	// is not in it. It needs no Acquire.
	Acknowledge(Ack) bool
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
