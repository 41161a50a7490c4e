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

// An Example is a Scenario without its Go types, ready to run.
type Example struct {
	// Name is the scenario's name.
	Name string
	// Run returns what went otherwise than the scenario says, nil if nothing
	// did. Beside the outcome it checks what every command and event
	// promises: that its JSON form keeps all of it, that Decide is pure, that
	// a snapshot is as good as the events.
	Run func() error
}

// examples makes the scenarios runnable, and finds what none of them shows.
func (scenarios Scenarios[S]) examples(d *Definition) (examples []Example, uncovered []string) {
	shown := map[reflect.Type]bool{}
	read := map[stored]bool{} // without data
	for _, name := range slices.Sorted(maps.Keys(scenarios)) {
		s := scenarios[name]
		shown[reflect.TypeOf(s.when)] = true
		read[stored{event: s.stored.event, form: s.stored.form}] = true
		for _, e := range slices.Concat(s.given, s.then) {
			shown[reflect.TypeOf(e)] = true
		}
		examples = append(examples, Example{Name: name, Run: func() error { return s.run(d) }})
	}
	for _, name := range d.Commands() {
		if !shown[d.commands[name].shape.typ] {
			uncovered = append(uncovered, fmt.Sprintf("command %q", name))
		}
	}
	for _, name := range d.Events() {
		if !shown[d.events[name].shape.typ] {
			uncovered = append(uncovered, fmt.Sprintf("event %q", name))
		}
		for form := 1; form < d.Form(name); form++ {
			if !read[stored{event: name, form: form}] {
				uncovered = append(uncovered, fmt.Sprintf("form %d of event %q", form, name))
			}
		}
	}
	return examples, uncovered
}

func (s Scenario[S]) run(d *Definition) error {
	if s.outcome == reads {
		return s.read(d)
	}
	if s.when == nil || s.outcome == 0 {
		return errors.New("the scenario is not complete: it has a When, and ends with Then, Reject or Forbid")
	}
	state := d.NewState()
	for _, e := range s.given {
		if _, err := d.record(state, e); err != nil {
			return fmt.Errorf("given: %w", err)
		}
	}
	name, cmd, err := d.resend(s.when)
	if err != nil {
		return fmt.Errorf("when: %w", err)
	}
	switch allowed := d.maySend(Caller{s.call.Client, s.call.Claims}, s.call.ID, name); {
	case s.outcome == forbidden && allowed:
		return fmt.Errorf("client %q should be forbidden to send %s to %s/%s, but is allowed to", s.call.Client, name, d.name, s.call.ID)
	case s.outcome != forbidden && !allowed:
		return fmt.Errorf("client %q is forbidden to send %s to %s/%s: say who sends it with By, and to which aggregate with On",
			s.call.Client, name, d.name, s.call.ID)
	}
	if s.outcome != forbidden {
		if err := s.decide(d, state, cmd); err != nil {
			return err
		}
	}
	return s.compareView(d, state)
}

// read reads what was stored in an old form, and applies it.
func (s Scenario[S]) read(d *Definition) error {
	name, _, want, err := d.EncodeEvent(s.then[0])
	if err != nil {
		return err
	}
	if name != s.stored.event {
		return fmt.Errorf("what is stored as %q should be read as %q: upcasters keep an event's name", s.stored.event, name)
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
		return fmt.Errorf("form %d of %s should be read as %s, but is as %s", s.stored.form, name, want, got)
	}
	state := d.NewState()
	if _, err := d.record(state, event); err != nil {
		return err
	}
	return s.compareView(d, state)
}

// decide decides the command, compares the outcome, and applies it.
func (s Scenario[S]) decide(d *Definition, state, cmd any) error {
	before, err := d.EncodeState(state)
	if err != nil {
		return err
	}
	events, err := d.Decide(s.call, state, cmd)
	again, errAgain := d.Decide(s.call, state, cmd)
	if after, err := d.EncodeState(state); err != nil || !bytes.Equal(before, after) {
		return fmt.Errorf("Decide changed the state, which only Apply may: from %s to %s", before, after)
	}
	if !reflect.DeepEqual(events, again) || fmt.Sprint(err) != fmt.Sprint(errAgain) {
		return errors.New("Decide decided the same command twice, and not the same way: it may use only its arguments")
	}
	rejection, rejected := errors.AsType[*Rejection](err)
	switch {
	case err != nil && !rejected:
		return fmt.Errorf("Decide failed: %w", err)
	case s.outcome == rejects && !rejected:
		return fmt.Errorf("it should be rejected with %q, but was granted", s.reject.Code)
	case s.outcome == rejects && !errors.Is(rejection, s.reject):
		return fmt.Errorf("it should be rejected with %q, but was with %w", s.reject.Code, rejection)
	case s.outcome == emits && rejected:
		return fmt.Errorf("it should be granted, but was rejected with %w", rejection)
	}
	if rejected {
		if err := checkName(rejection.Code); err != nil || strings.Contains(rejection.Code, "-") {
			return fmt.Errorf("the code of the rejection, %q, should have lower-case letters, digits and _", rejection.Code)
		}
		return nil
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
		line, err := d.record(state, e)
		if err != nil {
			return err
		}
		got = append(got, line)
	}
	if !slices.Equal(want, got) {
		return fmt.Errorf("there should happen %s, but there did %s", list(want), list(got))
	}
	return nil
}

// list puts what happened in words.
func list(events []string) string {
	if len(events) == 0 {
		return "nothing"
	}
	return strings.Join(events, ", ")
}

// compareView compares what clients see, and checks that a state lives on in
// its snapshot.
func (s Scenario[S]) compareView(d *Definition, state any) error {
	view, err := d.View(state)
	if err != nil {
		return err
	}
	if s.shows != "" {
		var want, got any
		if err := unmarshalExact([]byte(s.shows), &want); err != nil {
			return fmt.Errorf("Shows is not JSON: %w", err)
		}
		if err := unmarshalExact(view, &got); err != nil {
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
		return fmt.Errorf("a snapshot does not keep the state: %s became %s", raw, again)
	}
	if v, err := d.View(restored); err != nil || !bytes.Equal(view, v) {
		return fmt.Errorf("a state from a snapshot shows %s instead of %s", v, view)
	}
	return nil
}

// record takes an event through its stored form and applies what comes back,
// unless state is nil. It returns the stored form in words.
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
		return "", fmt.Errorf("the stored form of event %s does not keep it: %s became %s", name, data, again)
	}
	if state != nil {
		d.Apply(state, back)
	}
	return name + " " + string(data), nil
}

// resend takes a command through the data that a client would send.
func (d *Definition) resend(cmd any) (name string, decoded any, err error) {
	data, err := d.EncodeCommand(cmd)
	if err != nil {
		return "", nil, err
	}
	name = d.commandTypes[reflect.TypeOf(cmd)].name
	decoded, err = d.DecodeCommand(name, data)
	if err != nil {
		return "", nil, fmt.Errorf("no client could send this %s: %w", name, err)
	}
	if again, err := d.EncodeCommand(decoded); err != nil || !bytes.Equal(data, again) {
		return "", nil, fmt.Errorf("the data of command %s does not keep it: %s became %s", name, data, again)
	}
	return name, decoded, nil
}

// unmarshalExact keeps numbers as they are written.
func unmarshalExact(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	return d.Decode(v)
}
