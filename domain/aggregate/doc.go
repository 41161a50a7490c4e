// Package aggregate is the programming model of aggregates: what an author
// writes, and what the rest of the system sees of it.
//
// An aggregate is one file: its state, a type with Decide for each command, a
// type with Apply for each event, the rules, and one call of [Define]. Define
// gives each type its stored name, says who may do what, and has scenarios that
// show what happens. Decide and Apply are pure: they use no clock, no I/O and no
// random numbers, only their arguments. So any node can run them again, and a
// scenario takes microseconds.
//
// # What is stored
//
// Events are stored as JSON under the names in their definition, never under Go
// names. A stored form is permanent. Members may be added to it; they read as
// their zero value in events that were stored without them. Any other change
// makes a new form, which needs an [Upcaster] and a scenario with [Reads].
// Package domaintest compares every form with golden files, and fails if a program
// could no longer read stored events.
//
// A program that nevertheless declares a form differently does not harm the log.
// An event that it would misread is neither applied nor shown. A node logs the
// forms of this kind that it finds when it starts and when it reads events; see
// [FormError].
//
// A state is a cache of its events and may change shape at any time. Snapshots
// carry a fingerprint of the shape, and a snapshot of another shape is not used.
// Raise Revision if the meaning of Apply changes and the shape does not.
//
// # What is refused
//
// A command's data must be exactly what its Go type says. A member is required
// unless it is a pointer or has the json option omitempty or omitzero; for such
// an optional member null means absent. Data is refused, with the member's name,
// for unknown, missing, repeated and differently cased members, values of another
// type, null, values that an [Enum] does not declare, numbers that do not fit, U+0000 and invalid Unicode in text, and
// nesting deeper than 64 levels. The rules of the domain are left to Decide.
//
// Define refuses Go types whose values JSON would not preserve (unexported or
// untagged members, interfaces, channels). Nothing panics while packages are
// initialized: [Catalog.Err] returns every problem, joined.
//
// # Concurrency
//
// A [Catalog] and its Definitions are immutable after the last Define, and safe
// for concurrent use. A state belongs to one goroutine at a time. Decide must not
// change the state; several commands may be decided before the events of the
// first are stored. Decide and Apply run on the owner of an aggregate. Access
// rules and upcasters run on every node, on many goroutines.
//
// This package does not recover from panics of application code. Package engine
// and the gateway do: the command fails as internal, an access rule denies, and an
// event whose upcaster panics is not shown. Each panic is logged with its stack.
// A program cannot recover from a stack overflow, concurrent writes to a map, or
// running out of memory.
package aggregate
