package gateway

import "encoding/json"

// Catalog is what a gateway knows of the application: what exists, who may do
// what, and how stored events are shown. It is immutable and safe for
// concurrent use. *aggregate.Catalog satisfies it.
//
// A caller is a client id ("" for nobody) and the claims of its token. The
// gateway recovers from panics of these methods: a rule that panics says no.
type Catalog interface {
	// HasType and HasCommand tell whether the application knows a name.
	HasType(typ string) bool
	HasCommand(typ, command string) bool

	// AllowsAnonymous reports whether an access rule may allow anything to a
	// caller without a client id.
	AllowsAnonymous() bool

	// CheckCommand tells what is wrong with a command's data, and with which
	// member of it: what the command's owner would say.
	CheckCommand(typ, command string, data json.RawMessage) (field string, err error)

	// MaySend tells whether a caller may send a command to an aggregate.
	MaySend(client string, claims map[string]any, typ, id, command string) bool
	// MayRead tells whether a caller may read an aggregate's state and events.
	MayRead(client string, claims map[string]any, typ, id string) bool
	// MayReadAll tells whether a caller may read every aggregate of a type,
	// and so subscribe to its category.
	MayReadAll(client string, claims map[string]any, typ string) bool

	// Show turns a stored event into the form that clients see: upcasters
	// have been applied. It fails for an event that the application no longer
	// or not yet knows.
	Show(typ, event string, form int, data json.RawMessage) (json.RawMessage, error)
	// ShowsCaller tells whether events of a type say who caused them.
	ShowsCaller(typ string) bool
}
