package projection

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/internal/events"
	"github.com/ganglion-es/ganglion/domain/internal/shape"
)

// A Memory defines a projection whose state of type S every node keeps in memory,
// folded from the whole log: for what each node must look up without asking the
// database, such as blocked clients, counters or prices in force.
//
// S can be any Go type. It is never stored: a node folds the log again when it
// starts, which delays its readiness, and the state must fit into memory. Scenarios
// compare the JSON of S, so a type with unexported members needs a MarshalJSON.
type Memory[S any] struct {
	// Name is the stored name: lower-case letters, digits, - and _. No table has
	// it. Required.
	Name string
	// Doc says in a sentence or two what the state is, for people.
	Doc string
	// New returns the state before the first event.
	//
	// Defaults to the zero value of S.
	New func() S
	// On are the handlers, made by [On]. At least one.
	On Handlers[S]
	// Revision must be raised when the body of a handler changes its outcome.
	Revision int
	// Scenarios show what the handlers do. Each handled event has at least one.
	Scenarios Scenarios
}

// An InMemory is a defined projection with a state of type S.
type InMemory[S any] struct{ *MemoryDefinition }

// DefineMemory registers a projection in memory. The catalog's Err reports
// everything that is wrong with it.
func DefineMemory[S any](c *aggregate.Catalog, m Memory[S]) *InMemory[S] {
	d, problems := m.define()
	c.Add(d, problems...)
	return &InMemory[S]{d}
}

// ErrNotCurrent reports that a node has no state to read: it has not folded the
// log yet, or an event cannot be folded. The error that wraps it says which.
var ErrNotCurrent = errors.New("the state of the projection is not current")

// Memories has the states of a node's projections in memory.
type Memories interface {
	// ReadMemory calls read with a state, which is a *S, and the position up to
	// which it shows the log. No event is folded into it until read returns. The
	// error wraps [ErrNotCurrent], and read was not called.
	ReadMemory(d *MemoryDefinition, read func(state any, position uint64)) error
}

// Read calls read with a node's state and the position up to which it shows the
// log. It may be called from many goroutines. Until read returns, no event is
// folded, so it must be short; it must not change the state, keep any part of it
// that handlers change, or call Read. The error wraps [ErrNotCurrent].
func (m *InMemory[S]) Read(from Memories, read func(state *S, position uint64)) error {
	return from.ReadMemory(m.MemoryDefinition, func(state any, position uint64) { read(state.(*S), position) })
}

func (m Memory[S]) define() (*MemoryDefinition, []error) {
	d := &MemoryDefinition{
		name: m.Name, doc: m.Doc, revision: m.Revision, scenarios: m.Scenarios, stateType: reflect.TypeFor[S](),
		newState: func() any { return new(S) },
	}
	if m.New != nil {
		d.newState = func() any { return new(m.New()) }
	}
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if err := shape.CheckName(m.Name); err != nil {
		problem("the Name %w", err)
	}
	if len(m.On) == 0 {
		problem("On has no handlers, so the state would never change")
	}
	for i, h := range m.On {
		switch {
		case h.apply == nil:
			problem("handler %d of On, of %v, is nil", i+1, h.event)
		case h.keys != nil:
			problem("handler %d of On, of %v, has a key, and a memory has one state: use On, and a map in the state", i+1, h.event)
		default:
			d.handlers = append(d.handlers, handler{event: h.event, apply: func(at At, event, state any) { h.apply(at, event, state.(*S)) }})
		}
	}
	return d, problems
}

// A MemoryDefinition is a registered projection in memory without its Go types:
// a state is a *S. It is immutable once the catalog is complete, and safe for
// concurrent use. States are not.
type MemoryDefinition struct {
	name, doc string
	revision  int
	handlers  []handler
	scenarios Scenarios
	stateType reflect.Type
	newState  func() any

	// Set by Link.
	catalog     *aggregate.Catalog
	events      events.Index
	fingerprint string
}

// MemoryKind is the [aggregate.Model] kind of projections in memory.
const MemoryKind = "memory projection"

// Model makes a MemoryDefinition a [Source].
func (d *MemoryDefinition) Model() aggregate.Model { return d }

