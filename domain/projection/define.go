package projection

import (
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/internal/events"
	"github.com/ganglion-es/ganglion/domain/internal/shape"
)

const (
	// MaxRowBytes bounds the JSON of one row: a query may return 1,000 of them.
	MaxRowBytes = 16 << 10
	// MaxSegments bounds [Table.Segments].
	MaxSegments = 64
	// maxIndexes and maxIndexColumns bound what each changed row costs.
	maxIndexes      = 8
	maxIndexColumns = 4
	// maxColumnName leaves room in the 63 bytes of a name in PostgreSQL.
	maxColumnName = 50
)

// At is where an event stands: what a handler may know besides the event and
// the row.
type At struct {
	// Type and ID are the stream's: "auction" and "42" of auction/42.
	Type, ID string
	// Version counts the stream's events, Position the log's, from 1.
	Version, Position uint64
	// Time is when the event's command was decided, in UTC at microseconds.
	Time time.Time
	// Client is the id of the client that sent the command, "" for an anonymous
	// client.
	Client string
}

// A Handler says what one type of event does to rows of type R. [On], [OnKey]
// and [OnKeys] make one.
type Handler[R any] struct {
	event reflect.Type
	keys  func(At, any) []string // nil: the stream's id
	apply func(At, any, *R)
}

// Handlers are the handlers of a projection. Several may handle one event; they
// run in this order.
type Handlers[R any] []Handler[R]

// On makes a handler of events of type E, for the row whose key is the stream's
// id.
func On[E, R any](apply func(At, E, *R)) Handler[R] {
	h := Handler[R]{event: reflect.TypeFor[E]()}
	if apply != nil {
		h.apply = func(at At, event any, row *R) { apply(at, event.(E), row) }
	}
	return h
}

// OnKey makes a handler of events of type E, for the row with the key that the
// function returns. An empty key means no row.
func OnKey[E, R any](key func(At, E) string, apply func(At, E, *R)) Handler[R] {
	return OnKeys(func(at At, event E) []string {
		if k := key(at, event); k != "" {
			return []string{k}
		}
		return nil
	}, apply)
}

// OnKeys is [OnKey] for events that concern several rows. The handler runs once
// for each distinct key.
func OnKeys[E, R any](keys func(At, E) []string, apply func(At, E, *R)) Handler[R] {
	h := On(apply)
	h.keys = func(at At, event any) []string { return keys(at, event.(E)) }
	return h
}

// A Table defines a projection whose rows have the type R, a struct whose
// members all have json tags.
type Table[R any] struct {
	// Name is the stored name: lower-case letters, digits, - and _. Required.
	Name string
	// Doc says in a sentence or two what a row is, for people.
	Doc string
	// On are the handlers. At least one.
	On Handlers[R]
	// Gone reports whether a row is to be deleted.
	//
	// Defaults to never.
	Gone func(R) bool
	// Indexes are the lists of members by which queries find and order rows.
	// An index serves conditions on its first members, and an order by the
	// members that follow.
	Indexes [][]string
	// Segments is into how many parts the work is divided, by the row's key,
	// from 1 to MaxSegments. With more than one, an event that concerns two
	// rows can be seen in one of them before the other.
	//
	// Defaults to 1.
	Segments int
	// Revision must be raised when the body of a handler changes its outcome.
	Revision int
	// Scenarios show what the handlers do. Each handled event has at least one.
	Scenarios Scenarios
}

// A Projection is a defined projection with rows of type R.
type Projection[R any] struct{ *Definition }

// Define registers a projection. The catalog's Err reports everything that is
// wrong with it; Define then returns a projection that no query can use.
func Define[R any](c *aggregate.Catalog, t Table[R]) *Projection[R] {
	d, problems := t.define()
	c.Add(d, problems...)
	return &Projection[R]{d}
}

func (t Table[R]) define() (*Definition, []error) {
	d := &Definition{
		name: t.Name, doc: t.Doc, segments: max(1, t.Segments), revision: t.Revision,
		indexes: t.Indexes, scenarios: t.Scenarios,
		rowType: reflect.TypeFor[R](),
		newRow:  func() any { return new(R) },
		gone:    func(any) bool { return false },
	}
	if t.Gone != nil {
		d.gone = func(row any) bool { return t.Gone(*row.(*R)) }
	}
	var problems []error
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if err := shape.CheckName(t.Name); err != nil {
		problem("the Name %w", err)
	}
	if t.Segments < 0 || t.Segments > MaxSegments {
		problem("Segments is %d: use 1 to %d", t.Segments, MaxSegments)
	}
	compiler := shape.Compiler{Named: true}
	d.row = compiler.CompileRow(d.rowType)
	problems = append(problems, compiler.Problems...)
	if d.row != nil {
		problems = append(problems, d.defineColumns()...)
	}
	if len(t.On) == 0 {
		problem("On has no handlers, so there would never be a row")
	}
	for i, h := range t.On {
		if h.apply == nil {
			problem("handler %d of On, of %v, is nil", i+1, h.event)
			continue
		}
		d.handlers = append(d.handlers, handler{
			event: h.event, keys: h.keys,
			apply: func(at At, event, row any) { h.apply(at, event, row.(*R)) },
		})
	}
	return d, problems
}

// defineColumns makes the columns of the members that the indexes name.
func (d *Definition) defineColumns() (problems []error) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if len(d.indexes) > maxIndexes {
		problem("there are %d Indexes, at most %d are allowed", len(d.indexes), maxIndexes)
	}
	for i, index := range d.indexes {
		if len(index) == 0 || len(index) > maxIndexColumns {
			problem("index %d has %d members: use 1 to %d", i+1, len(index), maxIndexColumns)
		}
		for j, name := range index {
			switch {
			case slices.Contains(index[:j], name):
				problem("index %d names %q twice", i+1, name)
			case !slices.ContainsFunc(d.columns, func(c Column) bool { return c.Name == name }):
				c, err := d.column(name)
				if err != nil {
					problem("index %d: %w", i+1, err)
					continue
				}
				d.columns = append(d.columns, c)
			}
		}
	}
	sort.Slice(d.columns, func(i, j int) bool { return d.columns[i].Name < d.columns[j].Name })
	return problems
}

func (d *Definition) column(name string) (Column, error) {
	var names []string
	for f := range d.rowType.Fields() {
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if tag != name {
			names = append(names, tag)
			continue
		}
		if len(name) > maxColumnName {
			return Column{}, fmt.Errorf("member %q has a name of %d bytes, and a column has at most %d", name, len(name), maxColumnName)
		}
		kind, nullable, err := kindOf(f.Type)
		if err != nil {
			return Column{}, fmt.Errorf("member %q: %w", name, err)
		}
		return Column{Name: name, Kind: kind, Nullable: nullable, field: f.Index[0]}, nil
	}
	return Column{}, fmt.Errorf("%s has no member %q: use %s", d.rowType, name, strings.Join(names, ", "))
}

// fingerprintOf hashes everything that the stored rows depend on, besides the
// bodies of the handlers.
func (d *Definition) fingerprintOf(c *aggregate.Catalog) string {
	var b strings.Builder
	d.row.Describe(&b)
	fmt.Fprintf(&b, " indexes %q segments %d revision %d", d.indexes, d.segments, d.revision)
	d.events.Describe(&b, c)
	return events.Digest(b.String())
}
