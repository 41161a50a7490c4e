package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// sightings are the times at which numbered things were first seen: the orders, and
// what they cause. Its methods are safe for concurrent use.
type sightings struct {
	mu             sync.Mutex
	causes, effect map[int64]time.Time
	repeated       int           // effects that were seen again
	changed        chan struct{} // has an element after a new effect
}

func newSightings() *sightings {
	return &sightings{causes: map[int64]time.Time{}, effect: map[int64]time.Time{}, changed: make(chan struct{}, 1)}
}

func (s *sightings) cause(n int64, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.causes[n] = at
}

func (s *sightings) effected(n int64, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, again := s.effect[n]; again {
		s.repeated++
	} else {
		s.effect[n] = at
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// complete waits until each cause has its effect, and returns how long that took for
// each, sorted. All causes are known. It fails if no effect is seen for 30 s, or if one
// was seen twice. One goroutine may wait.
func (s *sightings) complete(ctx context.Context) ([]time.Duration, error) {
	for {
		switch missing, repeated := s.missing(); {
		case repeated > 0:
			return nil, fmt.Errorf("%d effects were seen twice", repeated)
		case missing <= 0:
			return s.lags(), nil
		}
		select {
		case <-s.changed:
		case <-time.After(30 * time.Second):
			missing, _ := s.missing()
			return nil, fmt.Errorf("%d effects are missing", missing)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *sightings) missing() (missing, repeated int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.causes) - len(s.effect), s.repeated
}

// lags returns how long after its cause each effect was seen, at least 0: a caller may
// learn of a cause after its effect.
func (s *sightings) lags() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]time.Duration, 0, len(s.causes))
	for n, at := range s.causes {
		list = append(list, max(0, s.effect[n].Sub(at)))
	}
	slices.Sort(list)
	return list
}
