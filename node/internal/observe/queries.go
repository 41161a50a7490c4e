package observe

import (
	"context"
	"time"

	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
)

// answered is the code of a query that was answered.
const answered = "ok"

// Queries are the queries that a gateway calls. It measures them.
type Queries struct {
	ask.Queries
	observer *Observer
	names    map[string]bool
}

// NewQueries returns queries that are measured. Queries with other names, which
// clients make up, are counted together, under the name "".
func NewQueries(q ask.Queries, o *Observer, names []string) Queries {
	known := map[string]bool{"": true}
	for _, name := range names {
		known[name] = true
		o.Queries.WithLabelValues(name, answered)
		o.QueryTimes.WithLabelValues(name)
	}
	return Queries{Queries: q, observer: o, names: known}
}

// Ask answers a question once.
func (q Queries) Ask(ctx context.Context, question ask.Question) (ask.Answer, *command.Failure) {
	began := time.Now()
	a, failure := q.Queries.Ask(ctx, question)
	name, code := question.Query, answered
	if !q.names[name] {
		name = ""
	}
	if failure != nil {
		code = string(failure.Code)
	}
	q.observer.Queries.WithLabelValues(name, code).Inc()
	if name != "" {
		q.observer.QueryTimes.WithLabelValues(name).Observe(time.Since(began).Seconds())
	}
	return a, failure
}
