package aggregate

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"
)

// wakeClient is the client of a command that a wake-up causes.
const wakeClient = "~wake"

// HasWake reports whether aggregates of the type ask to be woken.
func (d *Definition) HasWake() bool { return d.wake != nil }

// WakeRevision is the revision that is stored with the times of the type's wake-ups.
func (d *Definition) WakeRevision() int { return d.revision }

// Wake returns when an aggregate in a state asks to be woken, and the command that it
// then gets. Without one, the time is zero. Times are rounded up to whole
// microseconds, and limited to the years 1970 to 9999.
func (d *Definition) Wake(state any) (at time.Time, cmd any) {
	if d.wake == nil {
		return time.Time{}, nil
	}
	at, cmd = d.wake(state)
	if at.IsZero() || cmd == nil {
		return time.Time{}, nil
	}
	return limitWake(at), cmd
}

var (
	firstWake = time.UnixMicro(1).UTC()
	lastWake  = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
)

func limitWake(at time.Time) time.Time {
	at = at.Round(0).UTC()
	switch whole := at.Truncate(time.Microsecond); {
	case at.Before(firstWake):
		return firstWake
	case at.After(lastWake):
		return lastWake
	case whole.Before(at):
		return whole.Add(time.Microsecond)
	default:
		return whole
	}
}

// Wakes is a scenario for the time at which an aggregate with these events asks to be
// woken. The zero time means never.
func (p Past[S]) Wakes(at time.Time) Scenario[S] {
	return Scenario[S]{given: p.events, outcome: wakes, call: Call{Time: at}}
}

// Woken adds the command that the aggregate gets when it is woken, at the time for
// which it asks, unless At says that it is later.
func (p Past[S]) Woken() Attempt[S] {
	a := p.When(nil)
	a.s.woken, a.s.call.Client, a.s.call.Time = true, wakeClient, time.Time{}
	return a
}

// awaken sets the scenario's command and time to those for which a state asks.
func (s Scenario[S]) awaken(d *Definition, state any) (Scenario[S], error) {
	at, cmd, err := d.wakeTwice(state)
	switch {
	case err != nil:
		return s, err
	case at.IsZero():
		return s, errors.New("the aggregate should be woken, but asks for no wake-up")
	case s.call.Time.IsZero():
		s.call.Time = at
	case s.call.Time.Before(at):
		return s, fmt.Errorf("the aggregate is not woken at %s: it asks for %s", s.call.Time, at)
	}
	s.when = cmd.(Command[S])
	return s, nil
}

// wakeTwice calls Wake twice, and checks that it is pure and that the command is
// registered.
func (d *Definition) wakeTwice(state any) (time.Time, any, error) {
	if d.wake == nil {
		return time.Time{}, nil, errors.New("the type has no Wake")
	}
	before, err := d.EncodeState(state)
	if err != nil {
		return time.Time{}, nil, err
	}
	at, cmd := d.Wake(state)
	_, known := d.CommandName(cmd)
	atAgain, cmdAgain := d.Wake(state)
	after, err := d.EncodeState(state)
	switch {
	case err != nil || !bytes.Equal(before, after):
		return at, cmd, fmt.Errorf("Wake changed the state, which only Apply may do: from %s to %s", before, after)
	case !at.Equal(atAgain) || !reflect.DeepEqual(cmd, cmdAgain):
		return at, cmd, errors.New("Wake returned two results for the same state: it may use only its argument")
	case !at.IsZero() && !known:
		return at, cmd, fmt.Errorf("Wake returns a %T, which is not registered: add it to the Commands of %s", cmd, d.name)
	}
	return at, cmd, nil
}

// compareWake compares the time for which a state asks with the scenario's.
func (s Scenario[S]) compareWake(d *Definition, state any) error {
	at, _, err := d.wakeTwice(state)
	if err != nil {
		return err
	}
	if want := s.call.Time; !at.Equal(want) {
		return fmt.Errorf("the aggregate should ask to be woken %s, but asks for %s", when(want), when(at))
	}
	return nil
}

func when(at time.Time) string {
	if at.IsZero() {
		return "never"
	}
	return at.Format(time.RFC3339Nano)
}

// checkMoved returns an error if an aggregate that was woken, and had events, still
// asks for the same time or an earlier one: it would be woken again each second.
func (s Scenario[S]) checkMoved(d *Definition, state any) error {
	if !s.woken || s.outcome != emits || len(s.then) == 0 {
		return nil
	}
	if at, _ := d.Wake(state); !at.IsZero() && !at.After(s.call.Time) {
		return fmt.Errorf("the aggregate was woken at %s, and still asks for %s: it would be woken each second; let an event move the time", when(s.call.Time), when(at))
	}
	return nil
}

// commandType returns the type of the command that a scenario sends, or nil.
func (s Scenario[S]) commandType(d *Definition) (t reflect.Type) {
	if !s.woken {
		return reflect.TypeOf(s.when)
	}
	defer func() {
		if recover() != nil {
			t = nil // the scenario fails when it runs
		}
	}()
	state := d.NewState()
	for _, e := range s.given {
		d.Apply(state, e)
	}
	_, cmd := d.Wake(state)
	return reflect.TypeOf(cmd)
}

// uncoveredWake names Wake if no scenario shows it.
func (scenarios Scenarios[S]) uncoveredWake(d *Definition) []string {
	if d.wake == nil {
		return nil
	}
	for _, s := range scenarios {
		if s.woken || s.outcome == wakes && !s.call.Time.IsZero() {
			return nil
		}
	}
	return []string{"the type's Wake (add a scenario with Woken or Wakes)"}
}

// wakeProblems returns what is wrong with the revision of a type with Wake.
func (t Type[S]) wakeProblems() (problems []error) {
	if t.Wake != nil && (t.Revision < math.MinInt32 || t.Revision > math.MaxInt32) {
		problems = append(problems, fmt.Errorf("the Revision is %d: it must fit 32 bits", t.Revision))
	}
	return problems
}
