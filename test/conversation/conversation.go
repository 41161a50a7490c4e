// Package conversation plays scripted conversations between a client library
// and a gateway. The scripts and their format are in
// ../../proto/testdata/conversations. Every client library plays all of them.
//
// [Play] executes the steps of a script in order. It plays the gateway on a real
// WebSocket connection, and passes the steps of the application to a [Driver],
// which calls the client library and compares the application's observations.
// The driver owns the client's clock, which only the script advances, so no test
// waits for a backoff.
//
// Package frame parses every frame of scripts and clients. A frame that is not
// part of the protocol fails the conversation.
package conversation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Script is one conversation.
type Script struct {
	Name        string `json:"-"`
	Description string `json:"description"`
	// Connect has the options of the client.
	Connect json.RawMessage `json:"connect"`
	Steps   []Step          `json:"steps"`
}

// Step is one step of a script: a verb with its argument.
type Step struct {
	Verb string
	Body json.RawMessage
}

// UnmarshalJSON reads an object with one member.
func (s *Step) UnmarshalJSON(text []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return err
	}
	if len(members) != 1 {
		return fmt.Errorf("a step has one verb: %s", text)
	}
	for s.Verb, s.Body = range members {
	}
	return nil
}

// MarshalJSON writes the form that UnmarshalJSON reads.
func (s Step) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]json.RawMessage{s.Verb: s.Body})
}

func (s Step) String() string {
	text, err := s.MarshalJSON()
	if err != nil {
		return s.Verb
	}
	return string(text)
}

// Driver is the application's side of a conversation.
type Driver interface {
	// Open opens a client of the gateway at url with the options of the script.
	Open(ctx context.Context, url string, connect json.RawMessage) error
	// Do executes one step of the application: call, read, observe, advance or
	// wake. A step "observe" waits until there is something to compare.
	Do(ctx context.Context, step Step) error
	// Close closes the client. It returns an error if the application has
	// observations that the script did not ask for.
	Close(ctx context.Context) error
}

// The verbs of the application. Those of the gateway are in gateway.go.
var applicationVerbs = []string{"call", "read", "observe", "advance", "wake"}

// Load reads a script.
func Load(file string) (Script, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Script{}, err
	}
	s := Script{Name: strings.TrimSuffix(filepath.Base(file), ".json")}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return Script{}, fmt.Errorf("%s: %w", file, err)
	}
	for i, step := range s.Steps {
		if _, ok := gatewayVerbs[step.Verb]; !ok && !slices.Contains(applicationVerbs, step.Verb) {
			return Script{}, fmt.Errorf("%s: step %d: unknown verb %q", file, i+1, step.Verb)
		}
	}
	if s.Description == "" || len(s.Connect) == 0 || len(s.Steps) == 0 {
		return Script{}, fmt.Errorf("%s: description, connect and steps are required", file)
	}
	return s, nil
}

// stepWithin bounds one step in real time. No step waits for a timer, so only a
// busy machine needs more than milliseconds.
const stepWithin = 20 * time.Second

// Play plays a script. The gateway listens on l, and closes it at the end. The
// error names the failed step.
func Play(ctx context.Context, l net.Listener, s Script, d Driver) (err error) {
	g := newGateway(l)
	defer g.stop()
	bound := variables{}
	do := func(name string, f func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, stepWithin)
		defer cancel()
		if err := f(ctx); err != nil {
			return fmt.Errorf("%s: %s: %w", s.Name, name, err)
		}
		return nil
	}
	if err := do("connect", func(ctx context.Context) error { return d.Open(ctx, g.url(), s.Connect) }); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, do("end", d.Close))
	}()
	for i, step := range s.Steps {
		name := fmt.Sprintf("step %d, %s", i+1, step)
		err := do(name, func(ctx context.Context) error {
			if verb, ok := gatewayVerbs[step.Verb]; ok {
				return verb(ctx, g, step.Body, bound)
			}
			body, err := bound.fill(step.Body)
			if err != nil {
				return err
			}
			return d.Do(ctx, Step{Verb: step.Verb, Body: body})
		})
		if err != nil {
			return err
		}
	}
	return do("end", func(context.Context) error { return g.unexpected() })
}

// variables maps a name in the script, such as "$key", to the value that the
// client's frame has in that place.
type variables map[string]any

func variable(v any) (string, bool) {
	s, ok := v.(string)
	return s, ok && strings.HasPrefix(s, "$")
}

// fill replaces the names in text with their values.
func (b variables) fill(text json.RawMessage) (json.RawMessage, error) {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, err
	}
	v, err := b.filled(v)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

func (b variables) filled(v any) (any, error) {
	var err error
	switch v := v.(type) {
	case []any:
		for i := range v {
			if v[i], err = b.filled(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for k := range v {
			if v[k], err = b.filled(v[k]); err != nil {
				return nil, err
			}
		}
	}
	if name, ok := variable(v); ok {
		value, bound := b[name]
		if !bound {
			return nil, fmt.Errorf("%s has no value yet", name)
		}
		return value, nil
	}
	return v, nil
}

// match compares a frame with the script's frame. Both must have the same
// members. "*" matches any value. A name that has a value matches that value;
// another name gets the frame's value.
func (b variables) match(want, got any, at string) error {
	if want == "*" {
		return nil
	}
	if name, ok := variable(want); ok {
		if value, bound := b[name]; bound {
			want = value
		} else {
			for other, value := range b {
				if value == got {
					return fmt.Errorf("%s: %s has the value of %s, %v", at, name, other, got)
				}
			}
			b[name] = got
			return nil
		}
	}
	switch want := want.(type) {
	case map[string]any:
		got, ok := got.(map[string]any)
		if !ok {
			return fmt.Errorf("%s is not an object", at)
		}
		for _, k := range slices.Sorted(maps.Keys(want)) {
			value, ok := got[k]
			if !ok {
				return fmt.Errorf("%s has no %s", at, k)
			}
			if err := b.match(want[k], value, at+"."+k); err != nil {
				return err
			}
		}
		for k := range got {
			if _, ok := want[k]; !ok {
				return fmt.Errorf("%s has an unexpected %s", at, k)
			}
		}
		return nil
	case []any:
		got, ok := got.([]any)
		if !ok || len(got) != len(want) {
			return fmt.Errorf("%s is not a list of length %d", at, len(want))
		}
		for i := range want {
			if err := b.match(want[i], got[i], fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
		return nil
	}
	if want != got {
		return fmt.Errorf("%s is %v, want %v", at, got, want)
	}
	return nil
}
