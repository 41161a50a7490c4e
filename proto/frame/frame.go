// Package frame has the frames of the client protocol ganglion.v1 as Go types.
//
// A frame is one JSON object on one line. A WebSocket text message carries one or
// more frames. [ParseRequest] reads a client's frame, [ParseAnswer] a gateway's, and
// each type's Append writes it.
//
// If a member is missing or has a wrong type, parsing returns an *[Error]. It names the
// member and what to correct, and has the frame's id if the id could be read; the
// connection continues. Unknown members are ignored, so that newer clients can use
// older gateways. For a line that is not JSON, parsing returns [ErrNotJSON], which ends
// the connection.
//
// Frames are written by appending to a buffer, without reflection, and never contain
// a line feed. The golden frames in ../testdata serve the tests of every client
// library. ../asyncapi.yaml describes the same frames, and a test compares it with these
// types.
//
// The Data of a parsed frame shares memory with the line; change neither. All
// functions are safe for concurrent use.
package frame

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// Subprotocol is the WebSocket subprotocol of these frames.
const Subprotocol = "ganglion.v1"

// Bounds of single members.
const (
	// MaxIDBytes bounds a frame's id, MaxKeyBytes an idempotency key.
	MaxIDBytes  = 64
	MaxKeyBytes = 64
	// MaxCursorBytes bounds the cursor of a query's subscription, and the place of a
	// page. Other cursors have at most 64 bytes.
	MaxCursorBytes = 1 << 10
	// MaxDataBytes bounds the data of a command or query.
	MaxDataBytes = 64 << 10
	// MaxTimeout bounds timeout_ms. DefaultTimeout applies without it.
	MaxTimeout     = 30 * time.Second
	DefaultTimeout = 5 * time.Second
)

// Close codes besides those of RFC 6455.
const (
	CloseGoingAway       = 1001 // the node stops
	CloseTooLarge        = 1009 // a message over the limit
	CloseDraining        = 1012 // reconnect after goodbye's reconnect_in_ms
	CloseBadFrame        = 4000 // not JSON
	CloseUnauthenticated = 4001 // no valid token, or it has expired
	CloseBinary          = 4002 // a binary message
	CloseNoHello         = 4003 // no hello in time
	CloseForbidden       = 4004 // an operator closed the session
	CloseOverloaded      = 4100 // the gateway's send buffers are full
	CloseTooMany         = 4101 // too many sessions
	CloseReadNothing     = 4102 // the client read nothing for too long
	CloseLost            = 4200 // this gateway lost its connection to the cluster or to the log
)

// ErrNotJSON reports a line that is not JSON in UTF-8.
var ErrNotJSON = errors.New("frame: the line is not JSON in UTF-8: send one JSON object per line")

// Error says why a line of JSON is not a valid frame. The message is for the author of
// the client.
type Error struct {
	ID      string // of the frame, if it could be read
	Key     string // of the command, if it could be read
	Code    command.Code
	Field   string // the member that is wrong; "" if none
	Message string
}

func (e *Error) Error() string { return "frame: " + e.Message }

// Failure returns the failure with which the gateway answers the frame.
func (e *Error) Failure() *command.Failure {
	f := command.BadRequest(e.Field, "%s", e.Message)
	f.Code = e.Code
	return f
}

// Frame is any frame, from a client or from a gateway.
type Frame interface {
	// Op returns the frame's member "op".
	Op() string
	// Append appends the frame as one JSON object, without a line feed.
	Append(dst []byte) []byte
}

// Request is a frame that a client sends.
type Request interface {
	Frame
	// RequestID returns the frame's id, or "" if the frame has none, as [Ack].
	RequestID() string
}

// Hello opens a session. At most one of Token and Client is set.
type Hello struct {
	ID     string
	Token  string
	Client string
	// Log is the id of the log that the client's cursors belong to, or "".
	Log           string
	Subscriptions []Subscribe
	// Refused are the errors of the subscriptions that are not valid frames.
	// They do not affect the others.
	Refused []*Error
}

// Command asks an aggregate to do something.
type Command struct {
	ID        string
	Aggregate eventstore.StreamID
	Command   string
	Data      json.RawMessage
	Key       string              // "" if the gateway chooses one
	Expect    *eventstore.Version // nil for any version
	TimeoutMS int64               // 0 for DefaultTimeout
	Trace     string              // W3C traceparent
}

// Timeout returns how long the client waits for the answer.
func (c Command) Timeout() time.Duration { return timeout(c.TimeoutMS) }

func timeout(ms int64) time.Duration {
	if ms == 0 {
		return DefaultTimeout
	}
	return time.Duration(ms) * time.Millisecond
}

// Get asks for an aggregate's public state.
type Get struct {
	ID        string
	Aggregate eventstore.StreamID
	AtLeast   eventstore.Position // 0 for any
	Strong    bool
}

// StateMode is which states of its aggregate a stream's subscription sends.
type StateMode string

// The modes. On the wire StateFirst is true; the others are their own names.
const (
	StateNone  StateMode = ""
	StateFirst StateMode = "true" // the state first, then the events after it
	StateEach  StateMode = "each" // the events, and the newest state after them
	StateOnly  StateMode = "only" // the newest state after the events, without the events
)

