// Package questions asks the queries of a gateway's clients, within bounds.
//
// A client has as many questions in progress as it may have requests open. Further
// ones wait, and the client's sessions take turns. The gateway has [Asker.Most]
// questions in progress; past that number, questions are refused as busy, so that
// none waits long for a database that does not keep up.
package questions

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// Asker asks questions. It is safe for concurrent use.
type Asker struct {
	// Queries answers. It is nil if this node has no queries.
	Queries  ask.Queries
	Places   *limits.ClientPlaces
	Counters *limits.Counters
	// Most bounds the questions in progress.
	Most int

	inProgress atomic.Int64
	following  atomic.Int64
}

// Following returns the number of live queries.
func (a *Asker) Following() int { return int(a.following.Load()) }

// Caller is the client that asks, and its session, if it has one.
type Caller struct{ Client, Session string }

// busyAfter is what a client is asked to wait if too many questions are in progress.
const busyAfter = 500 * time.Millisecond

// Ask answers a question once. timeout bounds the wait for the client's turn and for
// the answer.
func (a *Asker) Ask(ctx context.Context, caller Caller, q ask.Question, timeout time.Duration) (answer ask.Answer, failure *command.Failure) {
	failure = a.within(ctx, caller, timeout, func(ctx context.Context) (failure *command.Failure) {
		answer, failure = a.Queries.Ask(ctx, q)
		return failure
	})
	return answer, failure
}

// Follow answers a question and keeps the answer current. timeout bounds the wait for
// the client's turn and for the first part. The caller must call [Asker.End] with the
// result once.
func (a *Asker) Follow(ctx context.Context, caller Caller, q ask.Question, cursor string, timeout time.Duration, wake func()) (live ask.Live, failure *command.Failure) {
	failure = a.within(ctx, caller, timeout, func(ctx context.Context) (failure *command.Failure) {
		live, failure = a.Queries.Follow(ctx, q, cursor, wake)
		return failure
	})
	if failure != nil {
		return nil, failure
	}
	a.following.Add(1)
	return live, nil
}

// End closes the result of Follow.
func (a *Asker) End(live ask.Live) {
	live.Close()
	a.following.Add(-1)
}

// within calls f when the client has a place, unless too many questions are in
// progress.
func (a *Asker) within(ctx context.Context, caller Caller, timeout time.Duration, f func(context.Context) *command.Failure) *command.Failure {
	if a.Queries == nil {
		return command.Unsupported("this gateway answers no queries: read aggregates, or subscribe to a stream or a category")
	}
	timed, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	release, err := a.Places.Acquire(timed, caller.Client, caller.Session)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return command.Unavailable("the gateway is stopping: try again")
	default:
		a.Counters.Reached(limits.Reads)
		return busy("too many reads of this client are in progress: send fewer at a time")
	}
	defer release()
	if a.inProgress.Add(1) > int64(a.Most) {
		a.inProgress.Add(-1)
		a.Counters.Reached(limits.Queries)
		return busy("too many queries are in progress at this gateway: ask again after after_ms")
	}
	defer a.inProgress.Add(-1)
	return f(timed)
}

func busy(message string) *command.Failure {
	return &command.Failure{Code: command.CodeBusy, Retry: command.RetryLater, After: busyAfter, Message: message}
}

// Page returns the data of the result of a query: a page of rows, or the JSON that
// the query's code has returned.
func Page(a ask.Answer) []byte {
	if a.Value != nil {
		return a.Value
	}
	p := frame.Page{Rows: make([]frame.Row, 0, len(a.Rows)), Next: a.Next, Blocked: a.Blocked}
	for _, r := range a.Rows {
		p.Rows = append(p.Rows, frame.Row(r))
	}
	return p.Append(nil)
}
