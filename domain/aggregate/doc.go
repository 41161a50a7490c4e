// Package aggregate is the programming model: what an aggregate's author
// writes, and what the rest of the system sees of it.
//
// An aggregate is one file: its state, a type for each command with Decide, a
// type for each event with Apply, the rules, and one call of Define that gives
// everything its stored name, says who may do what, and shows by scenarios
// what happens when. Decide and Apply are pure: no clock, no I/O, no chance;
// what they may know comes in as arguments. So they can be run anywhere, again
// and again, and a scenario takes microseconds.
//
// # What is stored
//
// Events are stored as JSON under the names of their definition, never under
// Go names. A stored form is permanent: members may be added, and read as
// their zero value in events that were stored without them; anything else
// makes a new form and needs an Upcaster, and a scenario with Reads. Package
// aggregatetest keeps golden files of every form and fails when history would
// be orphaned.
//
// A program whose form differs all the same is not let loose on the log: an
// event that it would misread is neither applied nor shown, and a node reports
// the form at its start, as far as it finds it there, and when it is met; see
// FormError.
//
// A state is a cache of its events. It may change shape at will: snapshots
// carry a fingerprint of the shape, and one of another shape is not used.
// Raise Revision when the shape stays and Apply changes its meaning.
//
// # What is refused
//
// A command's data must be exactly what its Go type says. A member is required
// unless it is a pointer or has the json option omitempty or omitzero; for
// such an optional member null is as good as absence. Refused, with the
// member's name: unknown, missing, doubled and differently cased members,
// values of another type, null, numbers that don't fit, U+0000 and broken
// Unicode in text, nesting deeper than 64 levels. What is left to Decide are
// the rules of the domain.
//
// Go types that would not come back from JSON as they went (unexported or
// untagged members, interfaces, channels) are refused when they are defined.
// Nothing panics while packages are initialized: Catalog.Err says everything
// that is wrong, at once.
//
// # Concurrency
//
// Catalogs and Definitions are immutable once all is defined, and safe for
// concurrent use. States belong to one goroutine at a time. Decide must leave
// the state as it is; several decisions may be made before any event of theirs
// is stored. Decide and Apply run on the owner of an aggregate; access rules
// and upcasters run on every node, from many goroutines.
//
// Application code that panics panics through this package. Package host and
// the gateway recover: the command fails as internal, an access rule says no,
// an event whose upcaster panics is not shown. Each is logged with its stack.
// What Go ends a program for can't be recovered from: a stack overflow,
// concurrent writes to a map, running out of memory.
package aggregate
