package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/engine/internal/live"
	"github.com/ganglion-es/ganglion/engine/internal/planner"
	"github.com/ganglion-es/ganglion/engine/internal/processor"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
)

const (
	// buildsEvery is how long Queries uses a build before it looks for a newer
	// one.
	buildsEvery = time.Second
	// buildPatience is the default of Queries.patience. On a new log the first build
	// takes less than a second.
	buildPatience = 2 * time.Second
	// buildEvery is how often it looks.
	buildEvery = 100 * time.Millisecond
	// atLeastEvery is how often Ask looks at the checkpoints while it waits for a
	// position that is not announced.
	atLeastEvery = 250 * time.Millisecond
	// askRetry is what a client is asked to wait while the database is away.
	askRetry = 500 * time.Millisecond
	// maxAsking bounds the calls of Ask, most of which wait for a read or a
	// position. maxReads bounds their reads under way.
	maxAsking = 1024
	maxReads  = 8
)

// QueriesConfig configures Queries. All fields but Projections are required.
type QueriesConfig struct {
	Catalog *aggregate.Catalog
	Rows    rows.Store
	LogID   func() string
	// Projections has the states of the projections in memory. Without it, queries
	// of them are unavailable.
	Projections *Projections
	Logger      *slog.Logger
}

// Queries answers the queries of a catalog from the rows beside the log. Any node
// can: all see the same rows. It is safe for concurrent use.
type Queries struct {
	cfg     QueriesConfig
	queries map[string]*query.Definition
	// patience is how long a question waits for the first build of a projection.
	patience time.Duration
	heard    heard
	funcs    funcs
	live     *live.Registry
	asking   atomic.Int64  // calls of Ask
	reads    chan struct{} // tokens of their reads

	mu     sync.Mutex
	served map[string]served // by projection
}

// served is the build of a projection that answers.
type served struct {
	table rows.Table
	since time.Time // when it was looked for
}

// NewQueries returns the queries of a catalog without problems.
func NewQueries(cfg QueriesConfig) *Queries {
	q := &Queries{
		cfg: cfg, patience: buildPatience, queries: map[string]*query.Definition{}, funcs: newFuncs(), served: map[string]served{}, reads: make(chan struct{}, maxReads),
	}
	for _, m := range cfg.Catalog.Models("query") {
		q.queries[m.Name()] = m.(*query.Definition)
	}
	q.live = live.New(live.Config{Serving: q.serving, Forget: q.forget, Failure: q.failure, Logger: cfg.Logger})
	return q
}

// Ask answers a question. If AtLeast is not reached before ctx ends, the failure
// is unavailable. Beyond 1,024 calls under way it is busy.
func (q *Queries) Ask(ctx context.Context, question ask.Question) (ask.Answer, *command.Failure) {
	d, ok := q.queries[question.Query]
	if !ok {
		return ask.Answer{}, unknownQuery(question)
	}
	if q.asking.Add(1) > maxAsking {
		q.asking.Add(-1)
		f := command.Busy("%d queries are being answered, the bound of this node: retry later", maxAsking)
		f.After = askRetry
		return ask.Answer{}, f
	}
	defer q.asking.Add(-1)
	if !d.IsFunc() {
		return q.askRows(ctx, d, question)
	}
	if failure := q.admit(d, question); failure != nil {
		return ask.Answer{}, failure
	}
	return q.askFunc(ctx, d, question)
}

func unknownQuery(question ask.Question) *command.Failure {
	return command.NotFound("unknown query %s", command.Quote(question.Query))
}

// askRows answers a question about the rows of a table.
func (q *Queries) askRows(ctx context.Context, d *query.Definition, question ask.Question) (ask.Answer, *command.Failure) {
	compiled, failure := q.compile(d, question)
	if failure != nil {
		return ask.Answer{}, failure
	}
	table, err := q.awaitServing(ctx, d.From())
	if err != nil {
		return ask.Answer{}, q.failure(d, err)
	}
	if table == nil {
		return ask.Answer{}, building(d.From().Name())
	}
	asked := planner.Question(compiled)
	if question.After != "" {
		if asked.After, err = planner.After(question.After, table.Build().ID, compiled, d.From().Columns()); err != nil {
			return ask.Answer{}, command.BadRequest("after", "%v", err)
		}
	}
	if failure := q.await(ctx, d, table, question.AtLeast); failure != nil {
		return ask.Answer{}, failure
	}
	asked.Limit++ // a surplus row proves that there is a next page
	a, err := q.read(ctx, table, asked)
	if err != nil {
		q.forget(d.From().Name())
		return ask.Answer{}, q.failure(d, err)
	}
	return q.answer(d, table, compiled, a)
}

