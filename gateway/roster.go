package gateway

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/gateway/internal/session"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// admissionError is why a session is not admitted.
type admissionError struct {
	reason    string
	closeCode int          // of a WebSocket
	code      command.Code // of a failure; "" if another gateway may admit the session
}

func (e *admissionError) Error() string { return e.reason }

// failure returns the failure for the client.
func (e *admissionError) failure() *command.Failure {
	if e.code == "" {
		return command.Unavailable("%s: connect to another gateway", e.reason)
	}
	f := command.Unavailable("%s", e.reason)
	f.Code = e.code
	return f
}

// roster admits sessions and counts them. It is safe for concurrent use.
type roster struct {
	limits    *limits.Limits
	counters  *limits.Counters
	admitted  atomic.Uint64
	rejecting atomic.Int64   // sessions that are being closed because there are too many
	serving   sync.WaitGroup // admitted sessions

	mu          sync.Mutex
	sessions    map[*session.Session]*record // the admitted ones
	beforeHello list.List                    // of *record: have not said hello, the oldest in front
	anonymous   list.List                    // of *record: said hello without a client id
	identified  int                          // number of sessions with a client id
	byClient    map[string]int               // the same for each client id
	idle        chan struct{}                // closed while no session is admitted
	state       rosterState
}

// rosterState decides whether sessions are admitted.
type rosterState struct{ isStarted, isSuspended, isDraining, isStopped bool }

// record is a session in the roster. The roster's lock guards it.
type record struct {
	session *session.Session

	seat        seat   // in beforeHello or anonymous
	client      string // client id for which it counts
	hasEntered  bool   // it counts as a session that said hello
	isDisplaced bool   // it is being closed to make room for another
}

// seat is a place in a list of sessions or connections.
type seat struct {
	in *list.List
	at *list.Element
}

func (s *seat) join(in *list.List, v any) { s.in, s.at = in, in.PushBack(v) }

func (s *seat) leave() {
	if s.in != nil {
		s.in.Remove(s.at)
		s.in, s.at = nil, nil
	}
}

func newRoster(l *limits.Limits, counters *limits.Counters) *roster {
	r := &roster{
		limits: l, counters: counters, sessions: make(map[*session.Session]*record), byClient: make(map[string]int),
		idle: make(chan struct{}),
	}
	close(r.idle)
	return r
}

// setState changes the state.
func (r *roster) setState(change func(*rosterState)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change(&r.state)
}

// refusal returns the reason if no session is admitted in this state, else nil.
func (s rosterState) refusal() error {
	switch {
	case s.isStopped:
		return &admissionError{reason: "the node is stopping", closeCode: frame.CloseDraining}
	case s.isDraining:
		return &admissionError{reason: "the node is draining", closeCode: frame.CloseDraining}
	case s.isSuspended:
		return &admissionError{reason: "the node has lost the cluster or the log", closeCode: frame.CloseLost}
	case !s.isStarted:
		return &admissionError{reason: "the node is starting", closeCode: frame.CloseLost}
	}
	return nil
}

// refusing returns the reason if the roster's state admits no session, else nil.
func (r *roster) refusing() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.refusal()
}

// refusal returns the reason if no session is admitted, else nil. The caller
// holds r.mu.
func (r *roster) refusal() error {
	if err := r.state.refusal(); err != nil {
		return err
	}
	if r.identified >= r.limits.Sessions {
		return r.full()
	}
	return nil
}

// full returns the error for a session past [Limits.Sessions], and counts it.
func (r *roster) full() error {
	r.counters.Reached(limits.Sessions)
	return &admissionError{"this gateway has reached its maximum of sessions: retry later", frame.CloseTooMany, command.CodeUnavailable}
}

// admit admits a session, or returns the reason why it does not. If too many
// sessions have not said hello, it closes the oldest of them.
func (r *roster) admit(rec *record) error {
	r.mu.Lock()
	err := r.refusal()
	var oldest *record
	if err == nil {
		oldest = r.seatBeforeHello(rec)
		if len(r.sessions) == 0 {
			r.idle = make(chan struct{})
		}
		r.sessions[rec.session] = rec
		r.serving.Add(1)
		r.admitted.Add(1)
	}
	r.mu.Unlock()
	if oldest != nil {
		r.counters.Reached(limits.AnonymousSessions)
		r.displace(oldest, "too many sessions have not said hello: connect again later")
	}
	return err
}

// seatBeforeHello counts a session that has not said hello. If there are too many
// of them, it returns the oldest, which the caller must displace. The caller
// holds r.mu.
func (r *roster) seatBeforeHello(rec *record) (oldest *record) {
	if rec.hasEntered { // an event stream, which says no hello
		return nil
	}
	rec.seat.join(&r.beforeHello, rec)
	if r.beforeHello.Len() <= r.limits.AnonymousSessions {
		return nil
	}
	return r.unseat(&r.beforeHello)
}

// unseat removes the oldest admitted session from a list and returns it. The
// caller must displace it. If the list has no admitted session, unseat returns
// nil. The caller holds r.mu.
func (r *roster) unseat(from *list.List) *record {
	for at := from.Front(); at != nil; at = at.Next() {
		rec := at.Value.(*record)
		if r.sessions[rec.session] == rec {
			rec.seat.leave()
			rec.isDisplaced = true
			r.rejecting.Add(1)
			return rec
		}
	}
	return nil
}

