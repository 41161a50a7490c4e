package process

import (
	"fmt"
	"reflect"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/internal/shape"
	"github.com/ganglion-es/ganglion/domain/projection"
)

const (
	// MaxNameBytes bounds the name of a process manager: the keys of its commands
	// contain it, and a key has at most 64 bytes.
	MaxNameBytes = 24
	// MaxStateBytes bounds the JSON of the state of one sequence.
	MaxStateBytes = projection.MaxRowBytes
	// MaxCommands bounds how many commands one event may cause in one sequence.
	MaxCommands = 1000
	// MaxCommandsBytes bounds the data of those commands together.
	MaxCommandsBytes = 4 << 20
	// MaxSequences bounds how many sequences one event may concern.
	MaxSequences = 1000
	// MaxSegments bounds [Type.Segments].
	MaxSegments = projection.MaxSegments
	// DefaultMaxDepth is the default of [Type.MaxDepth].
	DefaultMaxDepth = 100
	// mostDepth bounds [Type.MaxDepth].
	mostDepth = 10_000
)

// At is where an event stands: what a handler may know besides the event and
// the state.
type At = projection.At

// A Handler says what one type of event does to a sequence with state S. [On],
// [OnKey] and [OnKeys] make one.
type Handler[S any] struct {
	event  reflect.Type
	keys   func(At, any) []string // nil: the stream's id
	handle func(At, any, *S) Commands
}

// Handlers are the handlers of a process manager. Several may handle one event;
// they run in this order.
type Handlers[S any] []Handler[S]

// On makes a handler of events of type E, for the sequence whose name is the id of
// the event's stream. It may change the state, and returns the commands to send.
func On[E, S any](handle func(At, E, *S) Commands) Handler[S] {
	h := Handler[S]{event: reflect.TypeFor[E]()}
	if handle != nil {
		h.handle = func(at At, event any, state *S) Commands { return handle(at, event.(E), state) }
	}
	return h
}

// OnKey makes a handler of events of type E, for the sequence that the function
// names. A sequence's name is a valid aggregate id that does not begin with "~".
// An empty name means that the event concerns no sequence.
func OnKey[E, S any](key func(At, E) string, handle func(At, E, *S) Commands) Handler[S] {
	if key == nil {
		return OnKeys[E, S](nil, handle)
	}
	return OnKeys(func(at At, event E) []string {
		if k := key(at, event); k != "" {
			return []string{k}
		}
		return nil
	}, handle)
}

// OnKeys is [OnKey] for events that concern several sequences, at most
// [MaxSequences]. The handler runs once for each distinct name.
func OnKeys[E, S any](keys func(At, E) []string, handle func(At, E, *S) Commands) Handler[S] {
	h := On(handle)
	if keys == nil {
		h.handle = nil // which Define reports
		return h
	}
	h.keys = func(at At, event any) []string { return keys(at, event.(E)) }
	return h
}

// A Type defines a process manager whose sequences have a state of type S, a
// struct whose members all have json tags.
type Type[S any] struct {
	// Name is the stored name: lower-case letters, digits, - and _, at most
	// [MaxNameBytes]. It is permanent, and no aggregate type and no other process
	// manager has it: it is also the type of the streams in which the engine
	// records what is not an event. Required.
	Name string
	// Doc says in a sentence or two what it does, for people.
	Doc string
	// On are the handlers. At least one.
	On Handlers[S]
	// Rejected handles a command that its aggregate has finally refused. Without
	// it, such commands are only counted.
	Rejected func(At, Rejection, *S) Commands
	// Wake returns when Woken must run next, or a zero time for never. Wake and
	// Woken need each other.
	Wake func(S) time.Time
	// Woken runs once the time that Wake returned has passed. It must change the
	// state so that Wake returns another time, or Done true.
	Woken func(At, *S) Commands
	// Done reports whether a sequence is finished. Its state is then deleted, and
	// its next event finds a zero state.
	//
	// Defaults to never.
	Done func(S) bool
	// FromTheBeginning sends commands for all events of the log, also for events
	// that are older than the process manager.
	//
	// Defaults to false: the first build begins at the head of the log, and events
	// before it cause nothing.
	FromTheBeginning bool
	// MaxDepth bounds how many commands in a row may cause each other: an event
	// deeper than this blocks its sequence if it would send a command. It is at
	// most 10,000.
	//
	// Defaults to [DefaultMaxDepth].
	MaxDepth int
	// Segments is into how many parts the work is divided, by sequence, from 1 to
	// [MaxSegments]. Order is kept within a sequence; commands to one target from
	// sequences of different segments have no order.
	//
	// Defaults to 1.
	Segments int
	// Revision must be raised when the body of a handler changes the state that it
	// makes of an event.
	Revision int
	// Scenarios show what the handlers do. Each handler has at least one.
	Scenarios Scenarios
}

