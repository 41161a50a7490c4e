package aggregate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/domain/internal/shape"
)

var (
	// ErrUnknownCommand reports a command that the aggregate does not have.
	ErrUnknownCommand = errors.New("aggregate: unknown command")

	// ErrUnknownEvent reports a stored event whose name or form this program
	// does not know, because a newer program stored it. Such an event is
	// neither applied nor skipped.
	ErrUnknownEvent = errors.New("aggregate: unknown event")
)

// A Definition is a type of a catalog without its Go types, for packages that run
// and show aggregates. States, commands and events are opaque values: a state is a
// *S, and commands and events are values of the registered types. Other values
// make it panic.
//
// Errors of application code (of Decide, upcasters and types with a JSON form of
// their own) are passed on as text, never wrapped. Their methods are application
// code too, and callers inspect errors where no panic is recovered.
//
// A Definition is immutable and safe for concurrent use; the states are not.
type Definition struct {
	name          string
	doc           string
	access        Access
	showsCaller   bool
	snapshotEvery int
	fingerprint   string
	revision      int
	rejections    map[string]string // messages by code

	commands     map[string]*commandType
	commandTypes map[reflect.Type]*commandType
	events       map[string]*eventType
	eventTypes   map[reflect.Type]*eventType
	examples     []Example
	uncovered    []string
	samples      func() map[string][]json.RawMessage

	newState    func() any
	decodeState func(json.RawMessage) (any, error)
	view        func(state any) any
	decide      func(Call, any, any) ([]any, error)
	apply       func(state, event any)
	wake        func(state any) (time.Time, any) // nil for a type without wake-ups
}

type commandType struct {
	name  string
	shape *shape.Shape
}

type eventType struct {
	name      string
	shape     *shape.Shape
	upcasters []Upcaster // upcasters[i] makes form i+2 of form i+1
}

func (e *eventType) form() int { return len(e.upcasters) + 1 }

// Name returns the type's stored name.
func (d *Definition) Name() string { return d.name }

// Doc returns the type's description.
func (d *Definition) Doc() string { return d.doc }

// Access returns the type's access rules.
func (d *Definition) Access() Access {
	access := d.access
	access.Commands = maps.Clone(access.Commands)
	return access
}

// ShowsCaller reports whether events name the client that caused them.
func (d *Definition) ShowsCaller() bool { return d.showsCaller }

// SnapshotEvery returns the number of events between snapshots, or 0 for none.
func (d *Definition) SnapshotEvery() int { return d.snapshotEvery }

// Fingerprint identifies the shape of the state and of the events that make it. A
// snapshot with another fingerprint must not be used.
func (d *Definition) Fingerprint() string { return d.fingerprint }

// Commands returns the commands' stored names, sorted.
func (d *Definition) Commands() []string { return slices.Sorted(maps.Keys(d.commands)) }

// Events returns the events' stored names, sorted.
func (d *Definition) Events() []string { return slices.Sorted(maps.Keys(d.events)) }

// Form returns the number of an event's current form, or 0 for an event that does
// not exist.
func (d *Definition) Form(event string) int {
	if e, ok := d.events[event]; ok {
		return e.form()
	}
	return 0
}

// DescribeEvent writes down the stored form of an event: two events with one
// description read each other's data.
func (d *Definition) DescribeEvent(b *strings.Builder, event string) {
	if e, ok := d.events[event]; ok {
		e.shape.Describe(b)
	}
}

// NewState returns the state of an aggregate without events.
func (d *Definition) NewState() any { return d.newState() }

// EncodeState returns a state as JSON, for a snapshot. It refuses text that is not
// valid UTF-8, which JSON would replace: a state from the snapshot would then
// differ from a state from the events.
func (d *Definition) EncodeState(state any) (json.RawMessage, error) {
	raw, err := json.Marshal(state)
	if err == nil && replacesText(raw) {
		err = errors.New("it holds text that is not valid UTF-8: cut text between characters, not between bytes")
	}
	if err != nil {
		return nil, fmt.Errorf("aggregate: encode the state of %s: %v", d.name, err)
	}
	return raw, nil
}

