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
)

// Commands are a type's commands by stored name. The values only show the
// types; empty ones do.
type Commands[S any] map[string]Command[S]

// Events are a type's events by stored name. The values only show the types;
// empty ones do.
type Events[S any] map[string]Event[S]

// Upcasters bring events that were stored in older forms to today's form: the
// first makes form 2 of form 1, the next 3 of 2, and so on. An event with n
// upcasters is at form n+1.
type Upcasters map[string][]Upcaster

// An Upcaster makes data of one form of an event into data of the next. It is
// pure, and called from many goroutines at once.
type Upcaster func(json.RawMessage) (json.RawMessage, error)

// Upcast makes an Upcaster of a function between two forms.
func Upcast[Old, New any](f func(Old) New) Upcaster {
	return func(data json.RawMessage) (json.RawMessage, error) {
		var old Old
		if err := json.Unmarshal(data, &old); err != nil {
			return nil, err
		}
		return json.Marshal(f(old))
	}
}

// DefaultSnapshotEvery is after how many events a snapshot is made, unless a
// type says otherwise.
const DefaultSnapshotEvery = 1000

// A Type defines a type of aggregates with the state S.
type Type[S any] struct {
	// Name is the stored name: lower-case letters, digits, - and _. It is
	// permanent. Required.
	Name string
	// Doc says in a sentence or two what the type is, for people.
	Doc string
	// Access says who may do what. Required.
	Access Access
	// Commands are what clients may ask for. At least one.
	Commands Commands[S]
	// Events are what can happen. At least one.
	Events Events[S]
	// Upcasters are for events whose form has changed, by stored name.
	Upcasters Upcasters
	// View makes of a state what clients see of it.
	//
	// Defaults to the state itself.
	View func(S) any
	// ShowsCaller makes events say which client caused them.
	ShowsCaller bool
	// SnapshotEvery is after how many events a snapshot is made; a negative
	// number means never.
	//
	// Defaults to DefaultSnapshotEvery.
	SnapshotEvery int
	// Revision is to be raised when Apply comes to mean something else while
	// the shape of the state stays, so that snapshots made by the older one
	// are ignored.
	Revision int
	// Scenarios show what the type does. Every command and every event has at
	// least one.
	Scenarios Scenarios[S]
}

// Define registers a type. What is wrong with it is reported by the catalog's
// Err, everything at once; a type with problems is left out, and Define
// returns nil for it.
func Define[S any](c *Catalog, t Type[S]) *Definition {
	d, problems := t.define()
	if c.names[t.Name] && t.Name != "" {
		problems = append(problems, fmt.Errorf("the name is already taken by another type"))
	}
	if c.names == nil {
		c.names, c.types = map[string]bool{}, map[string]*Definition{}
	}
	c.names[t.Name] = true
	if len(problems) > 0 {
		for _, p := range problems {
			c.problems = append(c.problems, fmt.Errorf("aggregate: type %q (%s): %w", t.Name, reflect.TypeFor[S](), p))
		}
		return nil
	}
	c.types[t.Name] = d
	return d
}

func (t Type[S]) define() (*Definition, []error) {
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if err := checkName(t.Name); err != nil {
		problem("the stored name %w", err)
	}
	if t.Access.Send == nil {
		problem("Access.Send is missing: say who may send commands (aggregate.Anyone, Authenticated, Self or a RuleFunc)")
	}
	if t.Access.Read == nil {
		problem("Access.Read is missing: say who may read the state and the events (aggregate.Anyone, Authenticated, Self or a RuleFunc)")
	}
	every := t.SnapshotEvery
	if every == 0 {
		every = DefaultSnapshotEvery
	}
	view := func(state any) any { return state }
	if t.View != nil {
		view = func(state any) any { return t.View(*state.(*S)) }
	}
	d := &Definition{
		name:          t.Name,
		doc:           t.Doc,
		access:        Access{Send: t.Access.Send, Read: t.Access.Read, Commands: maps.Clone(t.Access.Commands)},
		showsCaller:   t.ShowsCaller,
		snapshotEvery: max(every, 0),
		commands:      map[string]*commandType{},
		commandNames:  map[reflect.Type]string{},
		events:        map[string]*eventType{},
		eventTypes:    map[reflect.Type]*eventType{},
		scenarios:     nil,
		newState:      func() any { return new(S) },
		decodeState: func(raw json.RawMessage) (any, error) {
			state := new(S)
			if err := json.Unmarshal(raw, state); err != nil {
				return nil, err
			}
			return state, nil
		},
		view: view,
		decide: func(call Call, state, cmd any) ([]any, error) {
			decision, err := cmd.(Command[S]).Decide(call, *state.(*S))
			if err != nil {
				return nil, err
			}
			events := make([]any, len(decision))
			for i, e := range decision {
				events[i] = e
			}
			return events, nil
		},
		apply: func(state, event any) { event.(Event[S]).Apply(state.(*S)) },
	}
	for _, name := range slices.Sorted(maps.Keys(t.Commands)) {
		typ := reflect.TypeOf(t.Commands[name])
		d.commands[name] = &commandType{name: name, typ: typ}
		d.commandNames[typ] = name
	}
	for _, name := range slices.Sorted(maps.Keys(t.Events)) {
		e := &eventType{name: name, typ: reflect.TypeOf(t.Events[name]), upcasters: t.Upcasters[name]}
		d.events[name] = e
		d.eventTypes[e.typ] = e
	}
	return d, problems
}

// checkName reports what is wrong with a stored name.
func checkName(name string) error {
	if name == "" {
		return errors.New("is empty")
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return fmt.Errorf("has the character %q: use lower-case letters, digits, - and _", r)
		}
	}
	return nil
}

func (c *commandType) decode(data json.RawMessage) (any, error) {
	cmd := reflect.New(c.typ)
	if len(data) == 0 {
		data = json.RawMessage("{}")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(cmd.Interface()); err != nil {
		if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return nil, &DataError{Field: strings.Trim(name, `"`), Message: "there is no such member"}
		}
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) {
			return nil, &DataError{Field: te.Field, Message: "wrong type"}
		}
		return nil, &DataError{Message: err.Error()}
	}
	return cmd.Elem().Interface(), nil
}
