package process

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/internal/shape"
)

// start is when the first event of a scenario happens, unless it says otherwise.
var start = time.Date(2026, 5, 1, 9, 0, 0, 0, time.UTC)

// An Outcome is what a scenario causes.
type Outcome struct {
	// Given is a digest of what happens.
	Given string `json:"given"`
	// Sends are all commands, in their order.
	Sends []Sent `json:"sends"`
	// States are the states after it, by sequence.
	States map[string]json.RawMessage `json:"states"`
}

// Sent is one command of an [Outcome].
type Sent struct {
	Key     string          `json:"key"`
	To      string          `json:"to"`
	Command string          `json:"command"`
	Data    json.RawMessage `json:"data"`
}

// Scenarios returns the scenarios, sorted by name.
func (d *Definition) Scenarios() []aggregate.Example {
	var examples []aggregate.Example
	for _, name := range slices.Sorted(maps.Keys(d.scenarios)) {
		s := d.scenarios[name]
		examples = append(examples, aggregate.Example{Name: name, Run: func() error { return s.run(d) }})
	}
	return examples
}

// Outcomes returns the outcome of each scenario, by name: what golden files are made
// of.
func (d *Definition) Outcomes() (map[string]Outcome, error) {
	outcomes := map[string]Outcome{}
	for name, s := range d.scenarios {
		w := newWorld(d)
		if err := s.play(w, false); err != nil {
			return nil, fmt.Errorf("scenario %q: %w", name, err)
		}
		outcomes[name] = w.outcome(s.digest(d))
	}
	return outcomes, nil
}

func (s Scenario) run(d *Definition) error {
	w, again := newWorld(d), newWorld(d)
	if err := s.play(w, true); err != nil {
		return err
	}
	if err := s.play(again, false); err != nil {
		return err
	}
	a, err := json.Marshal(w.outcome(""))
	if err != nil {
		return err
	}
	b, err := json.Marshal(again.outcome(""))
	if err != nil {
		return err
	}
	if !bytes.Equal(a, b) {
		return errors.New("the handlers folded the same events twice, and not to the same states and commands: they may use only their arguments")
	}
	return nil
}

// A world is what a scenario has made so far. Each state, event and command goes
// through its stored form, as in the engine.
type world struct {
	d        *Definition
	states   map[string]json.RawMessage
	last     map[string]uint64 // by sequence: the last event that concerned it
	versions map[string]uint64
	position uint64
	now      time.Time
	sent     []sent

	// Of the current step.
	concerned map[string]bool
	first     int // index in sent
}

type sent struct {
	Encoded
	sequence string
	position uint64
	k, n     int
}

func newWorld(d *Definition) *world {
	return &world{d: d, states: map[string]json.RawMessage{}, last: map[string]uint64{}, versions: map[string]uint64{}, now: start}
}

func (w *world) outcome(given string) Outcome {
	o := Outcome{Given: given, Sends: []Sent{}, States: w.states}
	for _, c := range w.sent {
		o.Sends = append(o.Sends, Sent{Key: w.d.CommandKey(c.position, c.k, c.n), To: c.Target(), Command: c.Name, Data: c.Data})
	}
	return o
}