// A Declaration is a [Type] or an [Every].
type Declaration interface {
	define() (*Definition, []error)
}

// Define registers a process manager or a schedule. The catalog's Err reports
// everything that is wrong with it.
func Define(c *aggregate.Catalog, t Declaration) *Definition {
	d, problems := t.define()
	if d.stream != nil {
		if err := c.AddClosed(d.stream); err != nil {
			problems = append(problems, err)
		}
	}
	c.Add(d, problems...)
	return d
}

func (t Type[S]) define() (*Definition, []error) {
	d := &Definition{
		kind: Kind, name: t.Name, doc: t.Doc, revision: t.Revision, fromTheBeginning: t.FromTheBeginning,
		segments: max(1, t.Segments), maxDepth: t.MaxDepth, scenarios: t.Scenarios,
		newState: func() any { return new(S) },
		done:     func(any) bool { return false },
	}
	if t.MaxDepth == 0 {
		d.maxDepth = DefaultMaxDepth
	}
	if t.Done != nil {
		d.done, d.canEnd = func(state any) bool { return t.Done(*state.(*S)) }, true
	}
	if t.Wake != nil {
		d.wake = func(state any) time.Time { return t.Wake(*state.(*S)) }
	}
	if t.Woken != nil {
		d.woken = func(at At, state any) Commands { return t.Woken(at, state.(*S)) }
	}
	if t.Rejected != nil {
		d.rejected = func(at At, r Rejection, state any) Commands { return t.Rejected(at, r, state.(*S)) }
	}
	problems := d.defineCommon(reflect.TypeFor[S]())
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if t.Segments < 0 || t.Segments > MaxSegments {
		problem("Segments is %d: use 1 to %d", t.Segments, MaxSegments)
	}
	if t.MaxDepth < 0 || t.MaxDepth > mostDepth {
		problem("MaxDepth is %d: use 1 to %d", t.MaxDepth, mostDepth)
	}
	if (t.Wake == nil) != (t.Woken == nil) {
		problem("it has only one of Wake and Woken: Wake says when, and Woken what happens then")
	}
	if len(t.On) == 0 {
		problem("On has no handlers, so it would never do anything")
	}
	for i, h := range t.On {
		if h.handle == nil {
			problem("handler %d of On, of %v, is nil, or its key is", i+1, h.event)
			continue
		}
		d.handlers = append(d.handlers, handler{
			event: h.event, keys: h.keys,
			handle: func(at At, event, state any) Commands { return h.handle(at, event, state.(*S)) },
		})
	}
	return d, problems
}

// defineCommon checks the name and the state's type, and makes the stream type.
func (d *Definition) defineCommon(state reflect.Type) (problems []error) {
	switch err := shape.CheckName(d.name); {
	case err != nil:
		problems = append(problems, fmt.Errorf("the Name %w", err))
	case len(d.name) > MaxNameBytes:
		problems = append(problems, fmt.Errorf("the Name has %d bytes: use at most %d", len(d.name), MaxNameBytes))
	default:
		d.stream = streamType(d.name)
	}
	compiler := shape.Compiler{Named: true}
	d.state = compiler.CompileRow(state)
	return append(problems, compiler.Problems...)
}
