package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

const (
	// DefaultIntakeWindow is the number of unfinished messages if an Intake has none,
	// MaxIntakeWindow the largest number.
	DefaultIntakeWindow = 64
	MaxIntakeWindow     = 1000
)

// An Intake executes the commands that arrive in a queue of a broker. An
// [IntakeServer] serves it.
type Intake struct {
	// Name identifies the intake in logs and metrics: 1 to 24 lower-case letters, digits
	// and "-". Required.
	Name string
	// Window is the largest number of messages that are taken and not finished. Commands
	// to one aggregate wait for each other within it.
	//
	// Defaults to 64. At most 1,000 are allowed.
	Window int
	// Where names the queue for operators, without secrets.
	Where string
	// New returns a source for one run. Required.
	New func() Source
}

// Err reports everything that is wrong with an intake.
func (in *Intake) Err() error {
	var errs []error
	if err := validName("intake", in.Name); err != nil {
		errs = append(errs, err)
	}
	if in.Window < 0 || in.Window > MaxIntakeWindow {
		errs = append(errs, fmt.Errorf("intake %q: the window is %d messages: use 1 to %d, or leave it out for %d", in.Name, in.Window, MaxIntakeWindow, DefaultIntakeWindow))
	}
	if in.New == nil {
		errs = append(errs, fmt.Errorf("intake %q: New is required: it makes the connection to the broker", in.Name))
	}
	return errors.Join(errs...)
}

// CheckIntakes reports everything that is wrong with the intakes of a node.
func CheckIntakes(list []Intake) error {
	var errs []error
	names := map[string]bool{}
	for i := range list {
		in := &list[i]
		errs = append(errs, in.Err())
		if names[in.Name] {
			errs = append(errs, fmt.Errorf("two intakes have the name %q: give them different names", in.Name))
		}
		names[in.Name] = true
	}
	return errors.Join(errs...)
}

// A Source is one connection to a queue. It serves one run: it is opened once and closed
// once, and not used after that. Finish and Refuse are safe for concurrent use, also with
// Close, which ends them.
type Source interface {
	// Open connects, within ctx. At most window requests may be unfinished: the source
	// holds further ones back.
	Open(ctx context.Context, window int) error
	// Requests has the messages in the order of the queue. It is closed when the
	// connection ends, for whatever reason. Its reader may pause.
	Requests() <-chan *Request
	// Finish sends the answer, if the sender asked for one, waits until the broker has
	// taken it over, and then acknowledges the request. An answer that its sender can no
	// longer receive is dropped. An error ends the run.
	Finish(ctx context.Context, r *Request, answer []byte) error
	// Refuse is Finish, but hands the message to the dead letter exchange of the queue.
	Refuse(ctx context.Context, r *Request, answer []byte) error
	// Err returns why Requests was closed.
	Err() error
	// Close ends the connection. Unfinished requests return to the queue, in their order.
	Close()
}

// A Request is one message of a queue.
type Request struct {
	// Command is what the message asks for. Its key is that of the message.
	Command frame.Command
	// Client is the id of the sender, "" if it is anonymous.
	Client string
	// Wrong says why the message is no command, nil if it is one.
	Wrong *frame.Fault
	// Message is for the Source.
	Message any
}

// A Text is a command as the properties and the body of a message have it.
type Text struct {
	Key         string
	Aggregate   string // TYPE/ID
	Command     string
	Expect      string // "" for any version
	Traceparent string // "" if there is none
	Data        []byte // JSON
}

// Parse reads a command. The fault says what is wrong, nil if nothing is.
func (t Text) Parse() (frame.Command, *frame.Fault) {
	switch {
	case t.Key == "":
		return frame.Command{}, t.bad("key", "the message has no key: give it a message-id that is the same whenever the command is sent again, such as a UUID")
	case len(t.Data) > frame.MaxDataBytes:
		f := t.bad("data", fmt.Sprintf("the body has %d bytes, at most %d are allowed", len(t.Data), frame.MaxDataBytes))
		f.Code = command.CodeTooLarge
		return frame.Command{}, f
	case !json.Valid(t.Data):
		return frame.Command{}, t.bad("data", "the body is not JSON: send the data of the command, {} if it has none")
	case !utf8.Valid(t.Data) || !utf8.ValidString(t.Key+t.Aggregate+t.Command+t.Traceparent):
		return frame.Command{}, t.bad("", "the message is not UTF-8")
	}
	if _, err := strconv.ParseUint(t.Expect, 10, 64); t.Expect != "" && err != nil {
		return frame.Command{}, t.bad("expect", "expect is "+command.Quote(t.Expect)+": it must be a version, a whole number")
	}
	c, err := frame.ParseCommand(t.json())
	var wrong *frame.Error
	if errors.As(err, &wrong) {
		f := t.bad(wrong.Field, wrong.Message)
		f.Code = wrong.Code
		return frame.Command{}, f
	}
	return c, nil // JSON in UTF-8 has no other error
}

// json returns the command as it is sent over HTTP.
func (t Text) json() []byte {
	b := append([]byte(nil), '{')
	for _, m := range []struct{ name, value string }{
		{"key", t.Key}, {"aggregate", t.Aggregate}, {"command", t.Command}, {"trace", t.Traceparent},
	} {
		if m.value != "" {
			b = append(frame.AppendString(b, m.name), ':')
			b = append(frame.AppendString(b, m.value), ',')
		}
	}
	if t.Expect != "" {
		b = append(append(append(b, `"expect":`...), t.Expect...), ',')
	}
	return append(append(append(b, `"data":`...), t.Data...), '}')
}

func (t Text) bad(field, message string) *frame.Fault {
	return &frame.Fault{Key: command.Clip(t.Key), Code: command.CodeBadRequest, Field: field, Message: message, Retry: command.RetryNo}
}

// ClientOf returns the id of a broker's user as a client: "amqp:bob" for the prefix amqp
// and the user bob. The fault says that it is no valid id.
func ClientOf(prefix, user string) (string, *frame.Fault) {
	id := prefix + ":" + user
	if err := eventstore.ValidateClient(id); err != nil {
		return "", &frame.Fault{
			Code: command.CodeUnauthenticated, Retry: command.RetryNo,
			Message: fmt.Sprintf("the user %s can be no client: %v", command.Quote(user), err),
		}
	}
	return id, nil
}
