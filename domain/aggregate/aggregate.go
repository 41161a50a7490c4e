package aggregate

import (
	"fmt"
	"time"
)

// A Command asks an aggregate with state S to do something. Its type is a
// struct whose members are the command's data.
type Command[S any] interface {
	// Decide says what happens: events to be recorded, nothing, or a
	// rejection. It is pure: it reads no clock, waits for nothing, and leaves
	// the state as it is, maps and slices in it included. Any error but a
	// *Rejection is a fault of the program; clients see it as "internal".
	Decide(Call, S) (Decision[S], error)
}

// An Event is a fact about an aggregate with state S. Its type is a struct
// whose members are the event's stored form, which is permanent: add members,
// keep old ones.
type Event[S any] interface {
	// Apply makes the fact part of the state. It is pure and can't fail: what
	// happened has happened.
	Apply(*S)
}

// A Decision is what a command makes happen, in order. It may be empty.
type Decision[S any] []Event[S]

// Emit returns the decision that these events happen. Emit[S]() is the
// decision that nothing does: the command is granted and changes nothing.
// Another aggregate's event does not compile.
func Emit[S any](events ...Event[S]) (Decision[S], error) { return events, nil }

// A Call is what a command may know besides its data and the state.
type Call struct {
	// ID is the aggregate's id: "42" in auction/42.
	ID string
	// Client is the id of the client that sent the command, "" for nobody.
	Client string
	// Claims are those of the client's token, nil without one.
	Claims map[string]any
	// Key is the command's idempotency key.
	Key string
	// Time is when the command is decided: the later of the owner's clock and
	// the stream's last event, in UTC at microseconds. It is what is stored.
	Time time.Time
}

// A Rejection is a business rule saying no. It is an error.
type Rejection struct {
	// Code is what clients may rely on, such as "seat_taken".
	Code string
	// Message is for people.
	Message string
}

// Reject returns a rejection, to be kept in a variable and returned by Decide.
// A code has lower-case letters, digits and _.
func Reject(code, message string) *Rejection {
	return &Rejection{Code: code, Message: message}
}

// Because returns the same rejection with a message about the case at hand.
func (r *Rejection) Because(format string, args ...any) *Rejection {
	return &Rejection{Code: r.Code, Message: fmt.Sprintf(format, args...)}
}

func (r *Rejection) Error() string { return r.Code + ": " + r.Message }

// Is makes errors.Is hold between rejections of the same code, whatever their
// messages say.
func (r *Rejection) Is(target error) bool {
	t, ok := target.(*Rejection)
	return ok && t.Code == r.Code
}
