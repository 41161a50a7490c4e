package aggregate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"
)

// A Catalog is a set of aggregate types. Its zero value is empty and ready.
//
// Define fills it, usually while packages are initialized. After that it is
// immutable and safe for concurrent use.
type Catalog struct {
	// Source has the Go files of the aggregates, whose comments describe them
	// to clients: embed them with "//go:embed *.go". Without it, a type is
	// described by its Doc, and commands and events are not described.
	Source fs.FS

	types    map[string]*Definition
	closed   map[string]*Definition // types of [Catalog.AddClosed]
	names    map[string]bool        // includes types with problems, and closed ones
	models   []Model
	sources  []fs.FS // of included catalogs
	problems []error
	link     sync.Once // links the models, before the first other use
}

// Include adds everything that other catalogs have: types, models and problems. It
// returns c, so that a package can include a catalog in a declaration:
//
//	var _ = Catalog.Include(&inbox.Catalog)
//
// Names are shared: a name that c has already is a problem, which Err reports. Include
// the same definition by two ways, and it is added once. The other catalogs must be
// complete, as those of imported packages are, and are not used afterwards: their
// models look up events in c.
func (c *Catalog) Include(others ...*Catalog) *Catalog {
	for _, other := range others {
		if other == c {
			c.problems = append(c.problems, errors.New("aggregate: a catalog includes itself: include another one"))
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(other.types)) {
			c.includeType(&c.types, other.types[name])
		}
		for _, name := range slices.Sorted(maps.Keys(other.closed)) {
			c.includeType(&c.closed, other.closed[name])
		}
		for _, m := range other.models {
			if !slices.Contains(c.models, m) {
				c.Add(m)
			}
		}
		c.problems = append(c.problems, other.problems...)
		c.sources = append(c.sources, other.Sources()...)
	}
	return c
}

// includeType adds a definition of another catalog to a map of this one.
func (c *Catalog) includeType(to *map[string]*Definition, d *Definition) {
	if (*to)[d.name] == d {
		return
	}
	if !c.claim(d.name) {
		c.problems = append(c.problems, fmt.Errorf("aggregate: type %q of an included catalog: %w", d.name, errTaken))
		return
	}
	if *to == nil {
		*to = map[string]*Definition{}
	}
	(*to)[d.name] = d
}

// Sources returns Source and those of the included catalogs, without absent ones.
func (c *Catalog) Sources() []fs.FS {
	if c.Source == nil {
		return c.sources
	}
	return append([]fs.FS{c.Source}, c.sources...)
}

// Err returns every problem of the definitions, joined, or nil. Types with problems
// are not in the catalog, so a node refuses to start unless Err returns nil.
func (c *Catalog) Err() error {
	c.linkModels()
	return errors.Join(c.problems...)
}

// AddClosed adds a type that is closed to clients: only the engine sends it commands
// and reads its streams. [Catalog.Type], [Catalog.CheckStored] and [Catalog.Show] know
// it. For Types, the contract and the methods that gateways ask about clients, it
// does not exist. It returns an error if another type has the name.
func (c *Catalog) AddClosed(d *Definition) error {
	if !c.claim(d.name) {
		return errTaken
	}
	if c.closed == nil {
		c.closed = map[string]*Definition{}
	}
	c.closed[d.name] = d
	return nil
}

var errTaken = errors.New("the name is already taken by another type")

// claim reports whether a name was free, and takes it. An empty name is never taken.
func (c *Catalog) claim(name string) bool {
	if c.names == nil {
		c.names = map[string]bool{}
	}
	taken := c.names[name]
	c.names[name] = name != ""
	return !taken
}

// Type returns the definition of a type by its stored name.
func (c *Catalog) Type(name string) (*Definition, bool) {
	if d, ok := c.types[name]; ok {
		return d, true
	}
	d, ok := c.closed[name]
	return d, ok
}

// Types returns the definitions of all types that are open to clients, sorted by
// name.
func (c *Catalog) Types() []*Definition {
	types := make([]*Definition, 0, len(c.types))
	for _, name := range slices.Sorted(maps.Keys(c.types)) {
		types = append(types, c.types[name])
	}
	return types
}

// HasType reports whether the catalog has a type that is open to clients.
func (c *Catalog) HasType(typ string) bool {
	_, ok := c.types[typ]
	return ok
}

// AllowsAnonymous reports whether any access rule may allow an anonymous client
// something, because the rule is Anyone or a function.
func (c *Catalog) AllowsAnonymous() bool {
	for _, d := range c.types {
		if d.access.allowsAnonymous() {
			return true
		}
	}
	return false
}

// HasCommand reports whether a type has a command.
func (c *Catalog) HasCommand(typ, command string) bool {
	d, ok := c.types[typ]
	if !ok {
		return false
	}
	_, ok = d.commands[command]
	return ok
}

// IsSystem reports whether a type has a command that no client may send, because its
// rule is System.
func (c *Catalog) IsSystem(typ, command string) bool {
	d, ok := c.types[typ]
	if !ok {
		return false
	}
	_, ok = d.commands[command]
	return ok && d.access.send(command) == System
}

// CheckCommand returns the error that DecodeCommand would return for a command's
// data, and the member concerned. It does not call types that decode themselves, so
// DecodeCommand may refuse data that CheckCommand accepts.
func (c *Catalog) CheckCommand(typ, command string, data json.RawMessage) (field string, err error) {
	d, ok := c.types[typ]
	if !ok {
		return "", fmt.Errorf("there is no aggregate type %q", typ)
	}
	cmd, ok := d.commands[command]
	if !ok {
		return "", d.unknownCommand(command)
	}
	err = cmd.shape.Check(data)
	if wrong, ok := errors.AsType[*DataError](err); ok {
		return wrong.Field, err
	}
	return "", err
}

// MaySend reports whether a caller may send a command to an aggregate. It returns
// false for a command that does not exist.
func (c *Catalog) MaySend(client string, claims map[string]any, typ, id, command string) bool {
	d, ok := c.types[typ]
	return ok && d.maySend(Caller{client, claims}, id, command)
}

// MayRead reports whether a caller may read an aggregate's state and events.
func (c *Catalog) MayRead(client string, claims map[string]any, typ, id string) bool {
	d, ok := c.types[typ]
	return ok && d.access.mayRead(Caller{client, claims}, id)
}

// MayReadAll reports whether a caller may read every aggregate of a type, and so
// subscribe to its category.
func (c *Catalog) MayReadAll(client string, claims map[string]any, typ string) bool {
	d, ok := c.types[typ]
	return ok && d.access.mayReadAll(Caller{client, claims})
}

// Show returns the data of a stored event as clients see it: data of the current
// form unchanged, and older data upcast. The error is ErrUnknownEvent for an event
// that the application does not know, and a *FormError for one that it would
// misread.
func (c *Catalog) Show(typ, event string, form int, data json.RawMessage) (json.RawMessage, error) {
	d, ok := c.Type(typ)
	if !ok {
		return nil, fmt.Errorf("%w: there is no aggregate type %q", ErrUnknownEvent, typ)
	}
	return d.show(event, form, data)
}

// ShowsCaller reports whether events of a type name the client that caused them.
func (c *Catalog) ShowsCaller(typ string) bool {
	d, ok := c.types[typ]
	return ok && d.showsCaller
}
