package observe

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

const (
	// stepsKept bounds the steps that a node remembers, about 400 KB.
	stepsKept = 2048
	// stepsFor is how long it remembers steps after the last Keep.
	stepsFor = 10 * time.Second
)

// A Step is one thing that a node did for a command.
type Step struct {
	// Kind is the name of the span: "command", "execute", "append" or "deliver".
	Kind   string
	Stream eventstore.StreamID
	// Name and Key are those of the command; Name is "" if the node did not see the
	// command, only its events.
	Name, Key string
	// Position is that of the command's last event, 0 if it is unknown.
	Position     eventstore.Position
	Began, Ended time.Time
	// Outcome is a failure's code, "replayed", or "".
	Outcome string
	// Attempt is the number of nodes that the command was sent to, from 1.
	Attempt int
	// Subscriptions is how many live subscriptions got the events.
	Subscriptions int
}

// Steps remembers the newest steps while an operator looks at them. Otherwise it costs
// a comparison for each step. The zero value is ready for use, and safe for concurrent
// use.
type Steps struct {
	keeps atomic.Bool

	mu   sync.Mutex
	ring []Step // nil while no operator looks
	next int
	free *time.Timer
}

// Keep remembers steps for the next 10 seconds.
func (s *Steps) Keep() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free == nil {
		s.free = time.AfterFunc(stepsFor, s.forget)
	}
	s.free.Reset(stepsFor)
	s.keeps.Store(true)
}

func (s *Steps) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keeps.Store(false)
	s.ring, s.next = nil, 0
}

func (s *Steps) add(one Step) {
	one.Ended = time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.keeps.Load():
	case len(s.ring) < stepsKept:
		s.ring = append(s.ring, one)
	default:
		s.ring[s.next] = one
		s.next = (s.next + 1) % stepsKept
	}
}

// Of returns the remembered steps of a command, at most most, in the order in which they
// ended.
func (s *Steps) Of(stream eventstore.StreamID, key string, most int) []Step {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Step
	for i := range s.ring {
		if one := &s.ring[(s.next+i)%len(s.ring)]; one.Key == key && one.Stream == stream && len(found) < most {
			found = append(found, *one)
		}
	}
	return found
}

// recorded returns a reply that adds a step of the command. While no operator looks, it
// returns the given one.
func (s *Steps) recorded(kind string, c *command.Command, reply func(command.Outcome)) func(command.Outcome) {
	if !s.keeps.Load() {
		return reply
	}
	one := Step{Kind: kind, Stream: c.Stream, Name: c.Name, Key: c.Key, Attempt: c.Attempt, Began: time.Now()}
	return func(out command.Outcome) {
		s.add(one.with(out))
		reply(out)
	}
}

// with returns the step with the outcome of its command.
func (one Step) with(out command.Outcome) Step {
	switch f := out.Failure; {
	case f != nil:
		one.Outcome = string(f.Code)
	default:
		one.Position = out.Result.Position
		if out.Result.Replayed {
			one.Outcome = "replayed"
		}
	}
	return one
}