// play makes the steps of a scenario happen, and compares what they cause.
func (s Scenario) play(w *world, compare bool) error {
	for i := range s.steps {
		o := &s.steps[i]
		w.concerned, w.first = map[string]bool{}, len(w.sent)
		if err := w.happen(o); err != nil {
			return err
		}
		if compare && o.kind != stepGiven {
			if err := w.compare(o); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *world) happen(o *step) error {
	switch o.kind {
	case stepWoken:
		return w.wake(o.at)
	case stepRejected:
		return w.reject(o)
	case stepTicked:
		r, err := w.d.RecordTicked(o.at)
		return w.record(r, err, o.at)
	}
	typ, _, _ := strings.Cut(o.stream, "/")
	def, _ := w.d.catalog.Type(typ)
	for i, event := range o.events {
		at := o.at
		if i > 0 || at.IsZero() {
			at = w.now.Add(time.Second)
		}
		if err := w.event(def, o.stream, event, at, o.client); err != nil {
			return err
		}
	}
	return nil
}

// wake records the time for which sequences wait.
func (w *world) wake(due time.Time) error {
	var waiting []string
	woken := false
	for _, sequence := range slices.Sorted(maps.Keys(w.states)) {
		state, err := w.d.DecodeState(w.states[sequence])
		if err != nil {
			return err
		}
		t, err := w.d.Due(state)
		if err != nil {
			return err
		}
		if t.Equal(due) {
			woken = true
			r, err := w.d.RecordWoken(sequence, w.last[sequence], due)
			if err := w.record(r, err, due); err != nil {
				return err
			}
		} else if !t.IsZero() {
			waiting = append(waiting, sequence+" until "+t.Format(time.RFC3339Nano))
		}
	}
	if !woken {
		return fmt.Errorf("no sequence waits until %s; %s", due.Format(time.RFC3339Nano), listed("waiting", waiting))
	}
	return nil
}

func listed(what string, list []string) string {
	if len(list) == 0 {
		list = []string{"none"}
	}
	return what + ": " + strings.Join(list, ", ")
}

// reject records the refusal of the last command that was sent like the step's.
func (w *world) reject(o *step) error {
	typ, id, _ := strings.Cut(o.target, "/")
	want, err := Send(typ, id, o.command).encode(w.d.catalog)
	if err != nil {
		return err
	}
	for _, c := range slices.Backward(w.sent) {
		if c.Target() != o.target || c.Name != want.Name || !bytes.Equal(c.Data, want.Data) {
			continue
		}
		r, err := w.d.RecordRejected(c.sequence, c.k, c.n, Rejection{
			Position: c.position, Type: typ, ID: id, Command: c.Name,
			Code: "rejected", Reason: o.rejection.Code, Message: o.rejection.Message,
		})
		return w.record(r, err, w.now.Add(time.Second))
	}
	return fmt.Errorf("no step before sends %s; %s", want, listed("sent", texts(w.sent)))
}

// record executes a built-in command.
func (w *world) record(r Record, err error, at time.Time) error {
	if err != nil {
		return err
	}
	def := w.d.stream
	command, err := def.DecodeCommand(r.Command, r.Data)
	if err != nil {
		return err
	}
	decided, err := def.Decide(aggregate.Call{ID: r.Sequence, Client: w.d.Client(), Key: r.Key, Time: at}, def.NewState(), command)
	if err != nil {
		return err
	}
	for _, e := range decided {
		if err := w.event(def, w.d.name+"/"+r.Sequence, e, at, w.d.Client()); err != nil {
			return err
		}
	}
	return nil
}

// event appends an event to a stream and folds it.
func (w *world) event(def *aggregate.Definition, stream string, event any, at time.Time, client string) error {
	name, form, data, err := def.EncodeEvent(event)
	if err != nil {
		return err
	}
	w.position++
	w.versions[stream]++
	w.now = at
	read := aggregate.EventName{Type: def.Name(), Event: name}
	if !w.d.Reads(read) {
		return nil
	}
	_, id, _ := strings.Cut(stream, "/")
	place := At{Type: def.Name(), ID: id, Version: w.versions[stream], Position: w.position, Time: at, Client: client}
	if err := w.fold(place, read, form, data); err != nil {
		return fmt.Errorf("event %d of %s, %s: %w", place.Version, stream, name, err)
	}
	return nil
}

func (w *world) fold(at At, name aggregate.EventName, form int, data json.RawMessage) error {
	event, err := w.d.Decode(name, form, data)
	if err != nil {
		return err
	}
	effects, err := w.d.Effects(at, name, event)
	if err != nil {
		return err
	}
	for k, e := range effects {
		w.concerned[e.Sequence] = true
		state := w.d.NewState()
		if raw, ok := w.states[e.Sequence]; ok {
			if state, err = w.d.DecodeState(raw); err != nil {
				return err
			}
		}
		commands, err := w.d.Handle(at, e, event, state)
		if err != nil {
			return err
		}
		for n, c := range commands {
			w.sent = append(w.sent, sent{c, e.Sequence, at.Position, k, n})
		}
		if err := w.keep(e.Sequence, at.Position, state); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) keep(sequence string, position uint64, state any) (err error) {
	if w.d.Finished(state) {
		delete(w.states, sequence)
		return nil
	}
	if _, err := w.d.Due(state); err != nil {
		return err
	}
	w.last[sequence] = position
	w.states[sequence], err = w.d.EncodeState(state)
	return err
}

// compare compares what a step has caused with what is expected.
func (w *world) compare(o *step) error {
	got := w.sent[w.first:]
	if o.silent && len(got) > 0 {
		return fmt.Errorf("nothing should be sent; %s", listed("sent", texts(got)))
	}
	if len(o.sends) > 0 {
		want, err := o.sends.encode(w.d.catalog)
		if err != nil {
			return err
		}
		same := func(a sent, b Encoded) bool {
			return a.Target() == b.Target() && a.Name == b.Name && bytes.Equal(a.Data, b.Data)
		}
		if !slices.EqualFunc(got, want, same) {
			return fmt.Errorf("%s; %s", listed("should be sent", texts(want)), listed("sent", texts(got)))
		}
	}
	return w.compareStates(o)
}

func (w *world) compareStates(o *step) error {
	sequences := slices.Sorted(maps.Keys(w.concerned))
	if o.shows != "" {
		if len(sequences) != 1 {
			return fmt.Errorf("the expectation Shows is of one sequence, and the step concerns %d: %q", len(sequences), sequences)
		}
		got, ok := w.states[sequences[0]]
		if !ok {
			return fmt.Errorf("the state of %q should be %s, but it has none", sequences[0], o.shows)
		}
		if err := shape.CheckEqual(o.shows, got); err != nil {
			return fmt.Errorf("the state of %q: %w", sequences[0], err)
		}
	}
	if o.done && len(sequences) == 0 {
		return errors.New("the expectation Done is of the sequences that the step concerns, and it concerns none")
	}
	for _, sequence := range sequences {
		if state, ok := w.states[sequence]; o.done && ok {
			return fmt.Errorf("%q should be done, but its state is %s", sequence, state)
		}
	}
	return nil
}

// String returns the command for a message.
func (e Encoded) String() string { return e.Name + " " + string(e.Data) + " to " + e.Target() }

func texts[E fmt.Stringer](commands []E) (list []string) {
	for _, c := range commands {
		list = append(list, c.String())
	}
	return list
}

// digest hashes the steps of a scenario that runs.
func (s Scenario) digest(d *Definition) string {
	h := sha256.New()
	for i := range s.steps {
		o := &s.steps[i]
		fmt.Fprintf(h, "%d %s %v %q %s\n", o.kind, o.stream, o.at, o.client, o.target)
		typ, _, _ := strings.Cut(o.stream, "/")
		def, _ := d.catalog.Type(typ)
		for _, e := range o.events {
			name, form, data, _ := def.EncodeEvent(e)
			fmt.Fprintf(h, "%s %d %s\n", name, form, data)
		}
		if o.kind == stepRejected {
			typ, id, _ := strings.Cut(o.target, "/")
			command, _ := Send(typ, id, o.command).encode(d.catalog)
			fmt.Fprintf(h, "%s %s\n", command, o.rejection.Code)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
