package aggregate

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
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
// type says otherwise. A thousand events are one page of the log, which takes
// about 2 ms to read and 1 ms to decode and apply (BenchmarkReplay),
// so rehydration stays far below what a client notices; and one snapshot in a
// thousand events adds a tenth of a percent to the writes.
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
	// Scenarios show what the type does. Every command, every event and every
	// old form of an event has at least one.
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
	problems := t.problems()
	d := &Definition{
		name:          t.Name,
		doc:           t.Doc,
		access:        t.Access,
		showsCaller:   t.ShowsCaller,
		snapshotEvery: max(0, cmp.Or(t.SnapshotEvery, DefaultSnapshotEvery)),
		commands:      map[string]*commandType{},
		commandTypes:  map[reflect.Type]*commandType{},
		events:        map[string]*eventType{},
		eventTypes:    map[reflect.Type]*eventType{},
		newState:      func() any { return new(S) },
		decodeState: func(raw json.RawMessage) (any, error) {
			state := new(S)
			return state, json.Unmarshal(raw, state)
		},
		view: func(state any) any { return state },
		decide: func(call Call, state, cmd any) ([]any, error) {
			decision, err := cmd.(Command[S]).Decide(call, *state.(*S))
			if err != nil || len(decision) == 0 {
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
	if t.View != nil {
		d.view = func(state any) any { return t.View(*state.(*S)) }
	}
	d.access.Commands = maps.Clone(t.Access.Commands)

	sent := compiler{named: true} // what clients send and what is stored
	for _, name := range slices.Sorted(maps.Keys(t.Commands)) {
		path := fmt.Sprintf("command %q", name)
		s := sent.register(name, reflect.TypeOf(t.Commands[name]), path)
		if s == nil {
			continue
		}
		if other, ok := d.commandTypes[s.typ]; ok {
			sent.problem(path, "is a %s, as command %q is: give each a type of its own", s.typ, other.name)
		}
		c := &commandType{name: name, shape: s}
		d.commands[name], d.commandTypes[s.typ] = c, c
	}
	for _, name := range slices.Sorted(maps.Keys(t.Events)) {
		path := fmt.Sprintf("event %q", name)
		s := sent.register(name, reflect.TypeOf(t.Events[name]), path)
		if s == nil {
			continue
		}
		if other, ok := d.eventTypes[s.typ]; ok {
			sent.problem(path, "is a %s, as event %q is: give each a type of its own", s.typ, other.name)
		}
		if other, ok := d.commandTypes[s.typ]; ok {
			sent.problem(path, "is a %s, as command %q is: a request and a fact are two types", s.typ, other.name)
		}
		e := &eventType{name: name, shape: s, upcasters: slices.Clone(t.Upcasters[name])}
		d.events[name], d.eventTypes[s.typ] = e, e
	}
	kept := compiler{}
	state := kept.compile(reflect.TypeFor[S](), "the state "+reflect.TypeFor[S]().Name())
	problems = append(append(problems, sent.problems...), kept.problems...)

	d.fingerprint = d.fingerprintOf(state, t.Revision)
	d.examples, d.uncovered = t.Scenarios.examples(d)
	return d, problems
}

// problems reports what is wrong with the definition besides its Go types.
func (t Type[S]) problems() (problems []error) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if err := checkName(t.Name); err != nil {
		problem("the Name %w", err)
	}
	const rules = "(aggregate.Anyone, Authenticated, Self or a RuleFunc)"
	if absent(t.Access.Send) {
		problem("Access.Send is missing: say who may send commands %s", rules)
	}
	if absent(t.Access.Read) {
		problem("Access.Read is missing: say who may read the state and the events %s", rules)
	}
	for _, name := range slices.Sorted(maps.Keys(t.Access.Commands)) {
		if _, ok := t.Commands[name]; !ok {
			problem("Access.Commands has a rule for %q, which is not a command", name)
		}
		if absent(t.Access.Commands[name]) {
			problem("Access.Commands has no rule for %q: say who may send it %s", name, rules)
		}
	}
	if len(t.Commands) == 0 {
		problem("there are no Commands, so nothing can be asked of it")
	}
	if len(t.Events) == 0 {
		problem("there are no Events, so nothing can happen to it")
	}
	for _, name := range slices.Sorted(maps.Keys(t.Upcasters)) {
		if _, ok := t.Events[name]; !ok {
			problem("there are Upcasters for %q, which is not an event", name)
		}
		for i, u := range t.Upcasters[name] {
			if u == nil {
				problem("the upcaster of event %q from form %d is nil", name, i+1)
			}
		}
	}
	return problems
}

func absent(r Rule) bool {
	f, isFunc := r.(RuleFunc)
	return r == nil || isFunc && f == nil
}

// register compiles the type of a command or an event; nil if it has none.
func (c *compiler) register(name string, t reflect.Type, path string) *shape {
	if err := checkName(name); err != nil {
		c.problem(path, "has a stored name that %w", err)
	}
	switch {
	case t == nil:
		c.problem(path, "is nil: register an empty value of its type")
		return nil
	case t.Kind() == reflect.Pointer:
		c.problem(path, "is registered as a pointer: register the value %s{}", t.Elem().Name())
		return nil
	case t.Kind() != reflect.Struct || encodesItself(reflect.PointerTo(t)) || decodesItself(reflect.PointerTo(t)):
		c.problem(path, "is a %s: use a plain struct, whose members are the data", t)
		return nil
	}
	return c.compile(t, path+": "+t.Name())
}

// fingerprintOf hashes everything that a state depends on.
func (d *Definition) fingerprintOf(state *shape, revision int) string {
	var b strings.Builder
	state.describe(&b, nil)
	fmt.Fprintf(&b, " revision %d", revision)
	for _, name := range d.Events() {
		e := d.events[name]
		fmt.Fprintf(&b, " event %s %d ", name, e.form())
		e.shape.describe(&b, nil)
	}
	sum := sha256.Sum256([]byte(b.String()))
	return hex.EncodeToString(sum[:16])
}

// maxNameBytes bounds stored names: they are in every row and frame.
const maxNameBytes = 64

// checkName reports what is wrong with a stored name.
func checkName(name string) error {
	if name == "" {
		return errors.New("is empty")
	}
	if len(name) > maxNameBytes {
		return fmt.Errorf("has %d bytes: use at most %d", len(name), maxNameBytes)
	}
	for _, r := range name {
		if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_' {
			return fmt.Errorf("has the character %q: use lower-case letters, digits, - and _", r)
		}
	}
	return nil
}
