package process

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/internal/events"
	"github.com/ganglion-es/ganglion/domain/internal/shape"
)

// The [aggregate.Model] kinds of process managers and of schedules.
const (
	Kind         = "process manager"
	ScheduleKind = "schedule"
)

// All returns the process managers and the schedules of a catalog, sorted by name.
func All(c *aggregate.Catalog) (list []*Definition) {
	for _, m := range slices.Concat(c.Models(Kind), c.Models(ScheduleKind)) {
		list = append(list, m.(*Definition))
	}
	slices.SortFunc(list, func(a, b *Definition) int { return strings.Compare(a.name, b.name) })
	return list
}

// A Definition is a registered process manager or schedule without its Go types,
// for the engine that runs it. A state is a *S; events are values of their
// registered types. Other values panic.
//
// A Definition is immutable once the catalog is complete, and safe for concurrent
// use. States are not. Functions of the application may panic: the caller recovers.
type Definition struct {
	kind, name, doc  string
	segments         int
	revision         int
	maxDepth         int
	fromTheBeginning bool
	schedule         *Schedule // nil for a process manager
	state            *shape.Shape
	stream           *aggregate.Definition
	handlers         []handler
	scenarios        Scenarios

	newState func() any
	done     func(state any) bool
	canEnd   bool                      // Done is declared
	wake     func(state any) time.Time // nil without Wake
	woken    func(At, any) Commands
	rejected func(At, Rejection, any) Commands
	tick     func(at At, planned time.Time, state any) Commands // of a schedule

	// Set by Link.
	linked      bool
	catalog     *aggregate.Catalog
	events      events.Index // indices of handlers; built-in events have none
	fingerprint string
}

type handler struct {
	event  reflect.Type
	keys   func(At, any) []string
	handle func(at At, event, state any) Commands
}

// Kind makes a Definition an [aggregate.Model]: [Kind] or [ScheduleKind].
func (d *Definition) Kind() string { return d.kind }

// Name returns the stored name, which is also the type of the streams that the
// process manager owns.
func (d *Definition) Name() string { return d.name }

// Doc returns what the definition says about itself.
func (d *Definition) Doc() string { return d.doc }

// Segments returns into how many parts the work is divided.
func (d *Definition) Segments() int { return d.segments }

// Revision returns the number that the definition raises when the body of a handler
// changes the state that it makes.
func (d *Definition) Revision() int { return d.revision }

// MaxDepth returns the depth beyond which an event may cause no command.
func (d *Definition) MaxDepth() int { return d.maxDepth }

// FromTheBeginning reports whether the first build sends commands for the events
// before it.
func (d *Definition) FromTheBeginning() bool { return d.fromTheBeginning }

// Schedule returns when a schedule runs. It reports false for a process manager.
func (d *Definition) Schedule() (Schedule, bool) {
	if d.schedule == nil {
		return Schedule{}, false
	}
	return *d.schedule, true
}

// HandlesRejections reports whether refused commands are to be recorded.
func (d *Definition) HandlesRejections() bool { return d.rejected != nil }

// Fingerprint names everything that the states depend on besides the bodies of the
// functions: the type of the state, the events with their forms, which handlers
// choose the sequence, the segments and Revision; of a schedule also when it runs. A
// definition with another fingerprint is another build.
func (d *Definition) Fingerprint() string { return d.fingerprint }

// Events returns the events that it reads, its own built-in ones included, sorted.
func (d *Definition) Events() []aggregate.EventName { return d.events.Names() }

// Reads reports whether it handles an event.
func (d *Definition) Reads(event aggregate.EventName) bool {
	_, ok := d.events[event]
	return ok
}

// Linked reports whether the definition is complete and free of problems.
func (d *Definition) Linked() bool { return d.linked }

// Link finds the stored names of the events that the handlers take.
func (d *Definition) Link(c *aggregate.Catalog) (problems []error) {
	d.catalog = c
	var types []reflect.Type
	byID := false
	for _, h := range d.handlers {
		types = append(types, h.event)
		byID = byID || h.keys == nil
	}
	d.events, problems = events.Lookup(c, types)
	if types := d.events.Types(); byID && len(types) > 1 {
		problems = append(problems, fmt.Errorf("its events are of several aggregate types (%s), whose ids may be the same: give every handler its sequence with OnKey",
			strings.Join(types, ", ")))
	}
	for name, handled := range map[string]bool{wokenName: d.woken != nil, rejectedName: d.rejected != nil, tickedName: d.tick != nil} {
		if handled {
			d.events[aggregate.EventName{Type: d.name, Event: name}] = nil
		}
	}
	problems = append(problems, d.scenarios.problems(d)...)
	if len(problems) > 0 {
		return problems
	}
	d.linked, d.fingerprint = true, d.fingerprintOf()
	return nil
}

func (d *Definition) fingerprintOf() string {
	var b strings.Builder
	b.WriteString("process ")
	d.state.Describe(&b)
	fmt.Fprintf(&b, " segments %d revision %d", d.segments, d.revision)
	if s := d.schedule; s != nil {
		fmt.Fprintf(&b, " cron %q zone %q interval %d", s.Cron, s.Zone, s.Interval)
	}
	d.events.Describe(&b, d.catalog)
	for _, name := range d.events.Names() {
		for _, i := range d.events[name] {
			fmt.Fprintf(&b, " %s/%s keyed %t", name.Type, name.Event, d.handlers[i].keys != nil)
		}
	}
	return events.Digest(b.String())
}

