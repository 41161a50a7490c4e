package aggregate

import (
	"fmt"
	"reflect"

	"github.com/ganglion-es/ganglion/domain/internal/shape"
)

type (
	// A DataError says what is wrong with a command's data. Its Field is the
	// member concerned, such as "amount" or "lots[2].reserve", or "" for the
	// data as a whole. Its Message says what to correct.
	DataError = shape.DataError

	// A Schema is a JSON Schema (draft 2020-12).
	Schema = shape.Schema

	// Properties are an object's members in the order of the Go type.
	Properties = shape.Properties

	// A Property is a member of an object.
	Property = shape.Property

	// An Enum is a string type that declares its values. Commands with other values
	// are refused, and the values are part of the contract with clients:
	//
	//	func (Condition) Values() []string { return []string{"new", "used"} }
	//
	// Values may be added. A value that is gone may still be in stored events.
	Enum = shape.Enum

	// A Describer returns the description of a Go type, if field is "", or of
	// one of its fields. It returns "" if it has none.
	Describer = shape.Describer
)

// Schemas returns the schemas of a type's state, commands and events, under names
// such as "auction.state", "auction.commands.bid" and "auction.events.bid_placed".
// They refer to each other as "#/$defs/" and the name. Types that contain
// themselves have names such as "tree.state.Node".
//
// A command's schema accepts what DecodeCommand accepts, and also what no schema
// can refuse: repeated members, invalid text, and unbounded nesting. The other
// schemas describe data that is sent to clients. They allow members that a newer
// program may add, and null for lists and maps, as Go encodes empty ones.
func (d *Definition) Schemas(describe Describer) map[string]*Schema {
	schemas := map[string]*Schema{}
	d.viewShape().AddSchema(schemas, d.name+".state", false, describe)
	for name, c := range d.commands {
		c.shape.AddSchema(schemas, d.name+".commands."+name, true, describe)
	}
	for name, e := range d.events {
		e.shape.AddSchema(schemas, d.name+".events."+name, false, describe)
	}
	return schemas
}

// viewShape returns the shape of what clients see of a state. View may return any
// type; the type that it returns for an unused aggregate stands for all states.
func (d *Definition) viewShape() (s *shape.Shape) {
	defer func() {
		if recover() != nil {
			s = shape.OfEncoded(nil) // View panicked
		}
	}()
	return shape.OfEncoded(reflect.TypeOf(d.view(d.newState())))
}

// SampleEvent returns an event with every member set, to an extreme where that
// distinguishes forms. It depends on the Go type alone, so it stays the same as
// long as the stored form does. Golden files hold it.
func (d *Definition) SampleEvent(name string) (any, error) {
	e, ok := d.events[name]
	if !ok {
		return nil, fmt.Errorf("%w: %s has no event %q", ErrUnknownEvent, d.name, name)
	}
	return e.shape.Sample(), nil
}

// SampleCommand returns a command with every member set, as SampleEvent does.
func (d *Definition) SampleCommand(name string) (any, error) {
	c, ok := d.commands[name]
	if !ok {
		return nil, fmt.Errorf("%w: %s has no command %q", ErrUnknownCommand, d.name, name)
	}
	return c.shape.Sample(), nil
}
