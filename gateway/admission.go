package gateway

import (
	"container/list"
	"errors"
	"fmt"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// errTooMany is why a session is closed with 4101. Over HTTP it has a code.
type errTooMany struct {
	error
	code command.Code
}

// seat is where a session or a connection is counted.
type seat struct {
	in *list.List
	at *list.Element
}

func (s *seat) take(in *list.List, v any) { s.in, s.at = in, in.PushBack(v) }

func (s *seat) leave() {
	if s.in != nil {
		s.in.Remove(s.at)
		s.in, s.at = nil, nil
	}
}

// admit takes a session in, or says why not. A session that has not said
// hello takes the place of the oldest such session if there are too many.
func (g *Gateway) admit(s *session) error {
	g.mu.Lock()
	err := g.refusal()
	var oldest *session
	if err == nil {
		oldest = g.seatGreeting(s)
		if len(g.sessions) == 0 {
			g.idle = make(chan struct{})
		}
		g.sessions[s] = struct{}{}
		g.tasks.Add(1)
		g.stats.sessions.Add(1)
	}
	g.mu.Unlock()
	if oldest != nil {
		g.reached(limitAnonymousSessions)
		oldest.displace("too many sessions have not said hello: connect again later")
	}
	return err
}

// seatGreeting counts a session among those that have not said hello, and
// returns the one that must go. The caller holds g.mu.
func (g *Gateway) seatGreeting(s *session) (oldest *session) {
	if s.entered { // an event stream, which says no hello
		return nil
	}
	s.seat.take(&g.greetings, s)
	if g.greetings.Len() <= g.cfg.Limits.AnonymousSessions {
		return nil
	}
	return g.unseat(&g.greetings)
}

// unseat takes the place of the oldest session in a list, which the caller must
// displace. It returns nil if the list has none that is served already. The
// caller holds g.mu.
func (g *Gateway) unseat(from *list.List) *session {
	for at := from.Front(); at != nil; at = at.Next() {
		s := at.Value.(*session)
		if _, served := g.sessions[s]; served {
			s.seat.leave()
			s.displaced = true
			g.rejecting.Add(1)
			return s
		}
	}
	return nil
}

// refusal says why a session is not taken, or nil. The caller holds g.mu.
func (g *Gateway) refusal() error {
	if err := g.errRefused(); err != nil {
		return err
	}
	if g.known >= g.cfg.Limits.Sessions {
		return g.errFull()
	}
	return nil
}

// errFull refuses a session since there are as many as may be.
func (g *Gateway) errFull() error {
	g.reached(limitSessions)
	return errTooMany{errors.New("this gateway has as many sessions as it takes: come back later"), command.Unavailable}
}

// enter counts a session that says hello, as its client's or as anonymous, or
// says why it can't be served. A session with a client id may take the place of
// an anonymous one.
func (g *Gateway) enter(s *session, client string) error {
	g.mu.Lock()
	displaced, err := g.enterLocked(s, client)
	g.mu.Unlock()
	if displaced != nil {
		g.reached(limitSessions)
		displaced.displace("this gateway needs the place for clients that say who they are: come back later")
	}
	return err
}

func (g *Gateway) enterLocked(s *session, client string) (displaced *session, err error) {
	limits := &g.cfg.Limits
	full := g.known+g.anonymous.Len() >= limits.Sessions
	if client == "" {
		switch {
		case full:
			return nil, g.errFull()
		case g.anonymous.Len() >= limits.AnonymousSessions:
			g.reached(limitAnonymousSessions)
			return nil, errTooMany{errors.New("this gateway has as many anonymous sessions as it takes: say who you are, or come back later"), command.RateLimited}
		}
		s.seat.leave()
		s.seat.take(&g.anonymous, s)
		s.entered = true
		return nil, nil
	}
	if g.clients[client] >= limits.SessionsPerClient {
		g.reached(limitSessionsPerClient)
		return nil, errTooMany{fmt.Errorf("%s has %d sessions here, and more are not allowed: close one of them first", client, limits.SessionsPerClient), command.RateLimited}
	}
	if full {
		if displaced = g.unseat(&g.anonymous); displaced == nil {
			return nil, g.errFull()
		}
	}
	s.seat.leave()
	s.entered, s.counted = true, client
	g.known++
	g.clients[client]++
	return displaced, nil
}

// tooMany answers a client whose session is not taken.
func tooMany(err error) *command.Failure {
	var many errTooMany
	if errors.As(err, &many) {
		return &command.Failure{Code: many.code, Retry: command.RetryLater, Message: err.Error()}
	}
	return &command.Failure{Code: command.Unavailable, Retry: command.RetryLater, Message: err.Error() + ": connect to another gateway"}
}

// needsToken answers a hello without a token where no anonymous client may do
// anything.
func needsToken() *command.Failure {
	return &command.Failure{Code: command.Unauthenticated, Retry: command.RetryNo, Message: "this gateway takes no anonymous clients: give a token in hello"}
}

// leave ends what admit and enter began. The caller holds g.mu.
func (g *Gateway) leave(s *session) {
	s.seat.leave()
	if s.counted == "" {
		return
	}
	g.known--
	if g.clients[s.counted]--; g.clients[s.counted] == 0 {
		delete(g.clients, s.counted)
	}
	s.counted = ""
}

// unenter is leave for callers that don't hold g.mu.
func (g *Gateway) unenter(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leave(s)
}

func (g *Gateway) dismiss(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.sessions, s)
	g.leave(s)
	if s.displaced {
		g.rejecting.Add(-1)
	}
	if len(g.sessions) == 0 {
		close(g.idle)
	}
}

// rejectsAtOnce is how many sessions may be in the course of being closed as
// too many, with a code and the time to take it. Past it connections are cut.
func (g *Gateway) rejectsAtOnce() int64 { return int64(max(16, g.cfg.Limits.Sessions/64)) }

// displace closes a session that was unseated.
func (s *session) displace(reason string) {
	if s.g.rejecting.Load() > s.g.rejectsAtOnce() {
		s.end()
		return
	}
	s.closeAfter(frame.CloseTooMany, reason)
}

// reject closes a connection that was not admitted. It writes the close frame
// itself, after the bytes of before, since no shard serves the session.
func (s *session) reject(why error, before []byte) {
	code := frame.CloseLost
	var many errTooMany
	switch {
	case errors.As(why, &many):
		code = frame.CloseTooMany
	case errors.Is(why, errDrains), errors.Is(why, errStops):
		code = frame.CloseDraining
	}
	s.mu.Lock()
	s.ended, s.closing = true, true
	s.mu.Unlock()
	s.cancel()
	defer s.g.rejecting.Add(-1)
	if s.g.rejecting.Add(1) <= s.g.rejectsAtOnce() {
		s.socket.grace = closeGrace
		if err := s.socket.write(append(before, s.wire.close(code, why.Error())...)); err == nil {
			s.socket.finish(closeGrace)
			s.wire.ignore(s)
		}
	}
	_ = s.socket.Close()
	s.wire.release()
}
