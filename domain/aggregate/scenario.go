package aggregate

import "time"

// Scenarios are examples of what a type does, by a name that reads as a
// sentence. They document the type, and run as its tests.
type Scenarios[S any] map[string]Scenario[S]

// A Scenario is one example: given these events, when this command is sent,
// then this happens.
type Scenario[S any] struct {
	given   []Event[S]
	when    Command[S]
	call    Call
	outcome outcome
	then    []Event[S]
	reject  *Rejection
	shows   string
	stored  stored
}

// stored is an event as a log holds it.
type stored struct {
	event string
	form  int
	data  string
}

type outcome uint8

const (
	emits outcome = iota + 1
	rejects
	forbidden
	reads
)

// A Past is the beginning of a scenario: what has happened.
type Past[S any] struct{ events []Event[S] }

// An Attempt is a scenario without its outcome: Then, Reject or Forbid
// completes it.
type Attempt[S any] struct{ s Scenario[S] }

// Given begins a scenario with what has happened before.
func Given[S any](events ...Event[S]) Past[S] { return Past[S]{events} }

// When begins a scenario on an aggregate that nothing has happened to.
func When[S any](command Command[S]) Attempt[S] { return Past[S]{}.When(command) }

// When says which command is sent: by the client "someone", to the aggregate
// with the id "1", at the start of the year 2000, unless By, On and At say
// otherwise.
func (p Past[S]) When(command Command[S]) Attempt[S] {
	return Attempt[S]{Scenario[S]{
		given: p.events,
		when:  command,
		call:  Call{ID: "1", Client: "someone", Key: "scenario", Time: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)},
	}}
}

// By says who sends the command; "" is nobody.
func (a Attempt[S]) By(client string) Attempt[S] { a.s.call.Client = client; return a }

// Claiming gives the sender's token these claims.
func (a Attempt[S]) Claiming(claims map[string]any) Attempt[S] { a.s.call.Claims = claims; return a }

// On says which aggregate the command is sent to, by its id.
func (a Attempt[S]) On(id string) Attempt[S] { a.s.call.ID = id; return a }

// At says when the command is decided.
func (a Attempt[S]) At(t time.Time) Attempt[S] { a.s.call.Time = t.UTC(); return a }

// Then completes the scenario: the command is granted, and exactly these
// events happen. Then() means that nothing does.
func (a Attempt[S]) Then(events ...Event[S]) Scenario[S] {
	a.s.outcome, a.s.then = emits, events
	return a.s
}

// Reject completes the scenario: the command is rejected with this code.
func (a Attempt[S]) Reject(r *Rejection) Scenario[S] {
	a.s.outcome, a.s.reject = rejects, r
	return a.s
}

// Forbid completes the scenario: access rules keep the sender from sending it.
func (a Attempt[S]) Forbid() Scenario[S] {
	a.s.outcome = forbidden
	return a.s
}

// Reads is a scenario of its own kind, for an event whose form has changed: what
// was stored under this name in this form, with this data, is read as event.
// Every old form of every event has at least one.
func Reads[S any](name string, form int, data string, event Event[S]) Scenario[S] {
	return Scenario[S]{outcome: reads, stored: stored{name, form, data}, then: []Event[S]{event}}
}

// Shows adds what clients see of the state in the end, as JSON.
func (s Scenario[S]) Shows(view string) Scenario[S] { s.shows = view; return s }
