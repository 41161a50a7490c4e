package process

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

// problems reports scenarios that cannot run.
func (scenarios Scenarios) problems(d *Definition) (problems []error) {
	for _, name := range slices.Sorted(maps.Keys(scenarios)) {
		for _, err := range scenarios[name].problems(d) {
			problems = append(problems, fmt.Errorf("scenario %q: %w", name, err))
		}
	}
	return problems
}

func (s Scenario) problems(d *Definition) (problems []error) {
	if len(s.steps) == 0 || !s.steps[len(s.steps)-1].checks() {
		problems = append(problems, errors.New("it is not complete: after Given it has When, Woken, Rejected or Ticked, and it ends with Sends, SendsNothing, Shows or Done"))
	}
	for i := range s.steps {
		o := &s.steps[i]
		if o.kind == stepGiven && o.checks() {
			problems = append(problems, errors.New("Sends, SendsNothing, Shows and Done belong after When, Woken, Rejected or Ticked: what Given causes is not compared"))
		}
		if o.shifts && len(o.events) == 0 {
			problems = append(problems, errors.New("At and By belong after events: the other steps have a time and a client of their own"))
		}
		if o.silent && len(o.sends) > 0 {
			problems = append(problems, errors.New("it has both Sends and SendsNothing"))
		}
		for _, c := range o.sends {
			if _, err := c.encode(d.catalog); err != nil {
				problems = append(problems, err)
			}
		}
		if err := o.problem(d); err != nil {
			problems = append(problems, err)
		}
	}
	return problems
}

// problem returns why a step cannot happen.
func (o *step) problem(d *Definition) error {
	switch o.kind {
	case stepWoken:
		if d.woken == nil {
			return errors.New("it has Woken, and the definition has none")
		}
	case stepTicked:
		if d.tick == nil {
			return errors.New("it has Ticked, which belongs to the scenarios of a schedule")
		}
	case stepRejected:
		return o.checkRejection(d)
	default:
		return o.checkEvents(d)
	}
	return nil
}

func (o *step) checkRejection(d *Definition) error {
	if d.rejected == nil {
		return errors.New("it has Rejected, and the definition has none")
	}
	typ, id, _ := strings.Cut(o.target, "/")
	if _, err := Send(typ, id, o.command).encode(d.catalog); err != nil {
		return err
	}
	if def, _ := d.catalog.Type(typ); o.rejection == nil || !def.Declares(o.rejection) {
		return fmt.Errorf("%s does not declare the rejection of Rejected: use one of its Rejections", typ)
	}
	return nil
}

func (o *step) checkEvents(d *Definition) error {
	typ, id, _ := strings.Cut(o.stream, "/")
	def, known := d.catalog.Type(typ)
	if !known || !d.catalog.HasType(typ) || checkID(id) != nil {
		return fmt.Errorf("%q is no stream of the catalog: write type/id, such as auction/42", o.stream)
	}
	for _, e := range o.events {
		name, _, _, err := def.EncodeEvent(e)
		if err != nil {
			return err
		}
		if o.kind == stepWhen && !d.Reads(aggregate.EventName{Type: typ, Event: name}) {
			return fmt.Errorf("it has When with a %T, which no handler takes", e)
		}
	}
	return nil
}

// Uncovered returns the functions that no scenario runs, in words.
func (d *Definition) Uncovered() (uncovered []string) {
	events, kinds, ends := map[reflect.Type]bool{}, map[stepKind]bool{}, false
	for _, s := range d.scenarios {
		for i := range s.steps {
			o := &s.steps[i]
			kinds[o.kind] = true
			ends = ends || o.done
			for _, e := range o.events {
				events[reflect.TypeOf(e)] = true
			}
		}
	}
	for i, h := range d.handlers {
		if !events[h.event] {
			uncovered = append(uncovered, fmt.Sprintf("handler %d, of %v,", i+1, h.event))
		}
	}
	for _, f := range []struct {
		name             string
		declared, called bool
	}{
		{"Woken", d.woken != nil, kinds[stepWoken]},
		{"Rejected", d.rejected != nil, kinds[stepRejected]},
		{"Run", d.tick != nil, kinds[stepTicked]},
		{"Done", d.canEnd, ends},
	} {
		if f.declared && !f.called {
			uncovered = append(uncovered, "the function "+f.name)
		}
	}
	return uncovered
}
