package projection

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/internal/events"
	"github.com/ganglion-es/ganglion/domain/internal/shape"
)

// A Definition is a registered projection without its Go types: the processor
// and the queries work with rows and events as opaque values. A row is a *R;
// events are values of their registered types. Other values panic.
//
// A Definition is immutable once the catalog is complete, and safe for
// concurrent use. Rows are not.
type Definition struct {
	name, doc string
	segments  int
	revision  int
	indexes   [][]string
	columns   []Column // sorted by name
	row       *shape.Shape
	rowType   reflect.Type
	handlers  []handler
	scenarios Scenarios

	// Set by Link.
	linked      bool
	catalog     *aggregate.Catalog
	events      events.Index
	fingerprint string

	newRow func() any
	gone   func(row any) bool
}

type handler struct {
	event reflect.Type
	keys  func(At, any) []string
	apply func(at At, event, row any)
}

// A Source is a projection that a query reads: a *[Projection] or an *[InMemory].
type Source interface {
	// Model returns the definition without its Go types.
	Model() aggregate.Model
}

// Model makes a Definition a [Source].
func (d *Definition) Model() aggregate.Model { return d }

// Kind makes a Definition an [aggregate.Model].
func (d *Definition) Kind() string { return "projection" }

// Name returns the stored name.
func (d *Definition) Name() string { return d.name }

// Doc returns what the definition says about itself.
func (d *Definition) Doc() string { return d.doc }

// Segments returns into how many parts the work is divided.
func (d *Definition) Segments() int { return d.segments }

// Revision returns the number that the definition raises when the body of a
// handler changes.
func (d *Definition) Revision() int { return d.revision }

// Columns returns the members that queries may compare, sorted by name.
func (d *Definition) Columns() []Column { return slices.Clone(d.columns) }

// Indexes returns the lists of columns by which rows are found.
func (d *Definition) Indexes() [][]string { return slices.Clone(d.indexes) }

// RowType returns the Go type of the rows.
func (d *Definition) RowType() reflect.Type { return d.rowType }

// Fingerprint names everything that the stored rows depend on. Rows of another
// fingerprint are another build's.
func (d *Definition) Fingerprint() string { return d.fingerprint }

// Events returns the events that the projection reads, sorted.
func (d *Definition) Events() []aggregate.EventName { return d.events.Names() }

// StreamType returns the aggregate type whose ids are the keys of all rows. It
// reports false if a handler has keys of its own, by [OnKey] or [OnKeys].
func (d *Definition) StreamType() (typ string, ok bool) {
	if slices.ContainsFunc(d.handlers, func(h handler) bool { return h.keys != nil }) {
		return "", false
	}
	for name := range d.events {
		return name.Type, true // Link has seen that they are of one type
	}
	return "", false
}

// Reads reports whether the projection handles an event.
func (d *Definition) Reads(event aggregate.EventName) bool { return d.events[event] != nil }

// Linked reports whether the definition is complete and free of problems.
func (d *Definition) Linked() bool { return d.linked }

// Link finds the stored names of the events that the handlers take.
func (d *Definition) Link(c *aggregate.Catalog) (problems []error) {
	d.catalog = c
	d.events, problems = events.Lookup(c, typesOf(d.handlers))
	byID := slices.ContainsFunc(d.handlers, func(h handler) bool { return h.keys == nil })
	if types := d.events.Types(); byID && len(types) > 1 {
		problems = append(problems, fmt.Errorf("its events are of several aggregate types (%s), whose ids may be the same: give every handler its key with OnKey",
			strings.Join(types, ", ")))
	}
	problems = append(problems, d.scenarios.problems(c, false)...)
	if len(problems) > 0 {
		return problems
	}
	d.linked, d.fingerprint = true, d.fingerprintOf(c)
	return nil
}

// typesOf returns the Go types of the events that handlers take.
func typesOf(handlers []handler) (types []reflect.Type) {
	for _, h := range handlers {
		types = append(types, h.event)
	}
	return types
}

// Decode makes an event of its stored form, as the aggregate's definition does.
func (d *Definition) Decode(event aggregate.EventName, form int, data json.RawMessage) (any, error) {
	return events.Decode(d.catalog, event, form, data)
}

// An Effect is one row that an event concerns.
type Effect struct {
	Key     string
	handler int
}

// Effects returns the rows that an event concerns, in the order in which the
// handlers run. The error names a key that no row can have: keys have 1 to 402
// bytes of printable UTF-8 and do not begin with "~".
func (d *Definition) Effects(at At, name aggregate.EventName, event any) ([]Effect, error) {
	var effects []Effect
	for _, i := range d.events[name] {
		h := d.handlers[i]
		if h.keys == nil {
			effects = append(effects, Effect{at.ID, i})
			continue
		}
		first := len(effects)
		for _, key := range h.keys(at, event) {
			if err := checkKey(key); err != nil {
				return nil, err
			}
			e := Effect{key, i}
			if !slices.Contains(effects[first:], e) {
				effects = append(effects, e)
			}
		}
	}
	return effects, nil
}

// maxKeyBytes bounds a row's key: an aggregate's id with room for a second one.
const maxKeyBytes = 402

func checkKey(key string) error {
	switch {
	case key == "" || len(key) > maxKeyBytes:
		return fmt.Errorf("a row's key has 1 to %d bytes, not %d", maxKeyBytes, len(key))
	case key[0] == '~':
		return errors.New("a row's key must not begin with ~, which is reserved")
	case !utf8.ValidString(key) || strings.ContainsFunc(key, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("a row's key has printable characters only, unlike %q", key[:min(len(key), 64)])
	}
	return nil
}

// NewRow returns a zero row.
func (d *Definition) NewRow() any { return d.newRow() }

// Apply makes an effect part of its row.
func (d *Definition) Apply(at At, e Effect, event, row any) {
	d.handlers[e.handler].apply(at, event, row)
}

// Gone reports whether a row is to be deleted.
func (d *Definition) Gone(row any) bool { return d.gone(row) }

// EncodeRow returns a row as JSON. The error says why it cannot be stored.
func (d *Definition) EncodeRow(row any) (json.RawMessage, error) {
	raw, err := json.Marshal(row)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the row cannot be encoded: %v", err)
	case len(raw) > MaxRowBytes:
		return nil, fmt.Errorf("the row has %d bytes, at most %d are allowed", len(raw), MaxRowBytes)
	case bytes.Contains(raw, []byte(`\u0000`)):
		return nil, errors.New("the row holds U+0000, which the database cannot store")
	}
	return raw, nil
}

// DecodeRow is the inverse of EncodeRow. A panic of the row's type is an error.
func (d *Definition) DecodeRow(raw json.RawMessage) (row any, err error) {
	defer func() {
		if v := recover(); v != nil {
			row, err = nil, fmt.Errorf("the row cannot be decoded: panic: %v", v)
		}
	}()
	row = d.newRow()
	if err := json.Unmarshal(raw, row); err != nil {
		return nil, fmt.Errorf("the row cannot be decoded: %v", err)
	}
	return row, nil
}

// Values returns a row's values in the order of Columns, in the form that their
// kinds name, nil for an absent one.
func (d *Definition) Values(row any) ([]any, error) {
	values := make([]any, len(d.columns))
	v := reflect.ValueOf(row).Elem()
	for i, c := range d.columns {
		field := v.Field(c.field)
		if field.Kind() == reflect.Pointer {
			if field.IsNil() {
				continue
			}
			field = field.Elem()
		}
		var err error
		if values[i], err = c.convert(field); err != nil {
			return nil, err
		}
	}
	return values, nil
}
