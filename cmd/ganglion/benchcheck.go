package main

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	client "github.com/ganglion-es/ganglion/client/go"
)

// benchStream is one aggregate: what was sent to it, and what its history
// should be and was.
type benchStream struct {
	bench     *bench
	id        string
	followers []*benchFollower

	mu       sync.Mutex
	commands []sentCommand
	history  []benchEvent // by version, from version 1 on
	newest   int          // the highest version that was acknowledged
}

// benchEvent is an event as subscribers got it; zero if none has yet.
type benchEvent struct {
	command int // its number
	// stored tells two executions of a command from one with several events,
	// which have one time.
	stored time.Time
}

// sentCommand is a command that was sent; its number is its place, from 1 on.
type sentCommand struct {
	due     time.Time // when it was to be sent
	version int       // as it was acknowledged, 0 if it was not
}

// begin notes that a command is about to be sent, and returns its number.
func (s *benchStream) begin(due time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands = append(s.commands, sentCommand{due: due})
	return len(s.commands)
}

func (s *benchStream) acknowledged(n int, version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands[n-1].version = int(version)
	s.newest = max(s.newest, int(version))
}

// seen takes an event that a subscriber got as the one after version at.
func (s *benchStream) seen(at int, version uint64, cause string, stored time.Time) {
	n := numberOf(cause)
	s.mu.Lock()
	defer s.mu.Unlock()
	if int(version) != at+1 {
		s.bench.breaks("%s: a subscriber got version %d after version %d", s.id, version, at)
	}
	if n < 1 || n > len(s.commands) {
		s.bench.breaks("%s: version %d comes from nobody here (%q)", s.id, version, cause)
		return
	}
	for len(s.history) < int(version) {
		s.history = append(s.history, benchEvent{})
	}
	switch had := s.history[version-1].command; had {
	case 0:
		s.history[version-1] = benchEvent{n, stored}
	case n:
	default:
		s.bench.breaks("%s: version %d is of command %d for one subscriber and of %d for another", s.id, version, had, n)
	}
	s.bench.record(s.bench.delivery, time.Since(s.commands[n-1].due))
}

// settle waits until all followers have what was acknowledged.
func (s *benchStream) settle(ctx context.Context) {
	s.mu.Lock()
	newest := s.newest
	s.mu.Unlock()
	for _, f := range s.followers {
		f.reach(ctx, newest)
	}
}

// check compares the history that subscribers got with what was acknowledged.
// It is for after the load.
func (s *benchStream) check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.followers {
		if at := f.place(); at < s.newest && !f.refused {
			s.bench.breaks("%s: a subscriber got up to version %d, %d was acknowledged", s.id, at, s.newest)
		}
	}
	if len(s.followers) == 0 {
		return
	}
	begun := map[int]bool{}
	for i, e := range s.history {
		if e.command == 0 || i > 0 && s.history[i-1].command == e.command && s.history[i-1].stored.Equal(e.stored) {
			continue // not seen, or a further event of the same command
		}
		if begun[e.command] {
			s.bench.breaks("%s: command %d happened twice, again at version %d", s.id, e.command, i+1)
		}
		begun[e.command] = true
	}
	for i, c := range s.commands {
		if v := c.version; v > 0 && v <= len(s.history) && s.history[v-1].command != i+1 {
			s.bench.breaks("%s: command %d was acknowledged with version %d, which is of command %d", s.id, i+1, v, s.history[v-1].command)
		}
	}
}

// benchFollower is one subscription of one subscriber.
type benchFollower struct {
	stream *benchStream
	client *benchClient

	mu    sync.Mutex
	at    int           // the version that it got last
	moved chan struct{} // closed, and replaced, when at changes; nil while nobody waits
	ended bool

	refused bool // set before ended: the gateway did not let the client subscribe
}

// refusals are answers to a subscription that break no promise.
var refusals = map[client.Code]bool{
	client.CodeUnsupported: true, client.CodeUnauthenticated: true, client.CodeForbidden: true, client.CodeNotFound: true, client.CodeRateLimited: true,
}

// follow takes events until ctx ends.
func (f *benchFollower) follow(ctx context.Context) {
	b := f.stream.bench
	events := client.Type[json.RawMessage, json.RawMessage]{Name: b.Type}.Aggregate(f.client.Client, f.stream.id)
	for e, err := range events.Subscribe(ctx, client.FromStart()) {
		if err != nil {
			var said *client.Error
			switch {
			case ctx.Err() != nil:
			case errors.As(err, &said) && refusals[said.Code]:
				f.refused = true
				b.refuses(said)
			default:
				b.breaks("%s: a subscription ended: %v", f.stream.id, err)
			}
			break
		}
		f.stream.seen(f.place(), e.Version, e.Cause, e.Time)
		b.delivered.Add(1)
		f.mu.Lock()
		f.at = int(e.Version)
		f.tell()
		f.mu.Unlock()
	}
	f.mu.Lock()
	f.ended = true
	f.tell()
	f.mu.Unlock()
}

// tell wakes up who waits. The caller holds f.mu.
func (f *benchFollower) tell() {
	if f.moved != nil {
		close(f.moved)
		f.moved = nil
	}
}

func (f *benchFollower) place() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at
}

// reach waits until the follower has a version, or can't get it any more.
func (f *benchFollower) reach(ctx context.Context, version int) {
	for {
		f.mu.Lock()
		if f.at >= version || f.ended {
			f.mu.Unlock()
			return
		}
		if f.moved == nil {
			f.moved = make(chan struct{})
		}
		moved := f.moved
		f.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return
		}
	}
}
