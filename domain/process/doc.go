// Package process is the programming model of process managers: commands that
// follow from events.
//
// A process manager is one call of [Define] with a type of state, a handler for each
// event that concerns it, and scenarios:
//
//	var _ = process.Define(&Catalog, process.Type[Outbid]{
//		Name: "outbid",
//		On: process.Handlers[Outbid]{
//			process.On(func(_ process.At, e BidPlaced, s *Outbid) (c process.Commands) {
//				if s.Top != "" {
//					c = append(c, process.Send("client", s.Top, Notify{Text: "you were outbid"}))
//				}
//				s.Top = e.Bidder
//				return c
//			}),
//		},
//		Scenarios: process.Scenarios{…},
//	})
//
// Handlers are pure: no clock, no I/O, no randomness, and no way to learn whether an
// event is being folded again. Everything that a handler may know is an argument. A
// handler does not send commands: it returns them. The engine stores them together
// with the state, and sends each under a key that names its cause, so that an
// aggregate executes it once, whatever fails in between.
//
// # Sequences
//
// A process manager keeps one state for each sequence: for each stream whose events
// it handles, or for each name that [OnKey] returns. An event that concerns several
// sequences is handled in each of them. A state is a value: between two events it is
// stored as JSON, and only what JSON keeps survives. Its JSON has at most
// [MaxStateBytes]. A state for which [Type.Done] reports true is deleted.
//
// # What is not an event
//
// The state depends on the log alone. So the engine records what is not an event as
// one, in the process manager's own streams: their type is its name, their ids are
// its sequences, and clients can neither read nor write them.
//
//	event     recorded when                              handled by
//	woken     the time that Wake returned has passed      Woken
//	rejected  an aggregate has finally refused a command  Rejected
//	ticked    a planned time of an Every has come         Run
//
// A time that comes after an event has moved it is ignored.
//
// # Keys
//
// Commands and records have keys that the engine can compute again, made by
// [Definition.CommandKey], [Definition.RecordWoken], [Definition.RecordRejected] and
// [Definition.RecordTicked] and by nothing else.
//
// # Schedules
//
// An [Every] sends commands at planned times: by a cron expression and a time zone,
// or by an interval. [Schedule.Next] and [Schedule.Plan] compute the times from these
// alone: whichever node asks, and from which time on, a planned time is the same, and
// its key keeps it from being recorded twice.
//
// # Builds
//
// [Definition.Fingerprint] covers the type of the state, the events with their forms,
// which handlers choose the sequence, the segments and Revision. A program with
// another fingerprint folds the log again, into a build of its own that sends nothing
// for the past, and then takes over at one position. The bodies of functions are not
// in the fingerprint: raise Revision when a change of one changes the states. Package
// domaintest keeps the outcomes of all scenarios in golden files and fails if states
// change without that.
//
// # Concurrency
//
// Definitions are immutable once everything is defined, and safe for concurrent use;
// states are not. A function of the application that panics panics through this
// package. The engine recovers, and blocks the sequence until an operator decides.
package process
