package aggregate

import (
	"fmt"
	"time"
)

// A Command asks an aggregate with state S to do something. Its type is a
// struct whose members are the command's data.
type Command[S any] interface {
	// Decide returns the events that the command causes, no event, or a
	// rejection. It is pure: it reads no clock, does not block, and does not
	// change the state, including maps and slices in it. Any error
	// other than a *Rejection is a fault of the program; clients see it as
	// "internal".
	Decide(Call, S) (Decision[S], error)
}

// An Event is a fact about an aggregate with state S. Its type is a struct
// whose members are the event's stored form, which is permanent: add members,
// keep old ones.
type Event[S any] interface {
	// Apply makes the fact part of the state. It is pure and cannot fail, since
	// the event has happened.
	Apply(*S)
}

// A Decision is the events that a command causes, in order. It may be empty.
type Decision[S any] []Event[S]

// Emit returns the decision with these events. Emit[S]() grants the command and
// changes nothing. An event of another aggregate does not compile.
func Emit[S any](events ...Event[S]) (Decision[S], error) { return events, nil }

// A Call is the information that Decide has besides the command's data and the
// state.
type Call struct {
	// ID is the aggregate's id: "42" in auction/42.
	ID string
	// Client is the id of the client that sent the command, or "" for an
	// anonymous client.
	Client string
	// Claims are the claims of the client's token, or nil without a token.
	Claims map[string]any
	// Key is the command's idempotency key.
	Key string
	// Time is when the command is decided, and is stored with its events: the
	// later of the owner's clock and the stream's last event, in UTC, at a
	// precision of microseconds. An event more than a minute ahead of the clock
	// is ignored.
	Time time.Time
}

// A Rejection is an error that says which business rule forbids a command.
type Rejection struct {
	// Code is a name that clients may rely on, such as "seat_taken".
	Code string
	// Message is for people.
	Message string
}

// Reject returns a rejection. Keep it in a variable and return it from Decide. The
// code has lower-case letters, digits and _.
func Reject(code, message string) *Rejection {
	return &Rejection{Code: code, Message: message}
}

// Because returns a copy of the rejection with a more specific message.
func (r *Rejection) Because(format string, args ...any) *Rejection {
	return &Rejection{Code: r.Code, Message: fmt.Sprintf(format, args...)}
}

func (r *Rejection) Error() string { return r.Code + ": " + r.Message }

// Is makes errors.Is true for rejections with the same code. Messages may differ.
func (r *Rejection) Is(target error) bool {
	t, ok := target.(*Rejection)
	return ok && t.Code == r.Code
}