// find returns the query of a question, compiled.
func (q *Queries) find(question ask.Question) (*query.Definition, query.Question, *command.Failure) {
	d, ok := q.queries[question.Query]
	if !ok {
		return nil, query.Question{}, unknownQuery(question)
	}
	compiled, failure := q.compile(d, question)
	return d, compiled, failure
}

// read asks a table, with few reads under way.
func (q *Queries) read(ctx context.Context, table rows.Table, asked rows.Question) (rows.Answer, error) {
	select {
	case q.reads <- struct{}{}:
	case <-ctx.Done():
		return rows.Answer{}, ctx.Err()
	}
	defer func() { <-q.reads }()
	return table.Ask(ctx, asked)
}

func building(projection string) *command.Failure {
	return command.Unavailable("the rows of projection %q are still being built: retry later", projection)
}

// admit checks whether the caller may ask.
func (q *Queries) admit(d *query.Definition, question ask.Question) (failure *command.Failure) {
	err := guarded(func() error {
		if !d.Allows(aggregate.Caller{Client: question.Client, Claims: question.Claims}) {
			failure = forbidden(question.Client, d.Name())
		}
		return nil
	})
	if err != nil {
		q.cfg.Logger.Error("the access rule of a query failed", "query", d.Name(), "client", question.Client, "err", err)
		failure = command.Internal(command.RetryNo)
	}
	return failure
}

// compile checks access and parameters, and compiles the condition. A Func has
// none, so it is unsupported.
func (q *Queries) compile(d *query.Definition, question ask.Question) (compiled query.Question, failure *command.Failure) {
	if failure := q.admit(d, question); failure != nil {
		return compiled, failure
	}
	if d.IsFunc() {
		return compiled, command.Unsupported("query %q is answered by code, which is asked once: it has no live answer to subscribe to", d.Name())
	}
	err := guarded(func() (err error) {
		compiled, err = d.Question(query.Call{Client: question.Client, Claims: question.Claims}, question.Data)
		return err
	})
	var data *aggregate.DataError
	switch {
	case errors.As(err, &data):
		failure = command.BadRequest(data.Field, "%v", data)
	case err != nil:
		q.cfg.Logger.Error("the condition of a query failed", "query", d.Name(), "client", question.Client, "err", err)
		failure = command.Internal(command.RetryNo)
	}
	return compiled, failure
}

func forbidden(client, name string) *command.Failure {
	if client == "" {
		return command.Unauthenticated("identify yourself (with a token, in development with a client id) to ask %q", name)
	}
	return command.Forbidden("%s may not ask %q", client, name)
}

