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

	"github.com/ganglion-es/ganglion/domain/internal/shape"
)

// An Example is a Scenario without its Go types, ready to run.
type Example struct {
	// Name is the scenario's name.
	Name string
	// Run returns the first difference from the scenario, or nil. It also
	// checks three rules for all commands and events: JSON preserves them,
	// Decide is pure, and a snapshot is equivalent to the events.
	Run func() error
}

// examples returns the scenarios as examples, and the commands, events and forms that
// none of them covers.
func (scenarios Scenarios[S]) examples(d *Definition) (examples []Example, uncovered []string) {
	shown := map[reflect.Type]bool{}
	read := map[stored]bool{} // without data
	for _, name := range slices.Sorted(maps.Keys(scenarios)) {
		s := scenarios[name]
		shown[s.commandType(d)] = true
		read[stored{event: s.stored.event, form: s.stored.form}] = true
		for _, e := range slices.Concat(s.given, s.then) {
			shown[reflect.TypeOf(e)] = true
		}
		examples = append(examples, Example{Name: name, Run: func() error { return s.run(d) }})
	}
	for _, name := range d.Commands() {
		if !shown[d.commands[name].shape.Type()] {
			uncovered = append(uncovered, fmt.Sprintf("command %q", name))
		}
	}
	for _, name := range d.Events() {
		if !shown[d.events[name].shape.Type()] {
			uncovered = append(uncovered, fmt.Sprintf("event %q", name))
		}
		for form := 1; form < d.Form(name); form++ {
			if !read[stored{event: name, form: form}] {
				uncovered = append(uncovered, fmt.Sprintf("form %d of event %q", form, name))
			}
		}
	}
	uncovered = append(uncovered, scenarios.uncoveredRejections(d)...)
	return examples, append(uncovered, scenarios.uncoveredWake(d)...)
}

func (s Scenario[S]) run(d *Definition) error {
	if s.outcome == reads {
		return s.read(d)
	}
	if s.when == nil && !s.woken && s.outcome != wakes || s.outcome == 0 {
		return errors.New("the scenario is not complete: it needs a When or Woken, and ends with Then, Reject or Forbid")
	}
	state := d.NewState()
	for _, e := range s.given {
		if _, err := d.record(state, e); err != nil {
			return fmt.Errorf("given: %w", err)
		}
	}
	if s.outcome == wakes {
		return errors.Join(s.compareWake(d, state), s.compareView(d, state))
	}
	if s.woken {
		var err error
		if s, err = s.awaken(d, state); err != nil {
			return err
		}
	}
	name, cmd, err := d.resend(s.when)
	if err != nil {
		return fmt.Errorf("when: %w", err)
	}
	allowed := isSystem(s.call.Client) || d.maySend(Caller{s.call.Client, s.call.Claims}, s.call.ID, name)
	switch {
	case s.outcome == forbidden && allowed:
		return fmt.Errorf("client %q should be forbidden to send %s to %s/%s, but is allowed", s.call.Client, name, d.name, s.call.ID)
	case s.outcome != forbidden && !allowed:
		return fmt.Errorf("client %q is forbidden to send %s to %s/%s: say who sends it with By, and to which aggregate with On",
			s.call.Client, name, d.name, s.call.ID)
	}
	if s.outcome != forbidden {
		if err := s.decide(d, state, cmd); err != nil {
			return err
		}
	}
	if err := s.checkMoved(d, state); err != nil {
		return err
	}
	return s.compareView(d, state)
}

// read decodes an event that was stored in an old form, and applies it.
func (s Scenario[S]) read(d *Definition) error {
	name, _, want, err := d.EncodeEvent(s.then[0])
	if err != nil {
		return err
	}
	if name != s.stored.event {
		return fmt.Errorf("an event stored as %q cannot be read as %q: upcasters keep an event's name", s.stored.event, name)
	}
	event, err := d.DecodeEvent(s.stored.event, s.stored.form, json.RawMessage(s.stored.data))
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(event, any(s.then[0])) {
		_, _, got, err := d.EncodeEvent(event)
		if err != nil {
			return err
		}
		return fmt.Errorf("form %d of %s should be read as %s, but is read as %s", s.stored.form, name, want, got)
	}
	state := d.NewState()
	if _, err := d.record(state, event); err != nil {
		return err
	}
	return s.compareView(d, state)
}

