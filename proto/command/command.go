// Package command is a command's way through the system in plain Go: what a
// gateway hands to the router, what the router hands to the owner's host, and
// what comes back. package frame is its form towards clients, package peer
// its form between nodes.
package command

import (
	"encoding/json"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Command asks an aggregate to do something.
type Command struct {
	Stream eventstore.StreamID
	Name   string // stored name, such as "bid"
	Data   json.RawMessage

	// Checked says that this very program has found Data to be what the
	// command's type says. It does not travel to other nodes, whose program
	// may be another one.
	Checked bool

	// Key makes the command's effect happen once, however often it is sent.
	// Every dispatched command has one; ClientKey says that the client gave
	// it, so that also an outcome without events is kept.
	Key       string
	ClientKey bool

	// Client is the id of the sender, "" for nobody. Claims are its token's.
	Client string
	Claims map[string]any

	// Session identifies the sender's session; together with Stream it names
	// the lane in which order is kept.
	Session string

	// Lane is what it was sent along with; nil if nothing. The router sets it.
	// An executor answers with Lane.Refusal, if there is one, instead of
	// beginning the command.
	Lane *Lane

	// Expect, if not nil, is the version that the stream must be at.
	Expect *eventstore.Version

	// Deadline is when the sender stops waiting. A command past it is not
	// begun.
	Deadline time.Time

	// Attempt counts the candidates that the command was sent to: 1 at first.
	Attempt int

	// Trace is the W3C traceparent that came with the command.
	Trace string
}

// Get asks for an aggregate's public state.
type Get struct {
	Stream eventstore.StreamID
	// AtLeast is a position that the answer must know of; 0 for any.
	AtLeast eventstore.Position
	// Strong makes the owner compare its state with the log first.
	Strong bool
	// Deadline is when the sender stops waiting.
	Deadline time.Time
}

// State is an aggregate's public state.
type State struct {
	Version  eventstore.Version
	Position eventstore.Position // of the stream's last event in it
	Data     json.RawMessage
}

// Result is the answer to a command that was executed.
type Result struct {
	Key      string
	Version  eventstore.Version
	Position eventstore.Position
	// Replayed says that the key had been executed before, and that this is
	// its first answer.
	Replayed bool
	Data     json.RawMessage
}

// Outcome is the answer to a command: Result, unless Failure is set.
type Outcome struct {
	Result  Result
	Failure *Failure
}

// Failed makes an Outcome of a failure.
func Failed(f *Failure) Outcome { return Outcome{Failure: f} }

// Code says what kind of failure it is; clients rely on it.
type Code string

// The codes of the client protocol.
const (
	BadRequest      Code = "bad_request"
	Unsupported     Code = "unsupported"
	Unauthenticated Code = "unauthenticated"
	Forbidden       Code = "forbidden"
	NotFound        Code = "not_found"
	Rejected        Code = "rejected"
	Conflict        Code = "conflict"
	KeyReused       Code = "key_reused"
	CursorAhead     Code = "cursor_ahead"
	TooLarge        Code = "too_large"
	RateLimited     Code = "rate_limited"
	Busy            Code = "busy"
	Unavailable     Code = "unavailable"
	Timeout         Code = "timeout"
	Internal        Code = "internal"
)

// Retry tells a client what to do about a failure.
type Retry string

const (
	// RetryNo means that sending it again would fail again.
	RetryNo Retry = "no"
	// RetrySameKey means that the outcome is unknown: the same key again
	// finds it out, and executes the command if it was not.
	RetrySameKey Retry = "same_key"
	// RetryLater means that the command was not executed.
	RetryLater Retry = "later"
)

// Failure is why a request was not granted. It is an error.
type Failure struct {
	Code    Code
	Reason  string // the domain's own code, for Rejected
	Message string // for people: what is wrong and what to do
	Retry   Retry
	After   time.Duration // wait this long before the retry; 0: the client's choice
	Version *eventstore.Version
	Field   string // the member of data that is wrong, for BadRequest

	// Key and Replayed are the command's, as in Result.
	Key      string
	Replayed bool

	// Elsewhere says that this node did not execute the command and that
	// another node may: it is draining, or too old to know an event. It never
	// reaches a client.
	Elsewhere bool

	// Cause is the error behind an Unavailable that an operator can do something
	// about, such as the database's, for the logs of nodes. It never reaches a
	// client.
	Cause string
}

func (f *Failure) Error() string { return string(f.Code) + ": " + f.Message }
