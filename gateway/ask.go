package gateway

import (
	"context"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// askBytes is the least room that a state is given in a session's send buffer
// before the router is asked for it. It is as much as the last one took, if that
// is more.
const askBytes = 16 << 10

// ask is a request whose answer has a state: a get, or a subscribe with state.
// A state may be large and the router can be asked again, so that the request
// waits until the send buffer has room. If the answer turns out larger than the
// room it was given, and there is no room for all of it, the answer is
// dropped and the request is asked again once nothing else waits for the
// socket. A session's states therefore take no more than Config.QueueBytes, or
// one of them takes more alone.
type ask struct {
	read  func() (bytes int) // asks the router; s.mu is not held
	done  func()             // queues the answer; s.mu is held
	alone bool
}

// ask queues a request until the session has room for its answer. The caller
// holds s.mu.
func (s *session) ask(a *ask) {
	s.asks = append(s.asks, a)
	s.askNext()
}

// askNext starts the requests for whose answers there is room. The caller
// holds s.mu.
func (s *session) askNext() {
	most := s.g.cfg.QueueBytes
	for len(s.asks) > 0 && !s.closing {
		a, room := s.asks[0], min(max(askBytes, s.lastState), most)
		if a.alone {
			room = most
		}
		if used := s.owed + s.reserved; used > 0 && used+room > most {
			return // written continues
		}
		s.asks[0] = nil
		if s.asks = s.asks[1:]; len(s.asks) == 0 {
			s.asks = nil
		}
		s.reserved += room
		s.spawn(func() { s.askOne(a, room) })
	}
}

func (s *session) askOne(a *ask, room int) {
	bytes := a.read()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reserved -= room
	s.lastState = bytes
	if used := s.owed + s.reserved; bytes > room && !a.alone && used > 0 && used+bytes > s.g.cfg.QueueBytes && !s.closing {
		a.alone = true
		s.asks = append([]*ask{a}, s.asks...)
	} else {
		a.done()
	}
	s.askNext()
}

// readPatience bounds how long a read waits for its client's turn.
const readPatience = 15 * time.Second

// askRouter reads a state for a client once it is the client's turn.
func (g *Gateway) askRouter(ctx context.Context, who asker, get command.Get) (command.State, *command.Failure) {
	waiting, cancel := context.WithTimeout(ctx, readPatience)
	release, err := g.gets.acquire(waiting, who.client, who.session)
	cancel()
	if err != nil {
		if ctx.Err() == nil {
			return command.State{}, g.noTurn()
		}
		return command.State{}, asFailure(err, command.RetryLater)
	}
	defer release()
	ctx, cancel = context.WithTimeout(ctx, frame.DefaultTimeout)
	defer cancel()
	get.Deadline, _ = ctx.Deadline()
	state, err := g.cfg.Router.Get(ctx, get)
	if err != nil {
		return state, asFailure(err, command.RetryLater)
	}
	return state, nil
}

// noTurn refuses a read that waited too long for its client's turn.
func (g *Gateway) noTurn() *command.Failure {
	g.reached(limitReads)
	return &command.Failure{
		Code: command.Busy, Retry: command.RetryLater, After: 500 * time.Millisecond,
		Message: "too many reads of this client are under way: ask for less at the same time",
	}
}
