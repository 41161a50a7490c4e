package aggregate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
)

// A Catalog is a set of aggregate types. Its zero value is empty and ready.
//
// Define fills it, as a rule while packages are initialized. From its first
// other use on it is immutable and safe for concurrent use.
type Catalog struct {
	// Source has the Go files of the aggregates, whose comments describe them
	// to clients: embed them with "//go:embed *.go". Without it, types have
	// what their Doc says, and commands and events no description.
	Source fs.FS

	types    map[string]*Definition
	names    map[string]bool // also of types that failed to register
	problems []error
}

// Err returns everything that is wrong with the definitions, joined, or nil.
// A program refuses to start with a catalog that has problems: the types
// concerned are missing from it.
func (c *Catalog) Err() error { return errors.Join(c.problems...) }

// Type returns the definition of a type by its stored name.
func (c *Catalog) Type(name string) (*Definition, bool) {
	d, ok := c.types[name]
	return d, ok
}

// Types returns all definitions, sorted by name.
func (c *Catalog) Types() []*Definition {
	types := make([]*Definition, 0, len(c.types))
	for _, name := range slices.Sorted(maps.Keys(c.types)) {
		types = append(types, c.types[name])
	}
	return types
}

// HasType tells whether there is such a type.
func (c *Catalog) HasType(typ string) bool {
	_, ok := c.types[typ]
	return ok
}

// AllowsAnonymous reports whether an access rule may allow anything to a caller
// without a client id: one of the rules is Anyone, or a function.
func (c *Catalog) AllowsAnonymous() bool {
	for _, d := range c.types {
		if d.access.allowsAnonymous() {
			return true
		}
	}
	return false
}

// HasCommand tells whether a type has such a command.
func (c *Catalog) HasCommand(typ, command string) bool {
	d, ok := c.types[typ]
	if !ok {
		return false
	}
	_, ok = d.commands[command]
	return ok
}

// CheckCommand tells what is wrong with a command's data, in the words in which
// DecodeCommand would say it, and with which member; nil if nothing is. What
// types that decode themselves think of their members, only decoding tells.
func (c *Catalog) CheckCommand(typ, command string, data json.RawMessage) (field string, err error) {
	d, ok := c.types[typ]
	if !ok {
		return "", fmt.Errorf("there is no aggregate type %q", typ)
	}
	cmd, ok := d.commands[command]
	if !ok {
		return "", d.unknownCommand(command)
	}
	err = cmd.shape.check(orEmpty(data), false)
	if wrong, ok := errors.AsType[*DataError](err); ok {
		return wrong.Field, err
	}
	return "", err
}

// MaySend tells whether a caller may send a command to an aggregate. Nobody
// may send what does not exist.
func (c *Catalog) MaySend(client string, claims map[string]any, typ, id, command string) bool {
	d, ok := c.types[typ]
	return ok && d.maySend(Caller{client, claims}, id, command)
}

// MayRead tells whether a caller may read an aggregate's state and events.
func (c *Catalog) MayRead(client string, claims map[string]any, typ, id string) bool {
	d, ok := c.types[typ]
	return ok && d.access.mayRead(Caller{client, claims}, id)
}

// MayReadAll tells whether a caller may read every aggregate of a type, and
// so subscribe to its category.
func (c *Catalog) MayReadAll(client string, claims map[string]any, typ string) bool {
	d, ok := c.types[typ]
	return ok && d.access.mayReadAll(Caller{client, claims})
}

// Show turns a stored event's data into what clients see: data of today's
// form as it is stored, older data as the upcasters make it. The error is
// ErrUnknownEvent for an event that the application does not know, and a
// *FormError for one that it would misread.
func (c *Catalog) Show(typ, event string, form int, data json.RawMessage) (json.RawMessage, error) {
	d, ok := c.types[typ]
	if !ok {
		return nil, fmt.Errorf("%w: there is no aggregate type %q", ErrUnknownEvent, typ)
	}
	return d.show(event, form, data)
}

// ShowsCaller tells whether events of a type say who caused them.
func (c *Catalog) ShowsCaller(typ string) bool {
	d, ok := c.types[typ]
	return ok && d.showsCaller
}
