package ganglion

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"time"
)

// Query binds a query to Go types: P for its parameters, R for the data of its
// rows. P is any type that encoding/json encodes as an object.
type Query[P, R any] struct {
	// Name is the query's name, such as "open_auctions".
	Name string
}

// Row is a row of a query.
type Row[R any] struct {
	// Key identifies the row.
	Key  string
	Data R
	// Rank is the row's place in the order of the query: rows sort by it, byte by
	// byte.
	Rank string
	// Position is the place in the log of the last event that changed the row.
	Position uint64
}

// Page is the result of a query, or a part of it.
type Page[R any] struct {
	Rows []Row[R]
	// Next asks for the next page; see [AfterPage]. It is empty on the last one.
	Next string
	// Position is the position of the log up to which the rows are current.
	Position uint64
	// Blocked is the number of rows of the projection that wait for an operator.
	Blocked int
	// Answer is the JSON of a query that code answers, which has no rows. It is nil
	// for a page of rows.
	Answer json.RawMessage
}

// QueryOption is an option of [Query.Run].
type QueryOption interface{ applyQuery(*queryFrame) }

type queryOption func(*queryFrame)

func (set queryOption) applyQuery(f *queryFrame) { set(f) }

// AfterPage asks for the page that follows the one with this [Page.Next].
func AfterPage(next string) QueryOption {
	return queryOption(func(f *queryFrame) { f.After = next })
}

// Run runs the query once. It waits for a connection, and asks again after a lost
// one. With [AtLeast] the rows are current up to that position; if the server does
// not reach it in time, the error has [CodeUnavailable]. [WithTimeout] sets that
// time, 5 s by default. Every error of the server and the connection is an
// [*Error].
func (q Query[P, R]) Run(ctx context.Context, c *Client, params P, opts ...QueryOption) (Page[R], error) {
	return run[R](ctx, c, q.Name, params, opts)
}

// Live keeps the result of the query current: it yields all rows in order, and
// again after each batch of changes, across reconnects to any gateway, after any
// time. A slow loop skips results, and gets the newest. It ends when the
// application leaves the loop, or after it yields an error: the cause of ctx, a
// refusal by the server, [ErrClosed], or a failure to decode a row.
//
// If the server can no longer continue from the client's place, it sends all rows
// again, and the old ones remain until these are complete. Only if the client may
// see other rows than before, a result without rows comes in between.
func (q Query[P, R]) Live(ctx context.Context, c *Client, params P, opts ...LiveOption) iter.Seq2[Snapshot[R], error] {
	return live[R](ctx, c, q.Name, params, opts)
}

// Follow opens the live query; see [Query.Live]. It begins before the first call
// of Next. The caller must close it.
func (q Query[P, R]) Follow(c *Client, params P, opts ...LiveOption) *LiveQuery[R] {
	return followQuery[R](c, q.Name, params, opts)
}

// Query runs a query once. Its rows are JSON; [Query.Run] gives them Go types. nil
// parameters are {}.
func (c *Client) Query(ctx context.Context, name string, params any, opts ...QueryOption) (Page[json.RawMessage], error) {
	return run[json.RawMessage](ctx, c, name, params, opts)
}

// Live keeps the result of a query current. Its rows are JSON; [Query.Live] gives
// them Go types. nil parameters are {}.
func (c *Client) Live(ctx context.Context, name string, params any, opts ...LiveOption) iter.Seq2[Snapshot[json.RawMessage], error] {
	return live[json.RawMessage](ctx, c, name, params, opts)
}

// parameters encodes the parameters of a query.
func parameters(params any) (json.RawMessage, *Error) {
	if params == nil {
		return json.RawMessage("{}"), nil
	}
	data, err := json.Marshal(params)
	if err != nil {
		return nil, wrap(CodeBadRequest, RetryNo, "can't encode the parameters as JSON", err)
	}
	return data, nil
}

func run[R any](ctx context.Context, c *Client, name string, params any, opts []QueryOption) (Page[R], error) {
	data, invalid := parameters(params)
	if invalid != nil {
		return Page[R]{}, invalid
	}
	f := queryFrame{Op: "query", Query: name, Data: data}
	for _, o := range opts {
		o.applyQuery(&f)
	}
	timeout := cmp.Or(time.Duration(f.TimeoutMS)*time.Millisecond, defaultTimeout)
	r := c.start(ctx, &request{timeout: timeout, isFinal: f.AtLeast > 0}, "", name, func(id string) any {
		f.ID = id
		return f
	})
	<-r.done
	if r.err != nil {
		return Page[R]{}, r.err
	}
	var rows struct{ Rows json.RawMessage }
	if err := json.Unmarshal(r.result.Data, &rows); err != nil || rows.Rows == nil { // code answers with any JSON
		return Page[R]{Position: r.result.Position, Answer: r.result.Data}, nil
	}
	var got pageFrame
	if err := json.Unmarshal(r.result.Data, &got); err != nil {
		return Page[R]{}, wrap(CodeProtocol, RetryNo, "the server sent an invalid page of query "+name, err)
	}
	page := Page[R]{Rows: make([]Row[R], len(got.Rows)), Next: got.Next, Position: r.result.Position, Blocked: got.Blocked}
	for i := range got.Rows {
		var err error
		if page.Rows[i], err = rowOf[R](name, &got.Rows[i]); err != nil {
			return Page[R]{}, err
		}
	}
	return page, nil
}

func rowOf[R any](query string, f *rowFrame) (Row[R], error) {
	data, err := decode[R](f.Data)
	if err != nil {
		return Row[R]{}, fmt.Errorf("ganglion: can't decode row %s of query %s: %w", f.Key, query, err)
	}
	return Row[R]{Key: f.Key, Data: data, Rank: f.Rank, Position: f.Position}, nil
}
