package query

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/internal/shape"
	"github.com/ganglion-es/ganglion/domain/projection"
)

const (
	// DefaultTimeout and MaxTimeout bound the time of a [Func].
	DefaultTimeout = 5 * time.Second
	MaxTimeout     = 30 * time.Second
	// MaxAnswerBytes bounds the JSON of a Func's answer.
	MaxAnswerBytes = 1 << 20
)

// From lists the projections that a [Func] reads: a *projection.Projection or a
// *projection.InMemory.
type From []projection.Source

// Func defines a query with parameters of type Q that Go code answers with an A,
// for what conditions cannot say: sums, joins of several projections, states in
// memory. It is answered once; clients cannot subscribe to it.
type Func[Q, A any] struct {
	// Name is the stored name: lower-case letters, digits, - and _. Required.
	Name string
	// Doc says in a sentence or two what the query answers, for people.
	Doc string
	// Access says who may ask. Required. A RuleFunc is called with the id "".
	Access aggregate.Rule
	// From lists what Answer reads. Required.
	From From
	// Answer returns the answer. Rows of all tables in From are those of one
	// moment. It runs on many goroutines, and may use only its arguments; it must
	// return when ctx ends. An *[aggregate.Rejection] is sent to the caller; other
	// errors are logged, and the caller learns only that the query failed. Required.
	Answer func(ctx context.Context, call Call, q Q, db Reader) (A, error)
	// Timeout bounds the time of Answer, up to MaxTimeout. While it runs it holds a
	// connection to the database, if From has a table.
	//
	// Defaults to DefaultTimeout.
	Timeout time.Duration
	// Scenarios show what the query answers. At least one.
	Scenarios Scenarios[Q]
}

func (q Func[Q, A]) define() (*Definition, []error) {
	d := &Definition{name: q.Name, doc: q.Doc, access: q.Access, timeout: q.Timeout, uncovered: len(q.Scenarios) == 0}
	problems := d.defineCommon(reflect.TypeFor[Q]())
	problem := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	compiler := shape.Compiler{Named: true}
	d.result = compiler.Compile(reflect.TypeFor[A](), "the answer")
	problems = append(problems, compiler.Problems...)
	if d.timeout == 0 {
		d.timeout = DefaultTimeout
	}
	if d.timeout < 0 || d.timeout > MaxTimeout {
		problem("Timeout is %v: use at most %v", d.timeout, MaxTimeout)
	}
	if len(q.From) == 0 {
		problem("From is missing: name the projections that it reads")
	}
	for i, s := range q.From {
		if s == nil || reflect.ValueOf(s).IsNil() {
			problem("projection %d of From is nil", i+1)
			continue
		}
		d.sources = append(d.sources, s.Model())
	}
	// Even without a function the definition must know that it is a Func.
	d.answer = func(context.Context, Call, any, Reader) (any, error) { return nil, errors.New("there is no Answer") }
	if q.Answer == nil {
		problem("Answer is missing: the function that answers")
	} else {
		d.answer = func(ctx context.Context, call Call, params any, db Reader) (any, error) {
			return q.Answer(ctx, call, params.(Q), db)
		}
	}
	d.examples = q.Scenarios.examples(d)
	d.samples = func() map[string][]json.RawMessage { return q.Scenarios.samples(d) }
	return d, problems
}

// IsFunc reports whether the query is a [Func]. Only Answer, Sources and Timeout
// are of use then, and neither From nor Question.
func (d *Definition) IsFunc() bool { return d.answer != nil }

// Sources returns what a Func reads.
func (d *Definition) Sources() []aggregate.Model { return d.sources }

// Timeout bounds the time of a Func's Answer.
func (d *Definition) Timeout() time.Duration { return d.timeout }

// Answer calls a Func and returns its answer as JSON. The error is a
// *[aggregate.DataError] for parameters that are not exactly the query's, one
// that Answer has returned, or a fault of the application. A panic of Answer
// panics through this method.
func (d *Definition) Answer(ctx context.Context, call Call, data json.RawMessage, db Reader) (json.RawMessage, error) {
	params, err := d.params.DecodeStrict(data)
	if err != nil {
		return nil, err
	}
	a, err := d.answer(ctx, call, params.Interface(), db)
	if err != nil {
		return nil, err
	}
	raw, err := json.Marshal(a)
	switch {
	case err != nil:
		return nil, fmt.Errorf("the answer has no JSON form: %v", err)
	case len(raw) > MaxAnswerBytes:
		return nil, fmt.Errorf("the answer has %d bytes, at most %d are allowed", len(raw), MaxAnswerBytes)
	}
	return raw, nil
}
