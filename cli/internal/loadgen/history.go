package loadgen

import (
	"context"
	"sync"
	"time"
)

// stream is one aggregate: the commands sent to it, and its history as its
// followers received it.
type stream struct {
	load      *Load
	id        string
	followers []*follower

	mu       sync.Mutex
	commands []command // by number, from 1 on
	history  []event   // by version, from 1 on
	newest   int       // the highest acknowledged version
}

// event is an event as followers received it; zero if none has yet.
type event struct {
	command int // its number
	// stored distinguishes two executions of a command from one execution with
	// several events, which have the same time.
	stored time.Time
}

// command is a command that was sent.
type command struct {
	due     time.Time // when it was scheduled to be sent
	version int       // in its acknowledgement, 0 without one
}

// addCommand records a command that is about to be sent, and returns its number.
func (s *stream) addCommand(due time.Time) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands = append(s.commands, command{due: due})
	return len(s.commands)
}

// acknowledge records the version in the acknowledgement of the n-th command.
func (s *stream) acknowledge(n int, version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commands[n-1].version = int(version)
	s.newest = max(s.newest, int(version))
}

// observe records an event that a follower received right after version previous.
func (s *stream) observe(previous int, version uint64, cause string, stored time.Time) {
	n := keyNumber(cause)
	s.mu.Lock()
	defer s.mu.Unlock()
	if int(version) != previous+1 {
		s.load.addViolation("%s: a subscriber got version %d after version %d", s.id, version, previous)
	}
	if n < 1 || n > len(s.commands) {
		s.load.addViolation("%s: version %d has the cause %q, which is not a command of this run", s.id, version, cause)
		return
	}
	for len(s.history) < int(version) {
		s.history = append(s.history, event{})
	}
	switch known := s.history[version-1].command; known {
	case 0:
		s.history[version-1] = event{n, stored}
	case n:
	default:
		s.load.addViolation("%s: version %d is of command %d for one subscriber and of %d for another", s.id, version, known, n)
	}
	s.load.record(s.load.delivery, time.Since(s.commands[n-1].due))
}

// awaitFollowers waits until each follower has reached the newest acknowledged
// version, or its subscription or ctx has ended.
func (s *stream) awaitFollowers(ctx context.Context) {
	s.mu.Lock()
	newest := s.newest
	s.mu.Unlock()
	for _, f := range s.followers {
		f.awaitVersion(ctx, newest)
	}
}

// check compares the received history with the acknowledgements. It must be
// called after the load.
func (s *stream) check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.followers {
		if at := f.current(); at < s.newest && !f.refused {
			s.load.addViolation("%s: a subscriber got only up to version %d, but version %d was acknowledged", s.id, at, s.newest)
		}
	}
	if len(s.followers) == 0 {
		return
	}
	executed := map[int]bool{}
	for i, e := range s.history {
		if e.command == 0 || i > 0 && s.history[i-1].command == e.command && s.history[i-1].stored.Equal(e.stored) {
			continue // not received, or a further event of the same execution
		}
		if executed[e.command] {
			s.load.addViolation("%s: command %d happened twice, again at version %d", s.id, e.command, i+1)
		}
		executed[e.command] = true
	}
	for i, c := range s.commands {
		if v := c.version; v > 0 && v <= len(s.history) && s.history[v-1].command != i+1 {
			s.load.addViolation("%s: command %d was acknowledged with version %d, which is of command %d", s.id, i+1, v, s.history[v-1].command)
		}
	}
}
