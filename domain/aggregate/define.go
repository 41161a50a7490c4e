package aggregate

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/domain/internal/shape"
)

// Commands are a type's commands by stored name. Only the types of the values
// matter, so use empty values.
type Commands[S any] map[string]Command[S]

// Events are a type's events by stored name. Only the types of the values matter,
// so use empty values.
type Events[S any] map[string]Event[S]

// Upcasters convert events that were stored in older forms, by stored name: the
// first converts form 1 to form 2, the next 2 to 3, and so on. An event with n
// upcasters is at form n+1.
type Upcasters map[string][]Upcaster

// An Upcaster converts data of one form of an event to the next form. It is pure,
// and is called concurrently.
type Upcaster func(json.RawMessage) (json.RawMessage, error)

// Upcast returns an Upcaster that decodes, calls f and encodes.
func Upcast[Old, New any](f func(Old) New) Upcaster {
	return func(data json.RawMessage) (json.RawMessage, error) {
		var old Old
		if err := json.Unmarshal(data, &old); err != nil {
			return nil, err
		}
		return json.Marshal(f(old))
	}
}

// DefaultSnapshotEvery is the default number of events between snapshots. A
// thousand events take about 2 ms to read and 1 ms to decode and apply
// (BenchmarkReplay), which a client does not notice, and a snapshot for every
// thousand events adds 0.1 % to the writes.
const DefaultSnapshotEvery = 1000

// A Type defines a type of aggregates with the state S.
type Type[S any] struct {
	// Name is the stored name: lower-case letters, digits, - and _. It is
	// permanent. Required.
	Name string
	// Doc describes the type to people, in a sentence or two.
	Doc string
	// Access says who may do what. Required.
	Access Access
	// Commands are what clients may ask for. At least one is required.
	Commands Commands[S]
	// Events are what can happen. At least one is required.
	Events Events[S]
	// Rejections are what Decide rejects commands with. Each needs a scenario.
	Rejections Rejections
	// Upcasters are for events whose form has changed.
	Upcasters Upcasters
	// View returns what clients see of a state.
	//
	// Defaults to the state itself.
	View func(S) any
	// ShowsCaller makes events name the client that caused them.
	ShowsCaller bool
	// SnapshotEvery is the number of events between snapshots. A negative
	// number means no snapshots.
	//
	// Defaults to DefaultSnapshotEvery.
	SnapshotEvery int
	// Wake returns when an aggregate with this state is to get a command, and the
	// command. The zero time, or no command, means never. The program then sends the
	// command as the client "~wake", which no access rule is asked about, at or soon
	// after that time; give it the rule System if no client may send it. It is pure:
	// it reads no clock, and does not change the state.
	//
	// The state decides: a command that moves the time to later, or to never, holds
	// from its commit on. A time in the past is due immediately. If the command has
	// no events, or is rejected, the aggregate is not woken again until its state
	// changes. An aggregate is woken at most once a second.
	Wake func(S) (time.Time, Command[S])
	// Revision is part of the fingerprint. Raise it if the meaning of Apply
	// changes and the shape of the state does not, so that older snapshots are
	// ignored; and if the meaning of Wake changes, so that every aggregate of the
	// type is asked again.
	Revision int
	// Scenarios are examples and tests of the type. Every command, every event,
	// every old form of an event and every rejection needs at least one.
	Scenarios Scenarios[S]
}

// Define adds a type to a catalog. If the type has problems, the catalog's Err
// reports them all, the type is left out, and Define returns nil.
func Define[S any](c *Catalog, t Type[S]) *Definition {
	d, problems := t.define()
	if !c.claim(t.Name) {
		problems = append(problems, errTaken)
	}
	if len(problems) > 0 {
		for _, p := range problems {
			c.problems = append(c.problems, fmt.Errorf("aggregate: type %q (%s): %w", t.Name, reflect.TypeFor[S](), p))
		}
		return nil
	}
	if c.types == nil {
		c.types = map[string]*Definition{}
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
		revision:      t.Revision,
		rejections:    t.Rejections.messages(),
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
	if t.Wake != nil {
		d.wake = func(state any) (time.Time, any) {
			at, cmd := t.Wake(*state.(*S))
			return at, cmd
		}
	}
	if t.View != nil {
		d.view = func(state any) any { return t.View(*state.(*S)) }
	}
	d.access.Commands = maps.Clone(t.Access.Commands)

	messages := shape.Compiler{Named: true}
	for _, name := range slices.Sorted(maps.Keys(t.Commands)) {
		d.addCommand(&messages, name, reflect.TypeOf(t.Commands[name]))
	}
	for _, name := range slices.Sorted(maps.Keys(t.Events)) {
		d.addEvent(&messages, name, reflect.TypeOf(t.Events[name]), slices.Clone(t.Upcasters[name]))
	}
	states := shape.Compiler{}
	state := states.Compile(reflect.TypeFor[S](), "the state "+reflect.TypeFor[S]().Name())
	problems = append(append(problems, messages.Problems...), states.Problems...)

	d.fingerprint = d.fingerprintOf(state, t.Revision)
	d.examples, d.uncovered = t.Scenarios.examples(d)
	d.samples = func() map[string][]json.RawMessage { return t.Scenarios.samples(d) }
	return d, problems
}

func (d *Definition) addCommand(c *shape.Compiler, name string, typ reflect.Type) {
	path := fmt.Sprintf("command %q", name)
	s := c.CompileMessage(name, typ, path)
	if s == nil {
		return
	}
	if other, ok := d.commandTypes[typ]; ok {
		c.Problem(path, "is a %s, as command %q is: give each a type of its own", typ, other.name)
	}
	added := &commandType{name: name, shape: s}
	d.commands[name], d.commandTypes[typ] = added, added
}

// addEvent follows all calls of addCommand.
func (d *Definition) addEvent(c *shape.Compiler, name string, typ reflect.Type, upcasters []Upcaster) {
	path := fmt.Sprintf("event %q", name)
	s := c.CompileMessage(name, typ, path)
	if s == nil {
		return
	}
	if other, ok := d.eventTypes[typ]; ok {
		c.Problem(path, "is a %s, as event %q is: give each a type of its own", typ, other.name)
	}
	if other, ok := d.commandTypes[typ]; ok {
		c.Problem(path, "is a %s, as command %q is: a request and a fact are two types", typ, other.name)
	}
	added := &eventType{name: name, shape: s, upcasters: upcasters}
	d.events[name], d.eventTypes[typ] = added, added
}

// problems returns the problems of the definition, except those of its Go types.
func (t Type[S]) problems() (problems []error) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if err := shape.CheckName(t.Name); err != nil {
		problem("the Name %w", err)
	}
	const rules = "(aggregate.Anyone, Authenticated, Self, System or a RuleFunc)"
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
		problem("there are no Commands: define at least one")
	}
	if len(t.Events) == 0 {
		problem("there are no Events: define at least one")
	}
	problems = append(problems, t.Rejections.problems()...)
	problems = append(problems, t.wakeProblems()...)
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

// fingerprintOf hashes the shapes and names that a state depends on.
func (d *Definition) fingerprintOf(state *shape.Shape, revision int) string {
	var b strings.Builder
	state.Describe(&b)
	fmt.Fprintf(&b, " revision %d", revision)
	for _, name := range d.Events() {
		e := d.events[name]
		fmt.Fprintf(&b, " event %s %d ", name, e.form())
		e.shape.Describe(&b)
	}
	sum := sha256.Sum256([]byte(b.String()))
	return hex.EncodeToString(sum[:16])
}
