package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/engine/internal/planner"
	"github.com/ganglion-es/ganglion/engine/internal/processor"
	"github.com/ganglion-es/ganglion/engine/sqlprojection"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
)

// Bounds of the Funcs that run on a node. One that reads tables holds one of the
// few connections for reading rows, which the other queries use too.
const (
	funcsReadingRows = 2
	funcsInMemory    = 64
	funcsWaiting     = 256
)

// funcs bounds the Funcs that run.
type funcs struct {
	rows, memory, waiting chan struct{}
}

func newFuncs() funcs {
	return funcs{
		rows: make(chan struct{}, funcsReadingRows), memory: make(chan struct{}, funcsInMemory), waiting: make(chan struct{}, funcsWaiting),
	}
}

// sources are what a Func reads.
type sources struct {
	q        *Queries
	tables   map[aggregate.Model]rows.Table
	memories []*projection.MemoryDefinition
}

// askFunc answers a question with a Func.
func (q *Queries) askFunc(ctx context.Context, d *query.Definition, question ask.Question) (ask.Answer, *command.Failure) {
	if question.After != "" {
		return ask.Answer{}, command.BadRequest("after", "query %q has no pages", d.Name())
	}
	if field, err := d.Check(question.Data); err != nil {
		return ask.Answer{}, command.BadRequest(field, "%v", err)
	}
	ctx, cancel := context.WithTimeout(ctx, d.Timeout())
	defer cancel()
	from, failure := q.sources(ctx, d, question.AtLeast)
	if failure != nil {
		return ask.Answer{}, failure
	}
	release, failure := q.funcs.acquire(ctx, d, len(from.tables) > 0)
	if failure != nil {
		return ask.Answer{}, failure
	}
	type outcome struct {
		answer ask.Answer
		err    error
	}
	done := make(chan outcome, 1)
	go func() { // a Func that ignores ctx keeps its place, not its caller
		defer release()
		var o outcome
		o.err = guarded(func() (err error) {
			o.answer, err = from.call(ctx, d, question)
			return err
		})
		done <- o
	}()
	select {
	case o := <-done:
		if o.err != nil {
			return ask.Answer{}, q.funcFailure(d, o.err)
		}
		return o.answer, nil
	case <-ctx.Done():
		return ask.Answer{}, command.Timeout(command.RetryLater, "query %q was not answered in time: retry", d.Name())
	}
}

// acquire waits for a place among the Funcs that run.
func (f funcs) acquire(ctx context.Context, d *query.Definition, readsRows bool) (release func(), failure *command.Failure) {
	places := f.memory
	if readsRows {
		places = f.rows
	}
	select {
	case f.waiting <- struct{}{}:
		defer func() { <-f.waiting }()
	default:
		return nil, command.Busy("too many queries that are answered by code are waiting on this node: retry")
	}
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	case <-ctx.Done():
		return nil, command.Busy("query %q waited in vain for other queries that are answered by code: retry", d.Name())
	}
}

// sources finds what a Func reads, and waits until all of it shows a position.
func (q *Queries) sources(ctx context.Context, d *query.Definition, atLeast eventstore.Position) (sources, *command.Failure) {
	s := sources{q: q, tables: map[aggregate.Model]rows.Table{}}
	for _, m := range d.Sources() {
		var table rows.Table
		var err error
		switch m := m.(type) {
		case *projection.MemoryDefinition:
			if failure := q.awaitMemory(ctx, d, m, atLeast); failure != nil {
				return s, failure
			}
			s.memories = append(s.memories, m)
			continue
		case *projection.Definition:
			table, err = q.awaitServing(ctx, m)
		case *sqlprojection.Definition:
			table, err = q.servingOf(ctx, m.Name(), m.Fingerprint(), func() rows.Spec { return processor.SpecOfSQL(m) })
		default:
			err = fmt.Errorf("%w: a %T", errForeign, m)
		}
		switch {
		case err != nil:
			return s, q.failure(d, err)
		case table == nil:
			return s, building(m.Name())
		}
		if failure := q.await(ctx, d, table, atLeast); failure != nil {
			return s, failure
		}
		s.tables[m] = table
	}
	return s, nil
}

