package query

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/internal/shape"
	"github.com/ganglion-es/ganglion/domain/projection"
)

const (
	// DefaultLimit is how many rows a query answers with, unless it says
	// otherwise.
	DefaultLimit = 100
	// MaxLimit bounds [Rows.Limit].
	MaxLimit = 1000
)

// A Call is what a condition may know besides the query's parameters. It has no
// clock: the answer to a live query must change only when a row does.
type Call struct {
	// Client is the id of the client that asks, "" for an anonymous client.
	Client string
	// Claims are those of the client's token, nil without one.
	Claims map[string]any
}

// Rows defines a query with parameters of type Q over the rows of a projection.
type Rows[Q, R any] struct {
	// Name is the stored name: lower-case letters, digits, - and _. Required.
	Name string
	// Doc says in a sentence or two what the query answers, for people.
	Doc string
	// Access says who may ask. Required. A RuleFunc is called with the id "".
	Access aggregate.Rule
	// From is the projection. Required.
	From *projection.Projection[R]
	// Where returns which rows the caller gets.
	//
	// Defaults to all rows.
	Where func(Call, Q) Cond
	// Order lists the columns to sort by; "-price" sorts by price, the greatest
	// first. Rows that are equal in all of them are sorted by key.
	Order []string
	// Limit is how many rows a result or a page of it has at most, up to
	// MaxLimit.
	//
	// Defaults to DefaultLimit.
	Limit int
	// Scenarios show what the query answers. At least one.
	Scenarios Scenarios[Q]
}

// A Form is a way to define a query: [Rows] or [Func].
type Form interface {
	define() (*Definition, []error)
}

// Define registers a query. The catalog's Err reports everything that is wrong
// with it.
func Define(c *aggregate.Catalog, q Form) *Definition {
	d, problems := q.define()
	c.Add(d, problems...)
	return d
}

func (q Rows[Q, R]) define() (*Definition, []error) {
	d := &Definition{
		name: q.Name, doc: q.Doc, access: q.Access, order: q.Order, limit: q.Limit, uncovered: len(q.Scenarios) == 0,
		where: func(Call, any) Cond { return Cond{} },
	}
	if q.Where != nil {
		d.where = func(call Call, params any) Cond { return q.Where(call, params.(Q)) }
	}
	if d.limit == 0 {
		d.limit = DefaultLimit
	}
	problems := d.defineCommon(reflect.TypeFor[Q]())
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if d.limit < 1 || d.limit > MaxLimit {
		problem("Limit is %d: use 1 to %d", d.limit, MaxLimit)
	}
	if q.From == nil {
		problem("From is missing: name the projection that it reads")
	} else {
		d.from = q.From.Definition
	}
	d.examples = q.Scenarios.examples(d)
	d.samples = func() map[string][]json.RawMessage { return q.Scenarios.samples(d) }
	return d, problems
}

// defineCommon defines what all forms have.
func (d *Definition) defineCommon(params reflect.Type) (problems []error) {
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if err := shape.CheckName(d.name); err != nil {
		problem("the Name %w", err)
	}
	compiler := shape.Compiler{Named: true}
	d.params = compiler.CompileRow(params)
	problems = append(problems, compiler.Problems...)
	if f, isFunc := d.access.(aggregate.RuleFunc); d.access == nil || isFunc && f == nil || d.access == aggregate.Self {
		problem("Access is missing: say who may ask (aggregate.Anyone, Authenticated or a RuleFunc); what depends on the row is decided by Where or Answer")
	}
	return problems
}

// A Definition is a registered query without its Go types. It is immutable once
// the catalog is complete, and safe for concurrent use.
type Definition struct {
	name, doc string
	access    aggregate.Rule
	from      *projection.Definition
	params    *shape.Shape
	where     func(Call, any) Cond
	order     []string
	limit     int
	examples  []aggregate.Example
	samples   func() map[string][]json.RawMessage
	uncovered bool

	// Of a Func.
	answer  func(context.Context, Call, any, Reader) (any, error)
	sources []aggregate.Model
	timeout time.Duration
	result  *shape.Shape

	// Set by Link.
	columns []projection.Column
	sorting []Order
}

