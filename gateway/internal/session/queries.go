package session

import (
	"context"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/gateway/internal/outbox"
	"github.com/ganglion-es/ganglion/gateway/internal/questions"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// This file has queries, and the subscriptions to queries in the order of the calls:
// follow, open, begin, and appendParts in a turn of the shard.

// liveQuery is a subscription to a query. Its parts are not queued here: when the
// socket has room, appendParts takes the next ones.
type liveQuery struct {
	source
	head     string       // of its frames
	question ask.Question // without the client
	ctx      context.Context
	cancel   context.CancelFunc
	live     ask.Live // nil until the first answer; guarded by Session.mu
}

// liveQueries are the subscriptions to queries of a session.
type liveQueries struct {
	sources[*liveQuery]
	isFirst bool // in the next message, before the events; guarded by Session.mu
}

// query asks a query once the outbox has room for the answer.
func (s reader) query(f frame.Query, r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	identity := s.client.identity
	q := ask.Question{Query: f.Query, Data: f.Data, Client: identity.Client, Claims: identity.Claims, AtLeast: f.AtLeast, After: f.After}
	result := frame.Result{ID: r.id}
	var failure *command.Failure
	s.readState(&stateRead{
		read: func() int {
			var answer ask.Answer
			answer, failure = s.server.Asker.Ask(s.ctx, questions.Caller(s.caller(identity)), q, f.Timeout())
			result.Position, result.Data = answer.Position, questions.Page(answer)
			return len(result.Data)
		},
		done: func() {
			if failure != nil {
				s.replyLocked(r, wire.Fault(r.id, "", failure))
				return
			}
			s.replyLocked(r, result)
		},
	})
}

// follow begins a subscription to a query.
func (s reader) follow(f frame.Subscribe, r *request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failure *command.Failure
	switch {
	case len(s.queries.byID) >= s.server.Limits.LiveQueries:
		s.server.Counters.Reached(limits.LiveQueries)
		failure = command.RateLimited(0, "a session may have at most %d live queries: unsubscribe from one first", s.server.Limits.LiveQueries)
		failure.Retry = command.RetryNo
	case s.countSubscriptions() >= s.server.Limits.Subscriptions:
		failure = s.tooManySubscriptions()
	}
	if failure != nil {
		s.replyLocked(r, wire.Fault(r.id, "", failure))
		return
	}
	q := s.newQuery(r.id, s.wire.Terms(r.id).Part, ask.Question{Query: f.Query, Data: f.Data, AtLeast: f.AtLeast})
	q.request = r
	cursor, isOtherLog := f.Cursor, s.client.otherLog != "" && f.Cursor != ""
	if isOtherLog {
		cursor = "" // its positions mean nothing in this log
	}
	s.spawn(func() {
		failure := s.open(s.ctx, q, cursor, frame.DefaultTimeout)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.beginQuery(q, isOtherLog, failure)
	})
}

// newQuery adds a subscription to a query. The caller holds s.mu.
func (s *Session) newQuery(id, head string, question ask.Question) *liveQuery {
	q := &liveQuery{source: source{session: s, id: id}, head: head, question: question}
	q.ctx, q.cancel = context.WithCancel(s.ctx)
	s.queries.add(q)
	return q
}

// open asks for the answer of a live query on behalf of the client's newest identity.
// It blocks until the first part is ready.
func (s *Session) open(ctx context.Context, q *liveQuery, cursor string, timeout time.Duration) *command.Failure {
	s.mu.Lock()
	client := s.client
	s.mu.Unlock()
	question := q.question
	question.Client, question.Claims = client.identity.Client, client.identity.Claims
	stop := context.AfterFunc(ctx, q.cancel)
	defer stop()
	live, failure := s.server.Asker.Follow(q.ctx, questions.Caller{Client: question.Client, Session: s.id}, question, cursor, timeout, q.wake)
	if failure != nil {
		return failure
	}
	for {
		s.mu.Lock()
		renewals := s.client.renewals
		if renewals == client.renewals && !q.hasEnded {
			q.live = live
			s.mu.Unlock()
			return nil
		}
		client = s.client
		hasEnded := q.hasEnded
		s.mu.Unlock()
		if !hasEnded { // the client has renewed its token in the meantime
			failure = s.renew(live, client.identity.Client, client.identity.Claims)
		}
		if hasEnded || failure != nil {
			s.server.Asker.End(live)
			return failure
		}
	}
}

// beginQuery replies to a subscribe, and starts the subscription if it was opened.
// The caller holds s.mu.
func (s reader) beginQuery(q *liveQuery, isOtherLog bool, failure *command.Failure) {
	r := q.request
	switch {
	case q.hasEnded: // by unsubscribe, or because access was revoked
		s.requests.remove(r)
		if r.hasSlot {
			s.requests.free(1)
		}
		s.sayGoodbyeIfDone()
	case failure != nil:
		s.endQuery(q)
		s.replyLocked(r, wire.Fault(r.id, "", failure))
	default:
		s.requests.remove(r)
		s.add(frame.Subscribed{ID: r.id, Cursor: history.Cursor(s.server.Hub.Head())}, r.hasSlot)
		if isOtherLog {
			s.push(frame.Reset{Sub: q.id, Reason: frame.ResetLog})
		}
		s.queries.start(q)
		s.sayGoodbyeIfDone()
	}
}

// endQuery ends a subscription. Later messages have no parts of it. The caller holds
// s.mu.
func (s *Session) endQuery(q *liveQuery) {
	if q.hasEnded {
		return
	}
	s.queries.remove(q)
	q.cancel()
	if q.live != nil {
		s.server.Asker.End(q.live)
	}
}

// appendParts appends parts of live queries to a message, those of one query after
// those of another. The caller holds s.mu.
func (s writer) appendParts(d *outbox.Draft) {
	var idle []*liveQuery // have parts, but not yet: asked again in a later turn
	for len(s.queries.ready) > 0 && !d.IsFull() {
		q := s.queries.next()
		if q.hasEnded {
			continue
		}
		parts, more := q.live.Next(d.Room())
		for _, p := range parts {
			d.AppendPart(q.head, p)
			if p.Op == opUnsubscribed {
				s.endQuery(q)
				s.endWithSubscription()
				break
			}
		}
		switch {
		case more && len(parts) == 0:
			idle = append(idle, q)
		case more:
			s.queries.markReady(q) // behind the others
		}
	}
	for _, q := range idle {
		s.queries.markReady(q)
	}
}

var opUnsubscribed = frame.Unsubscribed{}.Op()

// appendBehind adds the queries that lag behind the log, or have parts that are not
// in a message yet, to a heartbeat. A query without a cursor can't be resumed, and is
// left out. An event stream has one query and nothing else: the heartbeat has its
// cursor. The caller holds s.mu.
func (s writer) appendBehind(f *frame.Heartbeat) {
	for _, q := range s.queries.byID {
		if q.live == nil {
			continue
		}
		cursor, isBehind := q.live.Cursor()
		switch {
		case s.isEventStream():
			f.Cursor = cursor
		case cursor != "" && (isBehind || q.isReady):
			f.Behind = append(f.Behind, frame.Behind{Sub: q.id, Cursor: cursor})
		}
	}
}

// renewQueries applies the access rules of the live queries to the session's
// identity. The reader calls it after a renewal of the identity, and each heartbeat,
// since rules may depend on more than the token.
func (s *Session) renewQueries() {
	s.queries.renewing.Lock()
	defer s.queries.renewing.Unlock()
	s.mu.Lock()
	client := s.client
	queries := slices.DeleteFunc(s.queries.list(), func(q *liveQuery) bool { return q.live == nil })
	s.mu.Unlock()
	for _, q := range queries { // live does not change any more
		if failure := s.renew(q.live, client.identity.Client, client.identity.Claims); failure != nil {
			s.withdrawQuery(q, client.renewals, failure)
		}
	}
}

func (s *Session) renew(live ask.Live, client string, claims map[string]any) *command.Failure {
	ctx, cancel := context.WithTimeout(s.ctx, frame.DefaultTimeout)
	defer cancel()
	return live.Renew(ctx, client, claims)
}

// withdrawQuery ends a subscription that the client may have no longer. It does
// nothing if the identity was renewed in the meantime: renewQueries is then called
// again.
func (s *Session) withdrawQuery(q *liveQuery, renewals int, failure *command.Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q.hasEnded || s.client.renewals != renewals {
		return
	}
	cursor, _ := q.live.Cursor()
	s.endQuery(q)
	if !q.isStarted.Load() {
		s.requests.remove(q.request) // beginQuery will free its slot
		s.push(wire.Fault(q.id, "", failure))
		return
	}
	s.push(frame.Unsubscribed{Sub: q.id, Code: failure.Code, Message: failure.Message, Cursor: cursor})
	s.endWithSubscription()
}

// endWithSubscription closes an event stream whose subscription has ended. The caller
// holds s.mu.
func (s *Session) endWithSubscription() {
	if s.isEventStream() {
		s.closeAfterFlush(frame.CloseLost, "unsubscribed")
	}
}
