package aggregate

import (
	"encoding/json"
	"fmt"
	"strings"
)

// A FormError reports a stored event whose shape differs from the shape that this
// program declares under the same form number.
//
// A form may only gain members, so one of two shapes of a form has all members of
// the other. An event that has an unknown member and also lacks a declared one was
// therefore stored in a form that this program does not know. The missing member
// would read as its zero value.
type FormError struct {
	Type, Event string
	Form        int
	// Unknown are the members that the event has and the form does not, such
	// as "price" or "lots[].price".
	Unknown []string
	// Missing are the members that the form has and the event lacks. Members
	// that are omitted when they are empty do not count.
	Missing []string
}

// Misread reports whether this program would misread the event. If it returns
// false, the program only ignores members of the event: a newer program added
// them, or this program removed them.
func (e *FormError) Misread() bool { return len(e.Unknown) > 0 && len(e.Missing) > 0 }

func (e *FormError) Error() string {
	text := fmt.Sprintf("aggregate: event %s of %s is stored in a form %d that has %s, which this program does not declare",
		e.Event, e.Type, e.Form, strings.Join(e.Unknown, ", "))
	if !e.Misread() {
		return text + ": a newer program added it, or this program removed it and must declare it again"
	}
	return text + " and that lacks " + strings.Join(e.Missing, ", ") +
		": declare the form as it was, or make a new form with an upcaster, and add aggregate.Reads to the scenarios"
}

// CheckStored compares a stored event with the form that the type declares under
// its number. The error is a *FormError if the event has members that the form
// lacks. It returns nil for events of other forms, which upcasters read, and for
// unknown ones, which DecodeEvent refuses. It costs one pass over the data and one
// small allocation.
func (d *Definition) CheckStored(event string, form int, data json.RawMessage) error {
	e, ok := d.events[event]
	if !ok || max(form, 1) != e.form() {
		return nil
	}
	unknown, missing := e.shape.Compare(data)
	if len(unknown) == 0 {
		return nil
	}
	return &FormError{Type: d.name, Event: event, Form: e.form(), Unknown: unknown, Missing: missing}
}

// CheckStored calls CheckStored of the type. It returns nil for a type that does
// not exist.
func (c *Catalog) CheckStored(typ, event string, form int, data json.RawMessage) error {
	if d, ok := c.Type(typ); ok {
		return d.CheckStored(event, form, data)
	}
	return nil
}
