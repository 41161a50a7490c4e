package aggregate

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/ganglion-es/ganglion/domain/internal/shape"
)

// Rejections are the rejections of a type, one for each code. They are part of the
// contract with clients. A rejection with a code that is not among them fails a
// scenario; at run time it is logged, and clients get it as it is.
type Rejections []*Rejection

// problems returns what is wrong with the declared rejections.
func (r Rejections) problems() (problems []error) {
	codes := map[string]bool{}
	for i, one := range r {
		switch {
		case one == nil:
			problems = append(problems, fmt.Errorf("rejection %d of Rejections is nil", i+1))
			continue
		case codes[one.Code]:
			problems = append(problems, fmt.Errorf("Rejections has the code %q twice", one.Code))
		}
		codes[one.Code] = true
		if err := checkCode(one.Code); err != nil {
			problems = append(problems, err)
		}
	}
	return problems
}

func checkCode(code string) error {
	if err := shape.CheckName(code); err != nil || strings.Contains(code, "-") {
		return fmt.Errorf("the rejection has the code %q: use lower-case letters, digits and _", code)
	}
	return nil
}

// messages returns the message of each code.
func (r Rejections) messages() map[string]string {
	messages := map[string]string{}
	for _, one := range r {
		if one != nil {
			messages[one.Code] = one.Message
		}
	}
	return messages
}

// Rejections returns the type's declared codes, and a message of each.
func (d *Definition) Rejections() map[string]string { return maps.Clone(d.rejections) }

// checkRejection returns an error if the code of a rejection is invalid or not
// declared.
func (d *Definition) checkRejection(r *Rejection) error {
	if err := checkCode(r.Code); err != nil {
		return err
	}
	if !d.Declares(r) {
		return fmt.Errorf("the command is rejected with %q, which is not declared: add it to the Rejections of %s", r.Code, d.name)
	}
	return nil
}

// Declares reports whether a rejection has a declared code.
func (d *Definition) Declares(r *Rejection) bool {
	_, ok := d.rejections[r.Code]
	return ok
}

// uncoveredRejections names the rejections that no scenario shows.
func (scenarios Scenarios[S]) uncoveredRejections(d *Definition) (uncovered []string) {
	for _, code := range slices.Sorted(maps.Keys(d.rejections)) {
		shown := false
		for _, s := range scenarios {
			shown = shown || s.reject != nil && s.reject.Code == code
		}
		if !shown {
			uncovered = append(uncovered, fmt.Sprintf("rejection %q", code))
		}
	}
	return uncovered
}

// checkValues returns an error for an event that has a value which its type does not
// declare.
func (d *Definition) checkValues(event any) error {
	e := d.eventTypes[reflect.TypeOf(event)]
	if e == nil {
		return nil
	}
	if err := e.shape.Undeclared(reflect.ValueOf(event)); err != nil {
		return fmt.Errorf("event %s: %w", e.name, err)
	}
	return nil
}

// checkView does the same for what clients see of a state.
func (d *Definition) checkView(state any) error {
	err := d.viewShape().Undeclared(reflect.ValueOf(d.view(state)))
	if wrong, ok := errors.AsType[*DataError](err); ok {
		return fmt.Errorf("clients see %w; if that is before it is set, declare \"\" too, or omit it with omitzero", wrong)
	}
	return err
}
