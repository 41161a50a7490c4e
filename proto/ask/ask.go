// Package ask has the types of a question inside a node: what a gateway asks the
// engine, and the answer. Package frame has their form towards clients.
package ask

import (
	"context"
	"encoding/json"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// Question is a call of a query.
type Question struct {
	Query string
	Data  json.RawMessage
	// Client is the id of the client that asks, "" for an anonymous client. Claims
	// are the claims of its token.
	Client string
	Claims map[string]any
	// AtLeast is a position that the answer must show; 0 for any.
	AtLeast eventstore.Position
	// After is Answer.Next of the page before, "" for the first page.
	After string
}

// Answer is a page of a query's rows, or the value that a query's code returns.
type Answer struct {
	Rows []Row
	// Value is the JSON of an answer that is not rows. If it is set, Rows and Next
	// are empty, and clients get it as the result's data.
	Value json.RawMessage
	// Position is up to where the rows show the log.
	Position eventstore.Position
	// Next asks for the next page; "" on the last one.
	Next string
	// Blocked is how many rows of the projection wait for an operator.
	Blocked int
}

// Row is a row of an answer.
type Row struct {
	Key string
	// Rank sorts the rows of the query bytewise.
	Rank     string
	Position eventstore.Position // of the last event that changed it
	Data     json.RawMessage
}

// Queries answers questions.
type Queries interface {
	// Ask answers a question once. If AtLeast is not reached before ctx ends, the
	// failure is unavailable.
	Ask(ctx context.Context, q Question) (Answer, *command.Failure)
	// Follow answers a question, and then keeps the answer current, until Close of
	// the result. With a cursor that the client has from an earlier Live of the same
	// question, it sends what has changed since; with any other cursor the first
	// part is a reset. The first parts show AtLeast, as in Ask; After is ignored.
	//
	// wake is called whenever Next has parts again after it had none, on any
	// goroutine and perhaps before Follow returns. It must not block, and must not
	// call the result's methods.
	Follow(ctx context.Context, q Question, cursor string, wake func()) (Live, *command.Failure)
}

// Live is the answer to a question, kept current for one subscription. Its methods
// are safe for concurrent use. They do not block, except Renew.
type Live interface {
	// Next returns the next parts, of about room bytes in all, and at least one if
	// there is any. They count as sent. more reports whether further parts are
	// ready; if not, wake announces them.
	//
	// A part "unsubscribed" is the last one.
	Next(room int) (parts []Part, more bool)
	// Cursor returns from where the subscription can be resumed, given that all
	// parts that Next has returned reach the client; "" if from nowhere yet. behind
	// reports whether the rows lag behind the log, or parts are pending.
	Cursor() (cursor string, behind bool)
	// Renew is called when the client's token has changed, and now and then, since
	// access rules may depend on more than the token. If that changes what the client
	// may see, the next part is a reset whose reason is access. The failure
	// says that the client may not ask any more; call Close then.
	Renew(ctx context.Context, client string, claims map[string]any) *command.Failure
	// Close ends the subscription. It may be called more than once.
	Close()
}

// A Part is a frame of a live query without its first members, op and sub. Many
// subscriptions share it; it must not be changed.
type Part struct {
	// Op is state, live, update, keys, synced, reset or unsubscribed; package frame has
	// their members.
	Op string
	// Tail is the JSON of the other members, from the first member's name to the
	// closing brace.
	Tail []byte
}

// Append appends the part as a frame of a subscription.
func (p Part) Append(dst []byte, sub string) []byte {
	dst = append(dst, `{"op":"`...)
	dst = append(dst, p.Op...)
	dst = append(dst, `","sub":`...)
	name, err := json.Marshal(sub)
	if err != nil {
		panic(err) // a string
	}
	dst = append(dst, name...)
	if len(p.Tail) > 1 {
		dst = append(dst, ',')
	}
	return append(dst, p.Tail...)
}