// awaitServing is serving, and waits for the first build.
func (q *Queries) awaitServing(ctx context.Context, p *projection.Definition) (rows.Table, error) {
	for until := time.Now().Add(q.patience); ; {
		table, err := q.serving(ctx, p)
		if table != nil || err != nil || !time.Now().Before(until) {
			return table, err
		}
		select {
		case <-time.After(buildEvery):
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// serving returns the newest active build of this program's definition, nil if
// there is none.
func (q *Queries) serving(ctx context.Context, p *projection.Definition) (rows.Table, error) {
	return q.servingOf(ctx, p.Name(), p.Fingerprint(), func() rows.Spec { return processor.SpecOf(p) })
}

func (q *Queries) servingOf(ctx context.Context, name, fingerprint string, spec func() rows.Spec) (rows.Table, error) {
	q.mu.Lock()
	s := q.served[name]
	q.mu.Unlock()
	if s.table != nil && time.Since(s.since) < buildsEvery {
		return s.table, nil
	}
	builds, err := q.cfg.Rows.Builds(ctx)
	if err != nil {
		return nil, err
	}
	newest := int64(0)
	for _, b := range builds {
		if b.Projection == name && b.Fingerprint == fingerprint && b.State == rows.Active && b.LogID == q.cfg.LogID() {
			newest = max(newest, b.ID)
		}
	}
	if newest == 0 {
		return nil, nil
	}
	if s.table == nil || s.table.Build().ID != newest || s.table.Build().LogID != q.cfg.LogID() {
		if s.table, err = q.cfg.Rows.Open(ctx, spec(), newest); err != nil {
			return nil, err
		}
	}
	s.since = time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.served[name] = s
	return s.table, nil
}

// forget makes the next question look for the build again.
func (q *Queries) forget(projection string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.served, projection)
}

// await waits until the rows show a position.
func (q *Queries) await(ctx context.Context, d *query.Definition, table rows.Table, position eventstore.Position) *command.Failure {
	var at eventstore.Position // as last read
	for read := false; position > 0; read = true {
		count := q.heard.count(table.Build().ID)
		list, err := table.Checkpoints(ctx)
		if err == nil {
			at = lowest(list)
		}
		switch {
		case err != nil && ctx.Err() == nil:
			return q.failure(d, err)
		case err == nil && at >= position:
			return nil
		case err != nil && !read:
			return command.Unavailable("it is not yet known whether the rows of query %q show position %d, since the database did not answer in time: retry later", d.Name(), position)
		case ctx.Err() != nil:
			return tooEarly(d, at, position)
		}
		q.heard.await(ctx, table.Build().ID, list, count, position, atLeastEvery)
	}
	return nil
}

func tooEarly(d *query.Definition, at, position eventstore.Position) *command.Failure {
	return command.Unavailable("the rows of query %q show the log up to position %d, not yet %d: retry later", d.Name(), at, position)
}

func lowest(list []rows.Checkpoint) eventstore.Position {
	if len(list) == 0 {
		return 0
	}
	at := list[0].Position
	for _, c := range list {
		at = min(at, c.Position)
	}
	return at
}

// answer turns what the store returned into a page.
func (q *Queries) answer(d *query.Definition, table rows.Table, compiled query.Question, a rows.Answer) (ask.Answer, *command.Failure) {
	page := ask.Answer{Position: lowest(a.Checkpoints), Blocked: a.Blocked}
	more := len(a.Rows) > compiled.Limit
	for i, r := range a.Rows[:min(len(a.Rows), compiled.Limit)] {
		values, err := valuesOf(d.From(), r)
		if err != nil {
			return ask.Answer{}, q.failure(d, fmt.Errorf("row %q: %w", r.Key, err))
		}
		page.Rows = append(page.Rows, ask.Row{Key: r.Key, Rank: query.Rank(compiled.Order, r.Key, values), Position: r.Position, Data: r.Data})
		if more && i == compiled.Limit-1 {
			page.Next = planner.Token(table.Build().ID, compiled, r.Key, values)
		}
	}
	return page, nil
}

func valuesOf(p *projection.Definition, r rows.Row) (values []any, err error) {
	err = guarded(func() error {
		row, err := p.DecodeRow(r.Data)
		if err == nil {
			values, err = p.Values(row)
		}
		return err
	})
	return values, err
}

func (q *Queries) failure(d *query.Definition, err error) *command.Failure {
	switch {
	case errors.Is(err, rows.ErrDropped):
		return command.Unavailable("the rows of query %q were replaced meanwhile: retry", d.Name())
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return command.Timeout(command.RetryLater, "the rows of query %q could not be read in time: retry", d.Name())
	case errors.Is(err, eventstore.ErrUnavailable), errors.Is(err, eventstore.ErrWentBack), errors.Is(err, eventstore.ErrClosed):
		f := command.Unavailable("the database cannot be reached: retry")
		f.After, f.Cause = askRetry, err.Error()
		return f
	}
	q.cfg.Logger.Error("a query failed", "query", d.Name(), "err", err)
	return command.Internal(command.RetryLater)
}
