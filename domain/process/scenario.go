package process

import (
	"slices"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// Scenarios are examples of what a process manager does, by a name that reads as a
// sentence. They document it, and run as its tests.
type Scenarios map[string]Scenario

// A Scenario is one example: given these events, when this happens, these commands
// are sent. It begins with [Given], [When] or [Ticked]. What is expected stands
// after the step that it concerns; a scenario may have several such steps.
type Scenario struct{ steps []step }

type stepKind uint8

const (
	stepGiven stepKind = iota
	stepWhen
	stepWoken
	stepRejected
	stepTicked
)

// A step is something that happens.
type step struct {
	kind   stepKind
	stream string // of events
	events []any
	at     time.Time // zero for a second after the event before
	client string
	shifts bool // At or By stands after it

	target    string // of a rejection
	command   any
	rejection *aggregate.Rejection

	sends  Commands // expected, in this order
	silent bool     // no command is expected
	shows  string   // the expected state, "" for any
	done   bool     // no state is expected
}

// checks reports whether something is expected of the step.
func (o *step) checks() bool { return len(o.sends) > 0 || o.silent || o.shows != "" || o.done }

// Given begins a scenario with events of one stream, such as "book/42". What they
// cause is not compared.
func Given(stream string, events ...any) Scenario { return Scenario{}.And(stream, events...) }

// When begins a scenario with the event that it is about.
func When(stream string, event any) Scenario { return Scenario{}.When(stream, event) }

// Ticked begins the scenario of a schedule: a planned time has come.
func Ticked(planned time.Time) Scenario { return Scenario{}.Ticked(planned) }

func (s Scenario) add(one step) Scenario {
	s.steps = append(slices.Clone(s.steps), one)
	return s
}

// last changes the last step, if there is one.
func (s Scenario) last(change func(*step)) Scenario {
	if len(s.steps) == 0 {
		return s
	}
	s.steps = slices.Clone(s.steps)
	change(&s.steps[len(s.steps)-1])
	return s
}

// And adds events that happen after those before, in this or another stream.
func (s Scenario) And(stream string, events ...any) Scenario {
	return s.add(step{kind: stepGiven, stream: stream, events: events})
}

// When adds the event that the scenario is about.
func (s Scenario) When(stream string, event any) Scenario {
	return s.add(step{kind: stepWhen, stream: stream, events: []any{event}})
}

// Woken lets the time come for which a sequence waits. It is exactly the time that
// Wake returns.
func (s Scenario) Woken(due time.Time) Scenario { return s.add(step{kind: stepWoken, at: micros(due)}) }

// Rejected makes an aggregate refuse a command that an earlier step has sent, for
// one of the reasons that it declares.
func (s Scenario) Rejected(target string, command any, r *aggregate.Rejection) Scenario {
	return s.add(step{kind: stepRejected, target: target, command: command, rejection: r})
}

// Ticked adds a planned time of a schedule.
func (s Scenario) Ticked(planned time.Time) Scenario {
	return s.add(step{kind: stepTicked, at: micros(planned)})
}

// At says when the first of the last events happens. Each event happens one second
// after the one before.
func (s Scenario) At(t time.Time) Scenario {
	return s.last(func(o *step) {
		if o.shifts = true; len(o.events) > 0 {
			o.at = micros(t)
		}
	})
}

// By says which client's command made the last events.
func (s Scenario) By(client string) Scenario {
	return s.last(func(o *step) { o.shifts, o.client = true, client })
}

// Sends expects a command to an aggregate, such as "client/bob". The commands of a
// step are exactly the ones that Sends names, in this order.
func (s Scenario) Sends(target string, command any) Scenario {
	typ, id, _ := strings.Cut(target, "/")
	return s.last(func(o *step) { o.sends = append(slices.Clone(o.sends), Send(typ, id, command)) })
}

// SendsNothing expects that the last step causes no command.
func (s Scenario) SendsNothing() Scenario { return s.last(func(o *step) { o.silent = true }) }

// Shows expects the state, as JSON, of the one sequence that the last step concerns.
func (s Scenario) Shows(state string) Scenario { return s.last(func(o *step) { o.shows = state }) }

// Done expects that the sequences that the last step concerns have no state: they
// are finished.
func (s Scenario) Done() Scenario { return s.last(func(o *step) { o.done = true }) }