// replacesText reports whether encoding/json has replaced invalid text with the
// escape \ufffd. It writes a replacement character that is part of the text
// without an escape.
func replacesText(raw []byte) bool {
	for {
		i := bytes.Index(raw, []byte(`\ufffd`))
		if i < 0 {
			return false
		}
		slashes := i - len(bytes.TrimRight(raw[:i], `\`)) // before the escape's own
		if slashes%2 == 0 {
			return true
		}
		raw = raw[i+1:]
	}
}

// DecodeState is the inverse of EncodeState.
func (d *Definition) DecodeState(raw json.RawMessage) (any, error) {
	state, err := d.decodeState(raw)
	if err != nil {
		return nil, fmt.Errorf("aggregate: decode a state of %s: %v", d.name, err)
	}
	return state, nil
}

// View returns what clients see of a state.
func (d *Definition) View(state any) (json.RawMessage, error) {
	raw, err := json.Marshal(d.view(state))
	if err != nil {
		return nil, fmt.Errorf("aggregate: encode the view of %s: %v", d.name, err)
	}
	return raw, nil
}

// DecodeCommand decodes the data that a client sent. The error is
// ErrUnknownCommand, or a *DataError for data that differs from the command's
// type.
func (d *Definition) DecodeCommand(name string, data json.RawMessage) (any, error) {
	return d.decodeCommand(name, data, (*shape.Shape).DecodeStrict)
}

// DecodeChecked is DecodeCommand for data that CheckCommand of this program has
// accepted. It does not check the data again.
func (d *Definition) DecodeChecked(name string, data json.RawMessage) (any, error) {
	return d.decodeCommand(name, data, (*shape.Shape).Decode)
}

func (d *Definition) decodeCommand(name string, data json.RawMessage, decode func(*shape.Shape, []byte) (reflect.Value, error)) (any, error) {
	c, ok := d.commands[name]
	if !ok {
		return nil, d.unknownCommand(name)
	}
	cmd, err := decode(c.shape, data)
	if err != nil {
		return nil, err
	}
	return cmd.Interface(), nil
}

func (d *Definition) unknownCommand(name string) error {
	return fmt.Errorf("%w: %s has no command %q, it has: %s", ErrUnknownCommand, d.name, name, strings.Join(d.Commands(), ", "))
}

// EncodeCommand returns a command's data in canonical form, for hashes. Data that
// decodes to the same command has the same canonical form.
func (d *Definition) EncodeCommand(cmd any) (json.RawMessage, error) {
	c, ok := d.commandTypes[reflect.TypeOf(cmd)]
	if !ok {
		return nil, fmt.Errorf("aggregate: %T is not registered: add it to the Commands of %s", cmd, d.name)
	}
	data, err := c.shape.AppendCanonical(make([]byte, 0, 64), reflect.ValueOf(cmd))
	if err != nil {
		return nil, fmt.Errorf("aggregate: encode command %s of %s: %v", c.name, d.name, err)
	}
	return data, nil
}

// CommandName returns the stored name under which a command's Go type is registered.
func (d *Definition) CommandName(cmd any) (string, bool) {
	c, ok := d.commandTypes[reflect.TypeOf(cmd)]
	if !ok {
		return "", false
	}
	return c.name, true
}

// Decide decides a command at a state, which it does not change. It returns the
// events in order. The error is a *Rejection if a business rule forbids the
// command; any other error is a fault of the application.
//
// The methods of the returned error run no application code, since Decide itself
// calls Error of the application's error. The caller of Decide can recover from a
// panic there.
func (d *Definition) Decide(call Call, state, cmd any) ([]any, error) {
	events, err := d.decide(call, state, cmd)
	if err == nil {
		return events, nil
	}
	rejection, rejected := errors.AsType[*Rejection](err)
	switch {
	case !rejected:
		return nil, fmt.Errorf("%v", err)
	case rejection == nil:
		return nil, errors.New("the error is a nil *Rejection: return nil to grant the command")
	}
	return nil, rejection
}

// DecodeEvent decodes a stored event, after upcasting it from an older form. Form 0
// means 1. The error is ErrUnknownEvent for a name or a form that this program
// does not know.
func (d *Definition) DecodeEvent(name string, form int, data json.RawMessage) (any, error) {
	e, data, err := d.upcast(name, form, data)
	if err != nil {
		return nil, err
	}
	event := reflect.New(e.shape.Type())
	if err := json.Unmarshal(data, event.Interface()); err != nil {
		return nil, fmt.Errorf("aggregate: decode event %s of %s: %v", name, d.name, err)
	}
	return event.Elem().Interface(), nil
}

// EncodeEvent returns an event's stored name, form and data.
func (d *Definition) EncodeEvent(event any) (name string, form int, data json.RawMessage, err error) {
	e, ok := d.eventTypes[reflect.TypeOf(event)]
	if !ok {
		return "", 0, nil, fmt.Errorf("aggregate: %T is emitted but not registered: add it to the Events of %s", event, d.name)
	}
	data, err = json.Marshal(event)
	if err != nil {
		return "", 0, nil, fmt.Errorf("aggregate: encode event %s of %s: %v", e.name, d.name, err)
	}
	return e.name, e.form(), data, nil
}

// Scenarios returns the type's scenarios, sorted by name.
func (d *Definition) Scenarios() []Example { return slices.Clone(d.examples) }

// Uncovered returns the commands that no scenario sends, the events that none
// mentions, the old forms that none reads, the rejections that none expects, and Wake
// if none shows it, such as `command "bid"`.
func (d *Definition) Uncovered() []string { return slices.Clone(d.uncovered) }

// Apply makes an event part of a state.
func (d *Definition) Apply(state, event any) { d.apply(state, event) }

func (d *Definition) maySend(c Caller, id, command string) bool {
	_, ok := d.commands[command]
	return ok && d.access.send(command).Allows(c, id)
}

// upcast converts stored data to the current form.
func (d *Definition) upcast(name string, form int, data json.RawMessage) (*eventType, json.RawMessage, error) {
	e, ok := d.events[name]
	if !ok {
		return nil, nil, fmt.Errorf("%w: %s has no event %q", ErrUnknownEvent, d.name, name)
	}
	form = max(form, 1)
	if form > e.form() {
		return nil, nil, fmt.Errorf("%w: %s of %s has form %d, the newest known is %d", ErrUnknownEvent, name, d.name, form, e.form())
	}
	for ; form < e.form(); form++ {
		var err error
		if data, err = e.upcasters[form-1](data); err != nil {
			return nil, nil, fmt.Errorf("aggregate: upcast event %s of %s from form %d: %v", name, d.name, form, err)
		}
	}
	return e, data, nil
}

func (d *Definition) show(name string, form int, data json.RawMessage) (json.RawMessage, error) {
	e, ok := d.events[name]
	if ok && max(form, 1) == e.form() {
		if wrong, ok := errors.AsType[*FormError](d.CheckStored(name, form, data)); ok && wrong.Misread() {
			return nil, wrong
		}
		return data, nil
	}
	event, err := d.DecodeEvent(name, form, data)
	if err != nil {
		return nil, err
	}
	_, _, data, err = d.EncodeEvent(event)
	return data, err
}
