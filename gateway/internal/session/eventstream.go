package session

import (
	"context"
	"time"

	"github.com/ganglion-es/ganglion/gateway/internal/access"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/ask"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// NewEventStream returns a session of Server-Sent Events. Its client sends
// nothing, so it needs no hello.
func NewEventStream(server *Server, identity access.Identity) *Session {
	s := New(server, identity)
	s.client.saidHello, s.deadlines.isPaused = true, true
	return s
}

// Hold keeps the shard from writing, for instance a close frame, before
// StartEventStream has sent the head of the response.
func (s *Session) Hold() {
	s.conn.GiveUpAfter(s.server.Socket.Grace)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.Hold()
}

// StartEventStream sends the head of the response and then the events of a
// topic, with the states that mode adds. isOtherLog reports whether the log has changed since the head was made.
// Any later change closes all sessions.
func (s *Session) StartEventStream(t history.Topic, from history.Place, mode frame.StateMode, head []byte, isOtherLog func() bool) {
	s.startEventStream(head, isOtherLog, func() {
		sub := s.newSubscription(wire.EventStreamSub, t, mode)
		sub.isStarted, sub.Place = true, from
		s.subs.markReady(sub)
	})
}

// Query is a live query of an event stream.
type Query struct {
	Question   ask.Question // without the client
	Cursor     string
	IsOtherLog bool // the cursor is of another log
	Timeout    time.Duration
}

// Follow asks a query whose answer StartQueryStream will send. It blocks until the
// answer is ready, and returns the reason if there is none. After a success, the
// caller must call StartQueryStream or EndQueryStream.
func (s *Session) Follow(ctx context.Context, query Query) *command.Failure {
	s.mu.Lock()
	q := s.newQuery(wire.EventStreamSub, "", query.Question)
	s.mu.Unlock()
	cursor := query.Cursor
	if query.IsOtherLog {
		cursor = ""
	}
	failure := s.open(ctx, q, cursor, query.Timeout)
	if failure != nil {
		s.EndQueryStream()
	}
	return failure
}

// EndQueryStream ends an event stream that was not started.
func (s *Session) EndQueryStream() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range s.queries.list() {
		s.endQuery(q)
	}
	s.cancel()
}

// StartQueryStream sends the head of the response and then the answer of the query
// that Follow asked.
func (s *Session) StartQueryStream(query Query, head []byte, isOtherLog func() bool) {
	s.startEventStream(head, isOtherLog, func() {
		if query.IsOtherLog {
			s.push(frame.Reset{Sub: wire.EventStreamSub, Reason: frame.ResetLog})
		}
		for _, q := range s.queries.list() {
			s.queries.start(q)
		}
	})
}

// startEventStream sends the head of the response, and starts the session. subscribe
// is called with s.mu held.
func (s *Session) startEventStream(head []byte, isOtherLog func() bool, subscribe func()) {
	s.mu.Lock()
	s.out.Release()
	if isOtherLog() {
		s.closeAfterFlush(frame.CloseLost, "the log went back")
	}
	subscribe()
	if !s.out.HasEnded() && s.out.Send(head) {
		s.out.ScheduleWrite()
	}
	s.mu.Unlock()
	s.Start()
}

func (s *Session) isEventStream() bool { return wire.EndsWithSubscription(s.wire) }
