package aggregate

import "time"

// Scenarios are examples of what a type does. The names read as sentences.
// Scenarios document the type and are its tests.
type Scenarios[S any] map[string]Scenario[S]

// A Scenario is one example: given these events, when this command is sent,
// then this happens.
type Scenario[S any] struct {
	given   []Event[S]
	when    Command[S]
	woken   bool // when is the command for which the state asks
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
	wakes
)

// A Past is the beginning of a scenario: the earlier events.
type Past[S any] struct{ events []Event[S] }

// An Attempt is a scenario without its outcome. Then, Reject or Forbid completes
// it.
type Attempt[S any] struct{ s Scenario[S] }

// Given begins a scenario with earlier events.
func Given[S any](events ...Event[S]) Past[S] { return Past[S]{events} }

// When begins a scenario on an aggregate without events.
func When[S any](command Command[S]) Attempt[S] { return Past[S]{}.When(command) }

// When adds the command that is sent. Unless By, On and At say otherwise, the
// client "someone" sends it to the aggregate "1", at the start of the year 2000.
func (p Past[S]) When(command Command[S]) Attempt[S] {
	return Attempt[S]{Scenario[S]{
		given: p.events,
		when:  command,
		call:  Call{ID: "1", Client: "someone", Key: "scenario", Time: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)},
	}}
}

// By sets the client that sends the command. "" is an anonymous client. An id that
// begins with ~ is the program itself, of which no access rule is asked: "~wake", or
// "~" and the name of a process manager.
func (a Attempt[S]) By(client string) Attempt[S] { a.s.call.Client = client; return a }

// Claiming sets the claims of the client's token.
func (a Attempt[S]) Claiming(claims map[string]any) Attempt[S] { a.s.call.Claims = claims; return a }

// On sets the id of the aggregate that the command is sent to.
func (a Attempt[S]) On(id string) Attempt[S] { a.s.call.ID = id; return a }

// At sets the time at which the command is decided.
func (a Attempt[S]) At(t time.Time) Attempt[S] { a.s.call.Time = t.UTC(); return a }

// Then completes the scenario: the command is granted, with exactly these events.
// Then() means that it changes nothing.
func (a Attempt[S]) Then(events ...Event[S]) Scenario[S] {
	a.s.outcome, a.s.then = emits, events
	return a.s
}

// Reject completes the scenario: the command is rejected with this code.
func (a Attempt[S]) Reject(r *Rejection) Scenario[S] {
	a.s.outcome, a.s.reject = rejects, r
	return a.s
}

// Forbid completes the scenario: access rules forbid the client to send the
// command.
func (a Attempt[S]) Forbid() Scenario[S] {
	a.s.outcome = forbidden
	return a.s
}

// Reads is a scenario for an event whose form has changed: data that was stored
// under this name and form is read as event. Every old form of every event needs at
// least one.
func Reads[S any](name string, form int, data string, event Event[S]) Scenario[S] {
	return Scenario[S]{outcome: reads, stored: stored{name, form, data}, then: []Event[S]{event}}
}

// Shows adds what clients see of the final state, as JSON.
func (s Scenario[S]) Shows(view string) Scenario[S] { s.shows = view; return s }