// Kind makes a Definition an [aggregate.Model].
func (d *Definition) Kind() string { return "query" }

// Name returns the stored name.
func (d *Definition) Name() string { return d.name }

// Doc returns what the definition says about itself.
func (d *Definition) Doc() string { return d.doc }

// From returns the projection that the query reads, nil for a Func.
func (d *Definition) From() *projection.Definition { return d.from }

// Allows reports whether a caller may ask.
func (d *Definition) Allows(c aggregate.Caller) bool { return d.access.Allows(c, "") }

// Scenarios returns the scenarios, sorted by name.
func (d *Definition) Scenarios() []aggregate.Example { return d.examples }

// Uncovered returns what no scenario shows, in words.
func (d *Definition) Uncovered() []string {
	if d.uncovered {
		return []string{"the query"}
	}
	return nil
}

// Link checks the columns of the order and of the condition.
func (d *Definition) Link(*aggregate.Catalog) (problems []error) {
	if d.IsFunc() {
		return nil
	}
	d.columns = d.from.Columns()
	d.sorting, problems = orders(d.from, d.columns, d.order)
	if err := d.checkColumns(); err != nil {
		problems = append(problems, err)
	}
	return problems
}

// orders looks up the columns of an order.
func orders(from *projection.Definition, columns []projection.Column, names []string) (sorting []Order, problems []error) {
	for _, name := range names {
		column, descending := strings.CutPrefix(name, "-")
		i := slices.IndexFunc(columns, func(c projection.Column) bool { return c.Name == column })
		switch {
		case i < 0:
			problems = append(problems, fmt.Errorf("the Order has %q, which no index of projection %q names", column, from.Name()))
		case slices.ContainsFunc(sorting, func(o Order) bool { return o.Column == i }):
			problems = append(problems, fmt.Errorf("the Order has %q twice", column))
		default:
			sorting = append(sorting, Order{Column: i, Descending: descending})
		}
	}
	return sorting, problems
}

// checkColumns compiles the condition for zero and for sample parameters, with
// what If switches off, so that a wrong column is found when it is defined.
func (d *Definition) checkColumns() (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("the Where function panics: %v", v)
		}
	}()
	for _, params := range []any{reflect.Zero(d.params.Type()).Interface(), d.params.Sample()} {
		if _, err := d.where(Call{}, params).compile(d.columns, true); err != nil {
			return fmt.Errorf("in Where: %w", err)
		}
	}
	return nil
}

// Check reports what is wrong with the parameters that a client sent, and with
// which member.
func (d *Definition) Check(data json.RawMessage) (field string, err error) {
	err = d.params.Check(orEmpty(data))
	if wrong, ok := errors.AsType[*aggregate.DataError](err); ok {
		return wrong.Field, err
	}
	return "", err
}

func orEmpty(data json.RawMessage) json.RawMessage {
	if len(data) == 0 {
		return json.RawMessage("{}")
	}
	return data
}

// A Question is a query with its parameters and its caller: two questions with
// the same Filter, Order and Limit about one projection have the same answer.
type Question struct {
	Filter Filter
	Order  []Order
	Limit  int
}

// Question compiles the query for a caller and parameters. The error is a
// *[aggregate.DataError] for parameters that are not exactly the query's, and
// otherwise a fault of the application.
func (d *Definition) Question(call Call, data json.RawMessage) (Question, error) {
	if d.IsFunc() {
		return Question{}, fmt.Errorf("query %q is a Func, which is no question about rows", d.name)
	}
	params, err := d.params.DecodeStrict(data)
	if err != nil {
		return Question{}, err
	}
	filter, err := d.where(call, params.Interface()).compile(d.columns, false)
	if err != nil {
		return Question{}, fmt.Errorf("query %q: Where: %w", d.name, err)
	}
	return Question{Filter: filter, Order: d.sorting, Limit: d.limit}, nil
}
