package aggregate

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// A FormError says that a stored event has another shape than the one that
// this program declares under the same number of its form.
//
// Members may be added to a form, so its shapes follow on each other: of any
// two, one has all members of the other. An event that has a member too many
// and lacks another was therefore stored in a form that this program does not
// know, and would read as zero values.
type FormError struct {
	Type, Event string
	Form        int
	// Unknown are the members that the event has and the form does not, such
	// as "price" or "lots[].price".
	Unknown []string
	// Missing are the members that the form has and the event does not, but
	// for those that are left out when they are empty.
	Missing []string
}

// Misread reports whether this program would misread the event. If not, the
// event has members that this program ignores: a newer program added them, or
// this one took them away.
func (e *FormError) Misread() bool { return len(e.Unknown) > 0 && len(e.Missing) > 0 }

func (e *FormError) Error() string {
	text := fmt.Sprintf("aggregate: event %s of %s is stored in a form %d that has %s, which this program does not declare",
		e.Event, e.Type, e.Form, strings.Join(e.Unknown, ", "))
	if !e.Misread() {
		return text + ": a newer program added it; or it was taken away here, and must be declared again"
	}
	return text + ", and that lacks " + strings.Join(e.Missing, ", ") +
		": declare the form as it was, or make a new form with an upcaster, and add aggregate.Reads to the scenarios"
}

// CheckStored compares a stored event with the form that the type declares
// under its number. The error is a *FormError if the event has members that
// the form does not. Events of other forms are the upcasters' to read, and
// unknown ones DecodeEvent's to refuse: for those it returns nil. It costs
// about as much as a pass over the data, and one small allocation.
func (d *Definition) CheckStored(event string, form int, data json.RawMessage) error {
	e, ok := d.events[event]
	if !ok || max(form, 1) != e.form() {
		return nil
	}
	diff := difference{at: make([]string, 0, 16)}
	c := checker{data: data}
	if err := c.compare(e.shape, &diff); err != nil || len(diff.unknown) == 0 {
		return nil // data that is not of this kind at all, decoding refuses
	}
	return &FormError{Type: d.name, Event: event, Form: e.form(), Unknown: diff.unknown, Missing: diff.missing}
}

// CheckStored is that of the type; nil for a type that does not exist.
func (c *Catalog) CheckStored(typ, event string, form int, data json.RawMessage) error {
	if d, ok := c.types[typ]; ok {
		return d.CheckStored(event, form, data)
	}
	return nil
}

// difference gathers the members by which data differs from a shape.
type difference struct {
	unknown, missing []string

	// at is where the walk is: the members on the way down, "" for an element
	// of a list.
	at []string
}

// path returns the way to a member, for people.
func (d *difference) path(name string) string {
	path := ""
	for _, step := range d.at {
		switch {
		case step == "":
			path += "[]"
		case path == "":
			path = step
		default:
			path += "." + step
		}
	}
	if path == "" {
		return name
	}
	return path + "." + name
}

// note adds a path to a list, of which a few are enough.
func note(list *[]string, path string) {
	const most = 8
	if len(*list) < most && !slices.Contains(*list, path) {
		*list = append(*list, path)
	}
}

// compare walks over stored data and notes the members that are not as the
// shape has them. Values it leaves to decoding.
func (c *checker) compare(s *shape, d *difference) *DataError {
	b := c.peek()
	switch {
	case s.kind == kindNullable && b != 'n':
		return c.compare(s.elem, d)
	case s.kind == kindObject && b == '{':
		return c.compareObject(s, d)
	case s.kind == kindDictionary && b == '{':
		if err := c.enter(); err != nil {
			return err
		}
		for closed := c.take('}'); !closed; {
			name, err := c.name()
			if err != nil {
				return err
			}
			if err := c.compareIn(string(name), s.elem, d); err != nil {
				return err
			}
			if closed = c.take('}'); !closed && !c.take(',') {
				return c.syntax("',' or '}'")
			}
		}
		c.depth--
		return nil
	case (s.kind == kindList || s.kind == kindFixed) && b == '[':
		if err := c.enter(); err != nil {
			return err
		}
		for closed := c.take(']'); !closed; {
			if err := c.compareIn("", s.elem, d); err != nil {
				return err
			}
			if closed = c.take(']'); !closed && !c.take(',') {
				return c.syntax("',' or ']'")
			}
		}
		c.depth--
		return nil
	}
	return c.any()
}

// compareIn is compare one step further down.
func (c *checker) compareIn(step string, s *shape, d *difference) *DataError {
	d.at = append(d.at, step)
	err := c.compare(s, d)
	d.at = d.at[:len(d.at)-1]
	return err
}

func (c *checker) compareObject(s *shape, d *difference) *DataError {
	if err := c.enter(); err != nil {
		return err
	}
	var few [16]bool
	seen := few[:]
	if len(s.members) > len(few) {
		seen = make([]bool, len(s.members))
	}
	for closed := c.take('}'); !closed; {
		name, err := c.name()
		if err != nil {
			return err
		}
		i := s.memberFold(name)
		if i < 0 {
			note(&d.unknown, d.path(clip(name)))
			err = c.any()
		} else {
			seen[i] = true
			err = c.compareIn(s.members[i].name, s.members[i].shape, d)
		}
		if err != nil {
			return err
		}
		if closed = c.take('}'); !closed && !c.take(',') {
			return c.syntax("',' or '}'")
		}
	}
	c.depth--
	for i := range s.members {
		if m := &s.members[i]; !m.omitted && !seen[i] {
			note(&d.missing, d.path(m.name))
		}
	}
	return nil
}

// memberFold is member as encoding/json decodes: the case of letters counts
// only where two members differ by it.
func (s *shape) memberFold(name []byte) int {
	if i := s.member(name); i >= 0 {
		return i
	}
	return slices.IndexFunc(s.members, func(m member) bool { return strings.EqualFold(m.name, string(name)) })
}
