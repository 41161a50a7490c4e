package sqlprojection

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sort"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
)

// maxName leaves room for the log's schema and the number of the build in the 63
// bytes of a name in PostgreSQL.
const maxName = 30

// A Handler says what one type of event writes. [On] makes one.
type Handler struct {
	event reflect.Type
	apply func(context.Context, pgx.Tx, projection.At, any) error
}

// Handlers are the handlers of a projection. Several may handle one event; they
// run in this order.
type Handlers []Handler

// On makes a handler of events of type E. It writes with tx alone, and must not end
// it.
func On[E any](apply func(ctx context.Context, tx pgx.Tx, at projection.At, event E) error) Handler {
	h := Handler{event: reflect.TypeFor[E]()}
	if apply != nil {
		h.apply = func(ctx context.Context, tx pgx.Tx, at projection.At, event any) error {
			return apply(ctx, tx, at, event.(E))
		}
	}
	return h
}

// SQL defines a projection that writes with SQL.
type SQL struct {
	// Name is the stored name: lower-case letters, digits and _, at most 30. No
	// other projection has it. Required.
	Name string
	// Doc says in a sentence or two what it writes, for people.
	Doc string
	// Setup are the statements that create the tables of a build. Required.
	Setup []string
	// On are the handlers. At least one.
	On Handlers
	// Revision must be raised when the body of a handler changes what it writes.
	Revision int
}

// Define registers a projection. The catalog's Err reports everything that is
// wrong with it.
func Define(c *aggregate.Catalog, s SQL) *Definition {
	d := &Definition{SQL: s}
	c.Add(d, d.problems()...)
	return d
}

func (d *Definition) problems() (problems []error) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	s := d.SQL
	wrong := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' }
	if s.Name == "" || len(s.Name) > maxName || strings.ContainsFunc(s.Name, wrong) {
		problem("the Name is no stored name: use 1 to %d lower-case letters, digits and _", maxName)
	}
	if len(s.Setup) == 0 {
		problem("Setup is missing: the statements that create its tables")
	}
	if len(s.On) == 0 {
		problem("On has no handlers, so nothing would ever be written")
	}
	for i, h := range s.On {
		if h.apply == nil {
			problem("handler %d of On, of %v, is nil", i+1, h.event)
		}
	}
	return problems
}

// A Definition is a registered projection. It is immutable once the catalog is
// complete, and safe for concurrent use.
type Definition struct {
	SQL

	// Set by Link.
	catalog     *aggregate.Catalog
	events      map[aggregate.EventName][]int // indices of handlers
	fingerprint string
}

// Kind is the [aggregate.Model] kind of these projections.
const Kind = "SQL projection"

// Kind makes a Definition an [aggregate.Model].
func (d *Definition) Kind() string { return Kind }

// Name returns the stored name.
func (d *Definition) Name() string { return d.SQL.Name }

// Model makes a Definition a [projection.Source].
func (d *Definition) Model() aggregate.Model { return d }

// Fingerprint names everything that the tables depend on besides the bodies of the
// handlers. Tables of another fingerprint are another build's.
func (d *Definition) Fingerprint() string { return d.fingerprint }

// Scenarios returns none: handlers need a database.
func (d *Definition) Scenarios() []aggregate.Example { return nil }

// Uncovered returns nothing.
func (d *Definition) Uncovered() []string { return nil }

// Link looks up the stored names of the events that the handlers take.
func (d *Definition) Link(c *aggregate.Catalog) (problems []error) {
	d.catalog, d.events = c, map[aggregate.EventName][]int{}
	for i, h := range d.On {
		names := c.EventsOf(h.event)
		if len(names) == 0 {
			problems = append(problems, fmt.Errorf("handler %d takes a %v, which no aggregate of the catalog registers as an event", i+1, h.event))
		}
		for _, name := range names {
			d.events[name] = append(d.events[name], i)
		}
	}
	if len(problems) > 0 {
		return problems
	}
	var b strings.Builder
	fmt.Fprintf(&b, "sql %q revision %d", d.Setup, d.Revision)
	names := slices.Collect(maps.Keys(d.events))
	sort.Slice(names, func(i, j int) bool { return names[i].String() < names[j].String() })
	for _, name := range names {
		def, _ := c.Type(name.Type)
		fmt.Fprintf(&b, " event %s %s %d ", name.Type, name.Event, def.Form(name.Event))
		def.DescribeEvent(&b, name.Event)
	}
	sum := sha256.Sum256([]byte(b.String()))
	d.fingerprint = hex.EncodeToString(sum[:16])
	return nil
}

// Reads reports whether the projection handles an event.
func (d *Definition) Reads(event aggregate.EventName) bool { return d.events[event] != nil }

// Decode makes an event of its stored form, as the aggregate's definition does.
func (d *Definition) Decode(event aggregate.EventName, form int, data json.RawMessage) (any, error) {
	def, ok := d.catalog.Type(event.Type)
	if !ok {
		return nil, fmt.Errorf("%w: there is no aggregate type %q", aggregate.ErrUnknownEvent, event.Type)
	}
	return def.DecodeEvent(event.Event, form, data)
}

// Apply calls the handlers of an event.
func (d *Definition) Apply(ctx context.Context, tx pgx.Tx, at projection.At, name aggregate.EventName, event any) error {
	for _, i := range d.events[name] {
		if err := d.On[i].apply(ctx, borrowed{tx}, at, event); err != nil {
			return err
		}
	}
	return nil
}

// errBorrowed reports a handler or a reader that ends a transaction.
var errBorrowed = errors.New("the transaction is not this function's to end: return an error to undo it")

// borrowed is a transaction that its user cannot end.
type borrowed struct{ pgx.Tx }

func (borrowed) Commit(context.Context) error   { return errBorrowed }
func (borrowed) Rollback(context.Context) error { return errBorrowed }

// TxReader is a [query.Reader] that reads these projections: the one of a node.
type TxReader interface {
	// TxOf returns the moment's transaction, with the search_path of a build.
	TxOf(ctx context.Context, d *Definition) (pgx.Tx, error)
}

// Tx returns a transaction that reads the tables of the build that answers, as of
// the moment of all that the Func reads. It is read only, and ends with the call.
// The query's From must name the projection. If From names two of these
// projections, a call of Tx changes the search_path to its own.
func (d *Definition) Tx(ctx context.Context, db query.Reader) (pgx.Tx, error) {
	r, ok := db.(TxReader)
	if !ok {
		return nil, errors.New("this reader has no tables of SQL projections: a scenario cannot read them")
	}
	tx, err := r.TxOf(ctx, d)
	if err != nil {
		return nil, err
	}
	return borrowed{tx}, nil
}