// Subscribe asks for events, or for the rows of a query. Exactly one of Stream,
// Category and Query is set, and at most one of After, Cursor, Last and State:
// StateFirst. StateEach goes with each of them, StateOnly with Cursor. Without one of
// these the subscription begins with the next event, or with all rows of the query.
type Subscribe struct {
	ID       string
	Stream   eventstore.StreamID
	Category string
	Query    string
	After    *eventstore.Version
	Cursor   string
	Last     uint64
	State    StateMode
	Data     json.RawMessage     // parameters of the query
	AtLeast  eventstore.Position // that the rows must show; 0 for any
}

// Resumes reports whether the subscription continues from a version or a cursor.
func (s Subscribe) Resumes() bool { return s.After != nil || s.Cursor != "" }

// FromBeginning reports whether the subscription asks for the whole history.
func (s Subscribe) FromBeginning() bool {
	return s.After != nil && *s.After == 0 || s.Cursor == "0"
}

// Unsubscribe ends the subscription with the id Sub.
type Unsubscribe struct {
	ID  string
	Sub string
}

// Auth renews the session's token.
type Auth struct {
	ID    string
	Token string
}

// Ping asks for a Pong.
type Ping struct {
	ID string
}

// Limits are a session's limits.
type Limits struct {
	FrameBytes        int // of one WebSocket message
	OpenRequests      int
	Subscriptions     int
	CommandsPerSecond int // 0 if not limited
}

// Welcome answers Hello.
type Welcome struct {
	ID          string
	Session     string
	Client      string
	Node        string
	Server      string
	Log         string
	Cursor      string
	HeartbeatMS int64
	Limits      Limits
}

// Result answers Command, Get, Query and Auth. Version and Position are 0 for Auth,
// and Version is 0 for Query, whose Data is a [Page].
type Result struct {
	ID       string
	Key      string
	Version  eventstore.Version
	Position eventstore.Position
	Replayed bool
	Data     json.RawMessage // nil if absent
}

// Fault is the frame "error": a request was refused or failed.
type Fault struct {
	ID       string // "" if the request is unknown
	Key      string
	Code     command.Code
	Reason   string
	Message  string
	Retry    command.Retry
	AfterMS  int64
	Version  *eventstore.Version
	Field    string
	Replayed bool // the key was refused before, and this repeats its first answer
}

// Subscribed answers Subscribe: the subscription has begun.
type Subscribed struct {
	ID     string
	Cursor string
}

// State is an aggregate's public state at a version. It is the first frame of a
// subscription with StateFirst, and follows the events of one with StateEach or
// StateOnly.
type State struct {
	Sub      string
	Version  eventstore.Version
	Position eventstore.Position
	Data     json.RawMessage
}

// Event is one event of a subscription, or of a segment of a consumer group.
type Event struct {
	Sub      string
	Segment  string // "" if the event is of a subscription
	Stream   eventstore.StreamID
	Version  eventstore.Version
	Position eventstore.Position
	Event    string // stored name
	Data     json.RawMessage
	Time     time.Time
	Cause    string // the command's key
	By       string // the client that caused it; "" if the aggregate does not show it
}

// Live reports that a subscription has caught up.
type Live struct {
	Sub     string
	Version *eventstore.Version // of a stream; nil for a category or query
	Cursor  string
	// Position is up to where the rows of a query show the log; nil for a stream or
	// category. Blocked is the number of rows that wait for an operator.
	Position *eventstore.Position
	Blocked  int
}

// Behind is the progress of a subscription that is catching up.
type Behind struct {
	Sub    string
	Cursor string
}

// Heartbeat reports that all events up to Cursor that match the session's live
// subscriptions have been sent.
type Heartbeat struct {
	Cursor string
	Behind []Behind
}

// Unsubscribed reports that no frame of Sub follows. ID is the id of the Unsubscribe
// that it answers. If the gateway ended the subscription, ID is "", Code and Message
// say why, and Cursor is the place to continue from.
type Unsubscribed struct {
	ID      string
	Sub     string
	Code    command.Code
	Message string
	Cursor  string
}

// Pong answers Ping.
type Pong struct {
	ID string
}

// Expiring warns that the session's token is about to expire.
type Expiring struct {
	InMS int64
}

// Goodbye announces that the gateway closes the connection.
type Goodbye struct {
	Reason        string
	ReconnectInMS int64
}

// Op returns the member op of the frame, here "hello".
func (Hello) Op() string        { return "hello" }
func (Command) Op() string      { return "command" }
func (Get) Op() string          { return "get" }
func (Subscribe) Op() string    { return "subscribe" }
func (Unsubscribe) Op() string  { return "unsubscribe" }
func (Auth) Op() string         { return "auth" }
func (Ping) Op() string         { return "ping" }
func (Welcome) Op() string      { return "welcome" }
func (Result) Op() string       { return "result" }
func (Fault) Op() string        { return "error" }
func (Subscribed) Op() string   { return "subscribed" }
func (State) Op() string        { return "state" }
func (Event) Op() string        { return "event" }
func (Live) Op() string         { return "live" }
func (Heartbeat) Op() string    { return "heartbeat" }
func (Unsubscribed) Op() string { return "unsubscribed" }
func (Pong) Op() string         { return "pong" }
func (Expiring) Op() string     { return "expiring" }
func (Goodbye) Op() string      { return "goodbye" }

// RequestID returns the frame's id.
func (f Hello) RequestID() string       { return f.ID }
func (f Command) RequestID() string     { return f.ID }
func (f Get) RequestID() string         { return f.ID }
func (f Subscribe) RequestID() string   { return f.ID }
func (f Unsubscribe) RequestID() string { return f.ID }
func (f Auth) RequestID() string        { return f.ID }
func (f Ping) RequestID() string        { return f.ID }
