package aggregate

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// A Model is a definition of another kind than an aggregate: a projection or a
// query. Its package registers it with [Catalog.Add].
type Model interface {
	// Kind is what it is, such as "projection" or "memory projection".
	Kind() string
	// Name is its stored name. No other model has it whose kind ends with the same
	// word. Process managers and schedules share the names of projections: the tables
	// beside the log know all of them by their names.
	Name() string
	// Link looks up in the catalog what the model refers to, and returns
	// everything that is wrong. It is called once, after all definitions.
	Link(c *Catalog) []error
	// Scenarios returns its scenarios, sorted by name.
	Scenarios() []Example
	// Uncovered returns what no scenario shows, in words.
	Uncovered() []string
}

// Add registers a model, or what is wrong with it. A model with problems is
// left out.
func (c *Catalog) Add(m Model, problems ...error) {
	taken := func(other Model) bool { return nameSpace(other) == nameSpace(m) && other.Name() == m.Name() }
	if i := slices.IndexFunc(c.models, taken); i >= 0 {
		by := "another one"
		if kind := c.models[i].Kind(); kind != m.Kind() {
			by = "a " + kind
		}
		problems = append(problems, fmt.Errorf("the name is already taken by %s", by))
	}
	c.report(m, problems)
	if len(problems) == 0 {
		c.models = append(c.models, m)
	}
}

func nameSpace(m Model) string {
	kind := m.Kind()
	switch word := kind[strings.LastIndexByte(kind, ' ')+1:]; word {
	case "manager", "schedule":
		return "projection"
	default:
		return word
	}
}

func (c *Catalog) report(m Model, problems []error) {
	for _, p := range problems {
		c.problems = append(c.problems, fmt.Errorf("%s %q: %w", m.Kind(), m.Name(), p))
	}
}

// linkModels links the models once everything is defined.
func (c *Catalog) linkModels() {
	c.link.Do(func() {
		c.models = slices.DeleteFunc(c.models, func(m Model) bool {
			problems := m.Link(c)
			c.report(m, problems)
			return len(problems) > 0
		})
		slices.SortFunc(c.models, func(a, b Model) int { return cmp.Compare(a.Name(), b.Name()) })
	})
}

// Models returns the models of a kind, sorted by name.
func (c *Catalog) Models(kind string) []Model {
	c.linkModels()
	var models []Model
	for _, m := range c.models {
		if m.Kind() == kind {
			models = append(models, m)
		}
	}
	return models
}

// AllModels returns the models of all kinds, sorted by kind and name.
func (c *Catalog) AllModels() []Model {
	c.linkModels()
	return slices.SortedStableFunc(slices.Values(c.models), func(a, b Model) int { return cmp.Compare(a.Kind(), b.Kind()) })
}

// An EventName is an event's stored name and its aggregate type's.
type EventName struct{ Type, Event string }

// String returns "type/event".
func (n EventName) String() string { return n.Type + "/" + n.Event }

// EventsOf returns the stored names under which events of a Go type are
// registered, sorted.
func (c *Catalog) EventsOf(t reflect.Type) []EventName {
	var names []EventName
	for _, d := range c.Types() {
		if e, ok := d.eventTypes[t]; ok {
			names = append(names, EventName{d.name, e.name})
		}
	}
	return names
}
