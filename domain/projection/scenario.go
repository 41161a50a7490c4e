package projection

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/internal/shape"
)

// Scenarios are examples of what a projection does, by a name that reads as a
// sentence. They document it, and run as its tests.
type Scenarios map[string]Scenario

// A Scenario is one example: given these events, these rows are there, or this is
// the state of a memory.
type Scenario struct {
	given   []given
	shows   []shown
	becomes string // "" unless it is of a memory
}

type given struct {
	stream string
	at     time.Time
	client string
	events []any
}

type shown struct {
	key string
	row string // "" for none
}

// start is when the first event of a scenario happens, unless it says otherwise.
// Each event happens one second after the one before.
var start = time.Date(2026, 5, 1, 9, 0, 0, 0, time.UTC)

// Given begins a scenario with events of one stream, such as "auction/42".
func Given(stream string, events ...any) Scenario { return Scenario{}.And(stream, events...) }

// And adds events that happen after those before, in this or another stream.
func (s Scenario) And(stream string, events ...any) Scenario {
	s.given = append(slices.Clone(s.given), given{stream: stream, events: events})
	return s
}

// At says when the first of the last events happens.
func (s Scenario) At(t time.Time) Scenario {
	return s.last(func(g *given) { g.at = t.UTC().Truncate(time.Microsecond) })
}

// By says which client's command made the last events.
func (s Scenario) By(client string) Scenario {
	return s.last(func(g *given) { g.client = client })
}

func (s Scenario) last(change func(*given)) Scenario {
	s.given = slices.Clone(s.given)
	change(&s.given[len(s.given)-1])
	return s
}

// Shows expects a row: its key and its JSON.
func (s Scenario) Shows(key, row string) Scenario {
	s.shows = append(slices.Clone(s.shows), shown{key, row})
	return s
}

// Lacks expects that no row has a key.
func (s Scenario) Lacks(key string) Scenario { return s.Shows(key, "") }

// Becomes expects the state of a memory, as JSON.
func (s Scenario) Becomes(state string) Scenario { s.becomes = state; return s }

// problems reports scenarios that cannot run, of a table or of a memory.
func (scenarios Scenarios) problems(c *aggregate.Catalog, memory bool) (problems []error) {
	for _, name := range slices.Sorted(maps.Keys(scenarios)) {
		s := scenarios[name]
		switch {
		case memory && (len(s.given) == 0 || s.becomes == "" || len(s.shows) > 0):
			problems = append(problems, fmt.Errorf("scenario %q is not complete: that of a memory begins with Given and ends with Becomes", name))
		case !memory && (len(s.given) == 0 || len(s.shows) == 0 || s.becomes != ""):
			problems = append(problems, fmt.Errorf("scenario %q is not complete: that of a table begins with Given and ends with Shows or Lacks", name))
		}
		for _, g := range s.given {
			typ, id, ok := strings.Cut(g.stream, "/")
			def, known := c.Type(typ)
			if !ok || !known || id == "" {
				problems = append(problems, fmt.Errorf("scenario %q: %q is no stream of the catalog: write type/id, such as auction/42", name, g.stream))
				continue
			}
			for _, e := range g.events {
				if _, _, _, err := def.EncodeEvent(e); err != nil {
					problems = append(problems, fmt.Errorf("scenario %q: %w", name, err))
				}
			}
		}
	}
	return problems
}

// Scenarios returns the scenarios, sorted by name.
func (d *Definition) Scenarios() []aggregate.Example {
	var examples []aggregate.Example
	for _, name := range slices.Sorted(maps.Keys(d.scenarios)) {
		s := d.scenarios[name]
		examples = append(examples, aggregate.Example{Name: name, Run: func() error { return s.run(d) }})
	}
	return examples
}

// Uncovered returns the handlers whose event no scenario gives, in words.
func (d *Definition) Uncovered() (uncovered []string) {
	return d.scenarios.uncovered(d.handlers)
}

func (scenarios Scenarios) uncovered(handlers []handler) (uncovered []string) {
	covered := map[reflect.Type]bool{}
	for _, s := range scenarios {
		for _, g := range s.given {
			for _, e := range g.events {
				covered[reflect.TypeOf(e)] = true
			}
		}
	}
	for i, h := range handlers {
		if !covered[h.event] {
			uncovered = append(uncovered, fmt.Sprintf("handler %d, of %v,", i+1, h.event))
		}
	}
	return uncovered
}

