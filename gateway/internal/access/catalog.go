package access

import "encoding/json"

// Catalog is what a gateway knows about the application: its types and
// commands, its access rules, and the form in which clients see events. It is
// immutable and safe for concurrent use. *aggregate.Catalog satisfies it.
//
// A caller is a client id ("" if it is anonymous) and the claims of its token.
// The gateway recovers from panics in these methods: a rule that panics denies
// access.
type Catalog interface {
	// HasType and HasCommand report whether the application defines a name.
	HasType(typ string) bool
	HasCommand(typ, command string) bool

	// IsSystem reports whether no client may send a command of a type, because the
	// program alone sends it.
	IsSystem(typ, command string) bool

	// AllowsAnonymous reports whether any access rule can allow something to
	// an anonymous caller.
	AllowsAnonymous() bool

	// CheckCommand returns an error if a command's data is invalid, and the
	// name of the invalid member. The command's owner would return the same
	// error.
	CheckCommand(typ, command string, data json.RawMessage) (field string, err error)

	// MaySend reports whether a caller may send a command to an aggregate.
	MaySend(client string, claims map[string]any, typ, id, command string) bool
	// MayRead reports whether a caller may read an aggregate's state and events.
	MayRead(client string, claims map[string]any, typ, id string) bool
	// MayReadAll reports whether a caller may read every aggregate of a type,
	// and therefore subscribe to its category.
	MayReadAll(client string, claims map[string]any, typ string) bool

	// Show applies all upcasters to a stored event and returns the form that
	// clients see. It fails for an event that this version of the application
	// does not know.
	Show(typ, event string, form int, data json.RawMessage) (json.RawMessage, error)
	// ShowsCaller reports whether events of a type name the client that caused
	// them.
	ShowsCaller(typ string) bool
}