// decide decides the command, compares the outcome, and applies the events.
func (s Scenario[S]) decide(d *Definition, state, cmd any) error {
	before, err := d.EncodeState(state)
	if err != nil {
		return err
	}
	events, err := d.Decide(s.call, state, cmd)
	again, errAgain := d.Decide(s.call, state, cmd)
	if after, err := d.EncodeState(state); err != nil || !bytes.Equal(before, after) {
		return fmt.Errorf("Decide changed the state, which only Apply may do: from %s to %s", before, after)
	}
	if !reflect.DeepEqual(events, again) || fmt.Sprint(err) != fmt.Sprint(errAgain) {
		return errors.New("Decide returned two results for the same command: it may use only its arguments")
	}
	rejection, rejected := errors.AsType[*Rejection](err)
	switch {
	case err != nil && !rejected:
		return fmt.Errorf("Decide failed: %w", err)
	case s.outcome == rejects && !rejected:
		return fmt.Errorf("the command should be rejected with %q, but was granted", s.reject.Code)
	case s.outcome == rejects && !errors.Is(rejection, s.reject):
		return fmt.Errorf("the command should be rejected with %q, but was rejected with %w", s.reject.Code, rejection)
	case s.outcome == emits && rejected:
		return fmt.Errorf("the command should be granted, but was rejected with %w", rejection)
	}
	if rejected {
		return d.checkRejection(rejection)
	}
	var want, got []string
	for _, e := range s.then {
		line, err := d.record(nil, e)
		if err != nil {
			return fmt.Errorf("then: %w", err)
		}
		want = append(want, line)
	}
	for _, e := range events {
		if err := d.checkValues(e); err != nil {
			return err
		}
		line, err := d.record(state, e)
		if err != nil {
			return err
		}
		got = append(got, line)
	}
	if !slices.Equal(want, got) {
		return fmt.Errorf("the events should be %s, but are %s", list(want), list(got))
	}
	return nil
}

// list joins events for a message.
func list(events []string) string {
	if len(events) == 0 {
		return "none"
	}
	return strings.Join(events, ", ")
}

// compareView compares what clients see, and checks that a snapshot preserves the
// state.
func (s Scenario[S]) compareView(d *Definition, state any) error {
	view, err := d.View(state)
	if err != nil {
		return err
	}
	if err := d.checkView(state); err != nil {
		return err
	}
	if s.shows != "" {
		var want, got any
		if err := shape.UnmarshalExact([]byte(s.shows), &want); err != nil {
			return fmt.Errorf("Shows is not JSON: %w", err)
		}
		if err := shape.UnmarshalExact(view, &got); err != nil {
			return err
		}
		if !reflect.DeepEqual(want, got) {
			return fmt.Errorf("clients should see %s, but see %s", s.shows, view)
		}
	}
	raw, err := d.EncodeState(state)
	if err != nil {
		return err
	}
	restored, err := d.DecodeState(raw)
	if err != nil {
		return err
	}
	again, err := d.EncodeState(restored)
	if err != nil {
		return err
	}
	if !bytes.Equal(raw, again) {
		return fmt.Errorf("a snapshot does not preserve the state: %s became %s", raw, again)
	}
	if v, err := d.View(restored); err != nil || !bytes.Equal(view, v) {
		return fmt.Errorf("a state from a snapshot shows %s instead of %s", v, view)
	}
	return nil
}

// record encodes and decodes an event and applies the result, unless state is nil.
// It returns the stored form, for messages.
func (d *Definition) record(state, event any) (string, error) {
	name, form, data, err := d.EncodeEvent(event)
	if err != nil {
		return "", err
	}
	back, err := d.DecodeEvent(name, form, data)
	if err != nil {
		return "", err
	}
	if _, _, again, err := d.EncodeEvent(back); err != nil || !bytes.Equal(data, again) {
		return "", fmt.Errorf("the stored form does not preserve event %s: %s became %s", name, data, again)
	}
	if state != nil {
		d.Apply(state, back)
	}
	return name + " " + string(data), nil
}

// resend encodes and decodes a command, as if a client had sent it.
func (d *Definition) resend(cmd any) (name string, decoded any, err error) {
	data, err := d.EncodeCommand(cmd)
	if err != nil {
		return "", nil, err
	}
	name = d.commandTypes[reflect.TypeOf(cmd)].name
	decoded, err = d.DecodeCommand(name, data)
	if err != nil {
		return "", nil, fmt.Errorf("no client can send this %s: %w", name, err)
	}
	if again, err := d.EncodeCommand(decoded); err != nil || !bytes.Equal(data, again) {
		return "", nil, fmt.Errorf("JSON does not preserve command %s: %s became %s", name, data, again)
	}
	return name, decoded, nil
}