// An Outcome is what a scenario's events become.
type Outcome struct {
	// Given is a digest of the events.
	Given string `json:"given"`
	// Rows are the rows after them, by key; nil for a memory.
	Rows map[string]json.RawMessage `json:"rows,omitzero"`
	// State is the state of a memory after them.
	State json.RawMessage `json:"state,omitempty"`
}

// Outcomes returns the outcome of each scenario, by name: what golden files are
// made of.
func (d *Definition) Outcomes() (map[string]Outcome, error) {
	outcomes := map[string]Outcome{}
	for name, s := range d.scenarios {
		rows, err := s.fold(d)
		if err != nil {
			return nil, fmt.Errorf("scenario %q: %w", name, err)
		}
		outcomes[name] = Outcome{Given: s.digest(d.catalog), Rows: rows}
	}
	return outcomes, nil
}

// digest hashes the events of a scenario that folds.
func (s Scenario) digest(c *aggregate.Catalog) string {
	h := sha256.New()
	for _, g := range s.given {
		typ, _, _ := strings.Cut(g.stream, "/")
		def, _ := c.Type(typ)
		fmt.Fprintf(h, "%s %v %q\n", g.stream, g.at, g.client)
		for _, e := range g.events {
			name, form, data, _ := def.EncodeEvent(e)
			fmt.Fprintf(h, "%s %d %s\n", name, form, data)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func (s Scenario) run(d *Definition) error {
	rows, err := s.fold(d)
	if err != nil {
		return err
	}
	again, err := s.fold(d)
	if err != nil {
		return err
	}
	if !maps.EqualFunc(rows, again, func(a, b json.RawMessage) bool { return bytes.Equal(a, b) }) {
		return fmt.Errorf("the handlers folded the same events twice, and not to the same rows: they may use only their arguments")
	}
	for _, want := range s.shows {
		got, ok := rows[want.key]
		switch {
		case want.row == "" && ok:
			return fmt.Errorf("there should be no row %q, but it is %s", want.key, got)
		case want.row != "" && !ok:
			return fmt.Errorf("there should be a row %q, but the rows are %q", want.key, slices.Sorted(maps.Keys(rows)))
		case want.row != "":
			if err := shape.CheckEqual(want.row, got); err != nil {
				return fmt.Errorf("row %q: %w", want.key, err)
			}
		}
	}
	return nil
}

// fold applies the events of a scenario. Each row goes through its stored form
// between two events, as it does where a batch ends.
func (s Scenario) fold(d *Definition) (map[string]json.RawMessage, error) {
	rows := map[string]json.RawMessage{}
	err := s.each(d.catalog, func(at At, name aggregate.EventName, event any) error { return d.foldEvent(rows, at, name, event) })
	return rows, err
}

// each calls apply with the events of a scenario, each by way of its stored form.
func (s Scenario) each(c *aggregate.Catalog, apply func(At, aggregate.EventName, any) error) error {
	versions := map[string]uint64{}
	var position uint64
	for _, g := range s.given {
		typ, id, _ := strings.Cut(g.stream, "/")
		def, _ := c.Type(typ)
		for i, event := range g.events {
			name, form, data, err := def.EncodeEvent(event)
			if err != nil {
				return err
			}
			position++
			versions[g.stream]++
			at := At{Type: typ, ID: id, Version: versions[g.stream], Position: position, Time: start.Add(time.Duration(position) * time.Second), Client: g.client}
			if !g.at.IsZero() {
				at.Time = g.at.Add(time.Duration(i) * time.Second)
			}
			value, err := def.DecodeEvent(name, form, data)
			if err != nil {
				return err
			}
			if err := apply(at, aggregate.EventName{Type: typ, Event: name}, value); err != nil {
				return fmt.Errorf("event %d of %s, %s: %w", at.Version, g.stream, name, err)
			}
		}
	}
	return nil
}

func (d *Definition) foldEvent(rows map[string]json.RawMessage, at At, name aggregate.EventName, event any) error {
	effects, err := d.Effects(at, name, event)
	if err != nil {
		return err
	}
	for _, e := range effects {
		row := d.NewRow()
		if raw, ok := rows[e.Key]; ok {
			if row, err = d.DecodeRow(raw); err != nil {
				return err
			}
		}
		d.Apply(at, e, event, row)
		if d.Gone(row) {
			delete(rows, e.Key)
			continue
		}
		if rows[e.Key], err = d.EncodeRow(row); err != nil {
			return fmt.Errorf("row %q: %w", e.Key, err)
		}
		if _, err := d.Values(row); err != nil {
			return fmt.Errorf("row %q: %w", e.Key, err)
		}
	}
	return nil
}