// Decode makes an event of its stored form. The error wraps
// aggregate.ErrUnknownEvent for an event of a newer program.
func (d *Definition) Decode(event aggregate.EventName, form int, data json.RawMessage) (any, error) {
	return events.Decode(d.catalog, event, form, data)
}

// An Effect is one sequence that an event concerns.
type Effect struct {
	Sequence string
	handlers []int
}

// Effects returns the sequences that an event concerns, sorted by name. The index of
// one is the k of the keys of its commands. The error names a sequence that cannot
// exist.
func (d *Definition) Effects(at At, name aggregate.EventName, event any) ([]Effect, error) {
	if name.Type == d.name {
		return []Effect{{Sequence: at.ID}}, nil
	}
	found := map[string][]int{}
	for _, i := range d.events[name] {
		keys := []string{at.ID}
		if choose := d.handlers[i].keys; choose != nil {
			keys = choose(at, event)
			for _, key := range keys {
				if err := checkSequence(key); err != nil {
					return nil, err
				}
			}
		}
		for _, key := range keys {
			if !slices.Contains(found[key], i) {
				found[key] = append(found[key], i)
			}
		}
	}
	if len(found) > MaxSequences {
		return nil, fmt.Errorf("the event concerns %d sequences, at most %d are allowed", len(found), MaxSequences)
	}
	effects := make([]Effect, 0, len(found))
	for key, handlers := range found {
		effects = append(effects, Effect{key, handlers})
	}
	sort.Slice(effects, func(i, j int) bool { return effects[i].Sequence < effects[j].Sequence })
	return effects, nil
}

func checkSequence(key string) error {
	if strings.HasPrefix(key, "~") {
		return errors.New("the name of a sequence must not begin with ~, which is reserved")
	}
	if err := checkID(key); err != nil {
		return fmt.Errorf("the name of a sequence %w", err)
	}
	return nil
}

// NewState returns the state of a sequence without events.
func (d *Definition) NewState() any { return d.newState() }

// Handle folds an event into the state of one sequence that it concerns, and
// returns the commands that it causes. If it returns an error, the state is of no
// use.
//
// A time that came after the sequence had moved it changes nothing.
func (d *Definition) Handle(at At, e Effect, event, state any) ([]Encoded, error) {
	commands, err := d.handle(at, e, event, state)
	if err != nil {
		return nil, err
	}
	return commands.encode(d.catalog)
}

func (d *Definition) handle(at At, e Effect, event, state any) (commands Commands, err error) {
	switch event := event.(type) {
	case woken:
		return d.handleWoken(at, event.Due, state)
	case rejected:
		return d.rejected(at, event.rejection(), state), nil
	case ticked:
		return d.tick(at, event.At, state), nil
	}
	for _, i := range e.handlers {
		commands = append(commands, d.handlers[i].handle(at, event, state)...)
	}
	return commands, nil
}

func (d *Definition) handleWoken(at At, due time.Time, state any) (Commands, error) {
	now, err := d.Due(state)
	if err != nil || !now.Equal(due) {
		return nil, err
	}
	commands := d.woken(at, state)
	now, err = d.Due(state)
	if err != nil {
		return nil, err
	}
	if now.Equal(due) && !d.Finished(state) {
		return nil, fmt.Errorf("the function Woken has run for %s, and Wake still returns that time: Woken must change the state so that Wake returns another time", due.Format(time.RFC3339Nano))
	}
	return commands, nil
}

// Due returns when the sequence must be woken, in UTC at microseconds, or a zero
// time for never: what Wake returns, or the planned time of a schedule after the last
// one that was recorded. Before its first one, a schedule has no state, and
// [Schedule.Next] of the time at which it was started is due. The error says why the
// time cannot be stored.
func (d *Definition) Due(state any) (time.Time, error) {
	if d.wake == nil {
		return time.Time{}, nil
	}
	t := d.wake(state)
	if t.IsZero() {
		return t, nil
	}
	if t = micros(t); t.Year() < 1970 || t.Year() > 9999 {
		return time.Time{}, fmt.Errorf("the function Wake returned a time in the year %d: use a zero time for never, or the years 1970 to 9999", t.Year())
	}
	return t, nil
}

// Finished reports whether the state of a sequence is not kept: it is done, or it is
// what a sequence without events has.
func (d *Definition) Finished(state any) bool {
	if d.done(state) {
		return true
	}
	if !reflect.ValueOf(state).Elem().IsZero() {
		return false
	}
	due, err := d.Due(state)
	return err == nil && due.IsZero()
}

// EncodeState returns a state as JSON. The error says why it cannot be stored.
func (d *Definition) EncodeState(state any) (json.RawMessage, error) {
	raw, err := json.Marshal(state)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the state cannot be encoded: %v", err)
	case len(raw) > MaxStateBytes:
		return nil, fmt.Errorf("the state has %d bytes, at most %d are allowed", len(raw), MaxStateBytes)
	case bytes.Contains(raw, []byte(`\u0000`)):
		return nil, errors.New("the state holds U+0000, which the database cannot store")
	}
	return raw, nil
}

// DecodeState is the inverse of EncodeState. A panic of the state's type is an
// error.
func (d *Definition) DecodeState(raw json.RawMessage) (state any, err error) {
	defer func() {
		if v := recover(); v != nil {
			state, err = nil, fmt.Errorf("the state cannot be decoded: panic: %v", v)
		}
	}()
	state = d.newState()
	if err := json.Unmarshal(raw, state); err != nil {
		return nil, fmt.Errorf("the state cannot be decoded: %v", err)
	}
	return state, nil
}