// Kind makes a MemoryDefinition an [aggregate.Model].
func (d *MemoryDefinition) Kind() string { return MemoryKind }

// Name returns the stored name.
func (d *MemoryDefinition) Name() string { return d.name }

// Doc returns what the definition says about itself.
func (d *MemoryDefinition) Doc() string { return d.doc }

// Revision returns the number that the definition raises when the body of a
// handler changes.
func (d *MemoryDefinition) Revision() int { return d.revision }

// Fingerprint names everything that the state depends on besides the bodies of
// the handlers and the type of the state: the events with their forms, and
// Revision.
func (d *MemoryDefinition) Fingerprint() string { return d.fingerprint }

// Events returns the events that the projection reads, sorted.
func (d *MemoryDefinition) Events() []aggregate.EventName { return d.events.Names() }

// Reads reports whether the projection handles an event.
func (d *MemoryDefinition) Reads(event aggregate.EventName) bool { return d.events[event] != nil }

// Link looks up the stored names of the events that the handlers take.
func (d *MemoryDefinition) Link(c *aggregate.Catalog) (problems []error) {
	d.catalog = c
	d.events, problems = events.Lookup(c, typesOf(d.handlers))
	problems = append(problems, d.scenarios.problems(c, true)...)
	if len(problems) > 0 {
		return problems
	}
	var b strings.Builder
	fmt.Fprintf(&b, "memory %v revision %d", d.stateType, d.revision)
	d.events.Describe(&b, c)
	d.fingerprint = events.Digest(b.String())
	return nil
}

// Decode makes an event of its stored form, as the aggregate's definition does.
func (d *MemoryDefinition) Decode(event aggregate.EventName, form int, data json.RawMessage) (any, error) {
	return events.Decode(d.catalog, event, form, data)
}

// NewState returns a state before the first event.
func (d *MemoryDefinition) NewState() any { return d.newState() }

// Apply makes an event part of a state.
func (d *MemoryDefinition) Apply(at At, name aggregate.EventName, event, state any) {
	for _, i := range d.events[name] {
		d.handlers[i].apply(at, event, state)
	}
}

// Scenarios returns the scenarios, sorted by name.
func (d *MemoryDefinition) Scenarios() []aggregate.Example {
	var examples []aggregate.Example
	for _, name := range slices.Sorted(maps.Keys(d.scenarios)) {
		s := d.scenarios[name]
		examples = append(examples, aggregate.Example{Name: name, Run: func() error { return d.run(s) }})
	}
	return examples
}

// Uncovered returns the handlers whose event no scenario gives, in words.
func (d *MemoryDefinition) Uncovered() []string { return d.scenarios.uncovered(d.handlers) }

// Outcomes returns the outcome of each scenario, by name.
func (d *MemoryDefinition) Outcomes() (map[string]Outcome, error) {
	outcomes := map[string]Outcome{}
	for name, s := range d.scenarios {
		state, err := d.fold(s)
		if err != nil {
			return nil, fmt.Errorf("scenario %q: %w", name, err)
		}
		outcomes[name] = Outcome{Given: s.digest(d.catalog), State: state}
	}
	return outcomes, nil
}

func (d *MemoryDefinition) run(s Scenario) error {
	state, err := d.fold(s)
	if err != nil {
		return err
	}
	again, err := d.fold(s)
	if err != nil {
		return err
	}
	if !bytes.Equal(state, again) {
		return errors.New("the handlers folded the same events twice, and not to the same state: they may use only their arguments")
	}
	if err := shape.CheckEqual(s.becomes, state); err != nil {
		return fmt.Errorf("the state: %w", err)
	}
	return nil
}

func (d *MemoryDefinition) fold(s Scenario) (json.RawMessage, error) {
	state := d.NewState()
	err := s.each(d.catalog, func(at At, name aggregate.EventName, event any) error {
		d.Apply(at, name, event, state)
		return nil
	})
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(state)
	if err != nil {
		return nil, fmt.Errorf("the state has no JSON form, which scenarios compare: %v; give its type a MarshalJSON", err)
	}
	return raw, nil
}