func (q *Queries) awaitMemory(ctx context.Context, d *query.Definition, m *projection.MemoryDefinition, atLeast eventstore.Position) *command.Failure {
	if q.cfg.Projections == nil {
		return command.Unavailable("this gateway keeps no state of projection %q: ask another one", m.Name())
	}
	if atLeast == 0 {
		return nil // the Func finds out whether there is a state
	}
	at, err := q.cfg.Projections.memories.Await(ctx, m, atLeast)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return tooEarly(d, at, atLeast)
	}
	return q.funcFailure(d, err)
}

// call runs a Func in one moment of its tables.
func (s sources) call(ctx context.Context, d *query.Definition, question ask.Question) (a ask.Answer, err error) {
	call := query.Call{Client: question.Client, Claims: question.Claims}
	r := &reader{sources: s}
	run := func() error {
		position, err := r.position(ctx)
		if err != nil {
			return err
		}
		a.Position, a.Blocked = position, r.blocked
		a.Value, err = d.Answer(ctx, call, question.Data, r)
		return err
	}
	if len(s.tables) == 0 {
		err = run()
		return a, err
	}
	err = s.q.cfg.Rows.Read(ctx, func(m rows.Moment) error {
		r.moment = m
		return run()
	})
	return a, err
}

// reader implements query.Reader.
type reader struct {
	sources
	moment  rows.Moment // nil without tables
	blocked int
}

// position returns up to where all sources show the log. It begins the moment.
func (r *reader) position(ctx context.Context) (eventstore.Position, error) {
	var list []eventstore.Position
	for _, table := range r.tables {
		a, err := r.moment.Ask(ctx, table, rows.Question{Limit: 1})
		if err != nil {
			return 0, err
		}
		r.blocked += a.Blocked
		list = append(list, lowest(a.Checkpoints))
	}
	for _, m := range r.memories {
		if err := r.ReadMemory(m, func(_ any, at uint64) { list = append(list, eventstore.Position(at)) }); err != nil {
			return 0, err
		}
	}
	at := list[0] // a Func has at least one source
	for _, p := range list {
		at = min(at, p)
	}
	return at, nil
}

// errForeign reports a Func that reads what its From does not name.
var errForeign = errors.New("the query reads a projection that its From does not name")

// ReadMemory implements projection.Memories.
func (r *reader) ReadMemory(d *projection.MemoryDefinition, read func(state any, position uint64)) error {
	for _, m := range r.memories {
		if m == d {
			return r.q.cfg.Projections.ReadMemory(d, read)
		}
	}
	return errForeign
}

// LoadRows implements query.Reader.
func (r *reader) LoadRows(ctx context.Context, from *projection.Definition, keys []string) ([]query.Row, error) {
	table := r.tables[from]
	if table == nil {
		return nil, errForeign
	}
	list, err := r.moment.Load(ctx, table, keys)
	return rowsOf(list), err
}

// AskRows implements query.Reader.
func (r *reader) AskRows(ctx context.Context, from *projection.Definition, q query.Question, after *query.Row) ([]query.Row, error) {
	table := r.tables[from]
	if table == nil {
		return nil, errForeign
	}
	asked := planner.Question(q)
	if after != nil {
		asked.After = &rows.Row{Key: after.Key, Values: after.Values}
	}
	a, err := r.moment.Ask(ctx, table, asked)
	return rowsOf(a.Rows), err
}

// TxOf implements sqlprojection.TxReader.
func (r *reader) TxOf(ctx context.Context, d *sqlprojection.Definition) (pgx.Tx, error) {
	table := r.tables[d]
	if table == nil {
		return nil, errForeign
	}
	m, ok := r.moment.(interface {
		Tx(ctx context.Context, t rows.Table) (pgx.Tx, error)
	})
	if !ok {
		return nil, fmt.Errorf("projection %q needs PostgreSQL", d.Name())
	}
	return m.Tx(ctx, table)
}

func rowsOf(list []rows.Row) []query.Row {
	result := make([]query.Row, len(list))
	for i, r := range list {
		result[i] = query.Row{Key: r.Key, Data: json.RawMessage(r.Data)}
	}
	return result
}

// funcFailure turns the error of a Func into a failure.
func (q *Queries) funcFailure(d *query.Definition, err error) *command.Failure {
	if r, ok := errors.AsType[*aggregate.Rejection](err); ok {
		return command.Rejected(r.Code, r.Message)
	}
	if errors.Is(err, projection.ErrNotCurrent) {
		f := command.Unavailable("query %q cannot be answered on this node: %v: retry later", d.Name(), projection.ErrNotCurrent)
		f.After, f.Cause = askRetry, err.Error()
		return f
	}
	return q.failure(d, err)
}
