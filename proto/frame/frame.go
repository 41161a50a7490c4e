// Package frame is the client protocol ganglion.v1: every frame that a client
// and a gateway say to each other, as a Go type that can be written and read.
//
// A frame is one JSON object on one line; a WebSocket text message carries one
// or more of them. Reading is strict about what a frame says and forgiving
// about what it says besides: a wrong type or a missing member is an *Error
// that names the member and what to mend, and carries the id if that could be
// read, so that the connection goes on; a member that the frame does not know
// is ignored, so that newer clients get on with older gateways. Only what is
// not JSON at all is ErrNotJSON, which ends the connection.
//
// Frames are written by appending to a buffer, without reflection. What was
// written never holds a line feed. The golden frames in ../testdata are shared
// by every client library; ../asyncapi.yaml describes the same frames, and a
// test compares it with these types.
//
// A frame that was read shares the memory of the line that it was read from,
// as far as its Data goes; neither may be changed afterwards. All functions
// are safe for concurrent use.
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
	// MaxDataBytes bounds the data of a command or query: a commit's events
	// are bounded by three times as much, and a feed's frame holds a commit.
	MaxDataBytes = 64 << 10
	// MaxTimeout bounds timeout_ms, DefaultTimeout stands in for it.
	MaxTimeout     = 30 * time.Second
	DefaultTimeout = 5 * time.Second
)

// Close codes besides those of RFC 6455.
const (
	CloseGoingAway       = 1001 // the node stops
	CloseTooLarge        = 1009 // a message over the limit
	CloseDraining        = 1012 // reconnect after goodbye's reconnect_in_ms
	CloseBadFrame        = 4000 // not JSON
	CloseUnauthenticated = 4001 // no valid token, or it expired
	CloseBinary          = 4002 // a binary message
	CloseNoHello         = 4003 // no hello in time
	CloseForbidden       = 4004
	CloseOverloaded      = 4100
	CloseTooMany         = 4101 // too many connections
	CloseReadNothing     = 4102 // the client read nothing for too long
	CloseLost            = 4200 // this gateway lost its way to the cluster or to the log
)

// ErrNotJSON reports a line that is not JSON in UTF-8.
var ErrNotJSON = errors.New("frame: the line is not JSON in UTF-8: send one JSON object a line")

// Error says why a line is JSON but no valid frame, in words for whoever
// wrote it.
type Error struct {
	ID      string // of the frame, if it could be read
	Key     string // of the command, if it could be read
	Code    command.Code
	Field   string // the member that is wrong, if it is one
	Message string
}

func (e *Error) Error() string { return "frame: " + e.Message }

// Frame is any frame, towards a gateway or from one.
type Frame interface {
	// Op returns what the frame is: its member "op".
	Op() string
	// Append appends the frame as one JSON object, without a line feed.
	Append(dst []byte) []byte
}

// Request is a frame that a client sends.
type Request interface {
	Frame
	// RequestID returns the frame's id.
	RequestID() string
}

// Hello opens a session. At most one of Token and Client is set.
type Hello struct {
	ID     string
	Token  string
	Client string
	// Log is the id of the log that the client's cursors belong to, if it
	// knows one.
	Log           string
	Subscriptions []Subscribe
	// Refused are the subscriptions that are no valid frames, each by itself:
	// the others go on.
	Refused []*Error
}

// Command asks an aggregate to do something.
type Command struct {
	ID        string
	Aggregate eventstore.StreamID
	Command   string
	Data      json.RawMessage
	Key       string              // empty: the gateway makes one
	Expect    *eventstore.Version // nil: any version
	TimeoutMS int64               // 0: DefaultTimeout
	Trace     string              // W3C traceparent
}

// Timeout returns how long the client waits for the answer.
func (c Command) Timeout() time.Duration {
	if c.TimeoutMS == 0 {
		return DefaultTimeout
	}
	return time.Duration(c.TimeoutMS) * time.Millisecond
}

// Get asks for an aggregate's public state.
type Get struct {
	ID        string
	Aggregate eventstore.StreamID
	AtLeast   eventstore.Position // 0: any
	Strong    bool
}

// Query asks a query by its name.
type Query struct {
	ID      string
	Query   string
	Data    json.RawMessage
	AtLeast eventstore.Position
}

// Subscribe asks for events. Exactly one of Stream, Category and Query is
// set, and at most one of After, Cursor, Last and State; with none of those
// the subscription begins now.
type Subscribe struct {
	ID       string
	Stream   eventstore.StreamID
	Category string
	Query    string
	After    *eventstore.Version
	Cursor   string
	Last     uint64
	State    bool
}

// Resumes tells whether the subscription goes on from something that the
// client knows of the log.
func (s Subscribe) Resumes() bool { return s.After != nil || s.Cursor != "" }

// FromBeginning tells whether the subscription asks for all there is.
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

// Limits are what a gateway allows a session.
type Limits struct {
	FrameBytes        int // of one WebSocket message
	OpenRequests      int
	Subscriptions     int
	CommandsPerSecond int // 0: not limited
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

// Result answers Command, Get, Query and Auth. Version and Position are 0
// where there is nothing to say (of Auth, and the version of Query).
type Result struct {
	ID       string
	Key      string
	Version  eventstore.Version
	Position eventstore.Position
	Replayed bool
	Data     json.RawMessage // nil: absent
}

// Fault is the frame "error": a request was not granted.
type Fault struct {
	ID       string // empty where no request can be named
	Key      string
	Code     command.Code
	Reason   string
	Message  string
	Retry    command.Retry
	AfterMS  int64
	Version  *eventstore.Version
	Field    string
	Replayed bool // this key had been refused before, and this is its first answer
}

// Subscribed answers Subscribe: the subscription has begun.
type Subscribed struct {
	ID     string
	Cursor string
}

// State is the state that a subscription with State begins with.
type State struct {
	Sub      string
	Version  eventstore.Version
	Position eventstore.Position
	Data     json.RawMessage
}

// Event is one event of a subscription.
type Event struct {
	Sub      string
	Stream   eventstore.StreamID
	Version  eventstore.Version
	Position eventstore.Position
	Event    string // stored name
	Data     json.RawMessage
	Time     time.Time
	Cause    string // the command's key
	By       string // who caused it, where the aggregate shows it
}

// Live says that a subscription has caught up.
type Live struct {
	Sub     string
	Version *eventstore.Version // of streams
	Cursor  string
}

// Behind says how far a subscription that still catches up has got.
type Behind struct {
	Sub    string
	Cursor string
}

// Heartbeat says that everything up to Cursor that matches the session's live
// subscriptions has been sent.
type Heartbeat struct {
	Cursor string
	Behind []Behind
}

// Unsubscribed says that no frame of Sub follows. ID is that of the
// Unsubscribe it answers; without one, Code, Message and Cursor say why.
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

// Op returns "hello"; the other frames' Op say theirs likewise.
func (Hello) Op() string        { return "hello" }
func (Command) Op() string      { return "command" }
func (Get) Op() string          { return "get" }
func (Query) Op() string        { return "query" }
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

// RequestID returns the frame's id, here and below.
func (f Hello) RequestID() string       { return f.ID }
func (f Command) RequestID() string     { return f.ID }
func (f Get) RequestID() string         { return f.ID }
func (f Query) RequestID() string       { return f.ID }
func (f Subscribe) RequestID() string   { return f.ID }
func (f Unsubscribe) RequestID() string { return f.ID }
func (f Auth) RequestID() string        { return f.ID }
func (f Ping) RequestID() string        { return f.ID }
