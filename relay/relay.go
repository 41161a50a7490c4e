// Package relay is the contract between a log and the brokers to which its committed
// events are published, in order, and from which it takes commands.
//
// A [Relay] names a broker and the events that it gets. Package engine runs it: the
// node that the ring chooses opens a [Target], publishes from the relay's checkpoint on,
// and moves the checkpoint over events that the broker has confirmed. Everything from
// opening a target to closing it is a run.
//
// # Runs
//
// Within a run, messages are published in the order of the log, without a hole. A run
// begins right after the checkpoint, so all earlier events were confirmed before. After a
// fault, the next run publishes again what was not confirmed, or whose confirmation was
// not recorded. So a queue gets each message at least once, and repeats are whole ends
// of runs. Two nodes that both believe to own a relay cost repeats, and no hole.
//
// # Commands from a queue
//
// An [Intake] names a queue of a broker, and an [IntakeServer] executes the commands in
// it: each once by its key, in the order of the queue for each aggregate.
//
// Brokers are modules of their own, such as relay/rabbitmq, so a program has the client
// libraries of those alone that it imports.
package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

const (
	// DefaultWindow is the number of unconfirmed messages if a Relay has none, MaxWindow
	// the largest number.
	DefaultWindow = 1000
	MaxWindow     = 10_000
	// maxName bounds the bytes of a relay's name.
	maxName = 24
)

// A Target is one connection to a broker. It serves one run: it is opened once and
// closed once, and not used after that.
//
// Close and Confirmed may be called while another call is in progress, Open and Publish
// are called by one goroutine at a time.
type Target interface {
	// Open connects, within ctx. If the broker itself knows the last position that it
	// has of an incarnation of the log, it returns that and true: the run then begins
	// after it.
	Open(ctx context.Context, log string) (last eventstore.Position, known bool, err error)
	// Publish hands a message over. Messages come in the order of the log, at most
	// Relay.Window of them unconfirmed. Nil proves nothing: Confirmed does. It may block
	// while the broker takes nothing, until Close. An error ends the run.
	Publish(ctx context.Context, m Message) error
	// Confirmed has the position of each message that the broker has taken over, in any
	// order. It is closed when the connection ends, for whatever reason. Its reader may
	// pause: the Target must read from the broker nevertheless.
	Confirmed() <-chan eventstore.Position
	// Err returns why Confirmed was closed. An *[EventError] is about one event.
	Err() error
	// Stalled returns why the broker takes nothing at the moment although the connection
	// is open, "" if it does.
	Stalled() string
	// Close ends the connection, and Publish. It returns once Confirmed is closed.
	Close()
}

// An EventError reports an event that the broker cannot take over as it is, such as one
// that no queue wants. After three attempts the relay stops at the event, until an
// operator decides.
type EventError struct {
	Position eventstore.Position
	Reason   string // a clause: what is wrong, and what to do
}

func (e *EventError) Error() string {
	return fmt.Sprintf("the event at position %d: %s", e.Position, e.Reason)
}

// A Message is one event.
type Message struct {
	Log      string // incarnation of the log
	Position eventstore.Position
	// Prev is the position that this run has published before, 0 for its first message:
	// all earlier events of the relay were confirmed before the run began.
	Prev    eventstore.Position
	Stream  eventstore.StreamID
	Version eventstore.Version
	Event   string // stored name
	Form    int    // version of the stored form of Data, from 1
	Time    time.Time
	Cause   string // key of the command
	By      string // id of the client that sent the command, "" if anonymous
	Data    json.RawMessage
	// Traceparent is that of the command, "" if it was not traced.
	Traceparent string
}

// ID identifies the message in all runs: the log's incarnation and the position.
func (m *Message) ID() string { return fmt.Sprintf("%s-%d", m.Log, m.Position) }

// A Relay publishes the events of a log to one broker.
type Relay struct {
	// Name identifies the relay and its checkpoint: 1 to 24 lower-case letters, digits
	// and "-". Required.
	Name string
	// Categories are the aggregate types whose events are published.
	//
	// Defaults to all.
	Categories []string
	// Window is the largest number of messages that are published before the first of
	// them is confirmed. With 1, a message is published only after the one before was
	// confirmed, so that a broker which refuses one cannot take a later one before it.
	//
	// Defaults to 1,000.
	Window int
	// Where names the broker for operators, without secrets.
	Where string
	// New returns a target for one run. Required.
	New func() Target
}

// Err reports everything that is wrong with a relay.
func (r *Relay) Err() error {
	var errs []error
	problem := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("relay %q: "+format, append([]any{r.Name}, args...)...))
	}
	if err := validName("relay", r.Name); err != nil {
		errs = append(errs, err)
	}
	for _, typ := range r.Categories {
		if err := eventstore.ValidateType(typ); err != nil {
			problem("categories: %w", err)
		}
	}
	if r.Window < 0 || r.Window > MaxWindow {
		problem("the window is %d messages: use 1 to %d, or leave it out for %d", r.Window, MaxWindow, DefaultWindow)
	}
	if r.New == nil {
		problem("New is required: it makes the connection to the broker")
	}
	return errors.Join(errs...)
}

// validName checks the name of a relay or an intake.
func validName(what, name string) error {
	if name == "" {
		return fmt.Errorf("the %s has no name: give it 1 to %d lower-case letters, digits and -", what, maxName)
	}
	if len(name) > maxName {
		return fmt.Errorf("the %s's name %q has %d bytes: use at most %d", what, name, len(name), maxName)
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
			return fmt.Errorf("the %s's name %q has the character %q: use lower-case letters, digits and -", what, name, r)
		}
	}
	return nil
}

// Check reports everything that is wrong with the relays of a node.
func Check(list []Relay) error {
	var errs []error
	names := map[string]bool{}
	for i := range list {
		r := &list[i]
		errs = append(errs, r.Err())
		if names[r.Name] {
			errs = append(errs, fmt.Errorf("two relays have the name %q: each has a checkpoint of its own, so give them different names", r.Name))
		}
		names[r.Name] = true
	}
	return errors.Join(errs...)
}