// Enter implements [session.Roster] for admitted sessions.
func (r *roster) Enter(s *session.Session, client string) *command.Failure {
	r.mu.Lock()
	rec := r.sessions[s]
	r.mu.Unlock()
	return r.enter(rec, client)
}

// enter counts a session as its client's or as anonymous. It returns a failure
// if there is no room. A session with a client id can displace an anonymous one.
func (r *roster) enter(rec *record, client string) *command.Failure {
	r.mu.Lock()
	displaced, err := r.enterLocked(rec, client)
	r.mu.Unlock()
	if displaced != nil {
		r.counters.Reached(limits.Sessions)
		r.displace(displaced, "this gateway is full and prefers clients with an id: identify yourself, or retry later")
	}
	return failureOf(err)
}

func (r *roster) enterLocked(rec *record, client string) (displaced *record, err error) {
	isFull := r.identified+r.anonymous.Len() >= r.limits.Sessions
	if client == "" {
		switch {
		case isFull:
			return nil, r.full()
		case r.anonymous.Len() >= r.limits.AnonymousSessions:
			r.counters.Reached(limits.AnonymousSessions)
			return nil, &admissionError{
				"this gateway has reached its maximum of anonymous sessions: identify yourself, or retry later",
				frame.CloseTooMany, command.CodeRateLimited,
			}
		}
		rec.seat.leave()
		rec.seat.join(&r.anonymous, rec)
		rec.hasEntered = true
		return nil, nil
	}
	if r.byClient[client] >= r.limits.SessionsPerClient {
		r.counters.Reached(limits.SessionsPerClient)
		reason := fmt.Sprintf("%s has %d sessions at this gateway, which is the maximum: close one of them first", client, r.limits.SessionsPerClient)
		return nil, &admissionError{reason, frame.CloseTooMany, command.CodeRateLimited}
	}
	if isFull {
		if displaced = r.unseat(&r.anonymous); displaced == nil {
			return nil, r.full()
		}
	}
	rec.seat.leave()
	rec.hasEntered, rec.client = true, client
	r.identified++
	r.byClient[client]++
	return displaced, nil
}

// reserve is enter for a session that is not yet admitted. It also returns a
// failure if no session is admitted now.
func (r *roster) reserve(rec *record, client string) *command.Failure {
	r.mu.Lock()
	err := r.refusal()
	r.mu.Unlock()
	if err != nil {
		return failureOf(err)
	}
	return r.enter(rec, client)
}

func failureOf(err error) *command.Failure {
	var refused *admissionError
	if errors.As(err, &refused) {
		return refused.failure()
	}
	return nil
}

// release undoes reserve.
func (r *roster) release(rec *record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leave(rec)
}

// leave undoes enter. The caller holds r.mu.
func (r *roster) leave(rec *record) {
	rec.seat.leave()
	if rec.client == "" {
		return
	}
	r.identified--
	if r.byClient[rec.client]--; r.byClient[rec.client] == 0 {
		delete(r.byClient, rec.client)
	}
	rec.client = ""
}

// Remove implements [session.Roster].
func (r *roster) Remove(s *session.Session) {
	defer r.serving.Done()
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.sessions[s]
	delete(r.sessions, s)
	r.leave(rec)
	if rec.isDisplaced {
		r.rejecting.Add(-1)
	}
	if len(r.sessions) == 0 {
		close(r.idle)
	}
}

// maxRejecting bounds the surplus sessions that are closed with a close frame at
// the same time. Past it, connections are closed without one.
func (r *roster) maxRejecting() int64 { return int64(max(16, r.limits.Sessions/64)) }

// displace closes a session that was unseated.
func (r *roster) displace(rec *record, reason string) {
	if r.rejecting.Load() > r.maxRejecting() {
		rec.session.End()
		return
	}
	rec.session.CloseAfterFlush(frame.CloseTooMany, reason)
}

// reject closes the connection of a session that was not admitted. It writes
// before and a close frame.
func (r *roster) reject(s *session.Session, err error, before []byte) {
	code := frame.CloseLost
	var refused *admissionError
	if errors.As(err, &refused) {
		code = refused.closeCode
	}
	defer r.rejecting.Add(-1)
	if r.rejecting.Add(1) > r.maxRejecting() {
		code = 0
	}
	s.Reject(code, err.Error(), before)
}

// all returns the admitted sessions.
func (r *roster) all() []*session.Session {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*session.Session, 0, len(r.sessions))
	for s := range r.sessions {
		all = append(all, s)
	}
	return all
}

// closeAll closes all sessions with a code.
func (r *roster) closeAll(code int, reason string) {
	for _, s := range r.all() {
		s.CloseAfterFlush(code, reason)
	}
}

// counts returns the number of open sessions, and of anonymous ones.
func (r *roster) counts() (open, anonymous int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.sessions), r.anonymous.Len()
}

// wait waits until all sessions have ended. If ctx ends first, it ends the
// remaining ones without a close frame and returns ctx's cause.
func (r *roster) wait(ctx context.Context) error {
	r.mu.Lock()
	idle := r.idle // no more sessions are admitted, so the channel is not replaced
	r.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		for _, s := range r.all() {
			s.End()
		}
		<-idle
		return context.Cause(ctx)
	}
}
