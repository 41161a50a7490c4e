package engine

import (
	"context"

	"github.com/ganglion-es/ganglion/engine/internal/live"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
)

var _ ask.Queries = (*Queries)(nil)

// LiveStats are the figures of the live queries of a node.
type LiveStats = live.Stats

// Follow answers a question and keeps the answer current; see [ask.Queries]. It
// blocks until the first answer can be sent. Beyond 20,000 different questions, 2
// million rows that they hold, or 1,000 questions of one projection whose
// condition cannot be indexed, it is busy.
func (q *Queries) Follow(ctx context.Context, question ask.Question, cursor string, wake func()) (ask.Live, *command.Failure) {
	request, failure := q.request(question)
	if failure != nil {
		return nil, failure
	}
	if _, err := q.awaitServing(ctx, request.Query.From()); err != nil {
		return nil, q.failure(request.Query, err)
	}
	request.Cursor, request.Wake = cursor, wake
	f, failure := q.live.Follow(ctx, request)
	if failure != nil {
		return nil, failure
	}
	return &following{Follower: f, queries: q, question: question}, nil
}

func (q *Queries) request(question ask.Question) (live.Request, *command.Failure) {
	d, compiled, failure := q.find(question)
	return live.Request{Query: d, Asked: compiled, AtLeast: question.AtLeast}, failure
}

// Announce says that a segment of a build of a projection has reached a position,
// so that live queries read its changes now and not with their next poll, and
// questions that wait for a position continue. It is a hint and may be wrong; a lost
// one costs half a second. It does not block.
func (q *Queries) Announce(projection string, build int64, segment int, p eventstore.Position) {
	q.heard.announce(build, segment, p)
	q.live.Announce(projection, build, segment, p)
}

// Head says that the node has received the log up to a position. Live queries
// whose rows lag behind it are polled every 50 ms and not every 500 ms. It does
// not block.
func (q *Queries) Head(p eventstore.Position) { q.live.Head(p) }

// LiveStats returns the figures of the live queries.
func (q *Queries) LiveStats() LiveStats { return q.live.Stats() }

// following implements ask.Live.
type following struct {
	*live.Follower
	queries  *Queries
	question ask.Question
}

// Renew implements ask.Live.
func (f *following) Renew(ctx context.Context, client string, claims map[string]any) *command.Failure {
	question := f.question
	question.Client, question.Claims, question.AtLeast = client, claims, 0
	request, failure := f.queries.request(question)
	if failure == nil {
		failure = f.Ask(ctx, request)
	}
	if failure != nil {
		f.Halt()
	}
	return failure
}
