package processor

import (
	"context"
	"errors"
	"sync"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Bounds of a Tail.
const (
	tailCommits = 4096
	tailBytes   = 8 << 20
)

// A Tail holds the newest commits that a node has received, in the order of the
// log and without gaps. All processors of the node share it. It is safe for
// concurrent use.
type Tail struct {
	mu      sync.Mutex
	commits []eventstore.Commit
	bytes   int
	head    eventstore.Position
	resets  uint64        // how often Reset was called
	changed chan struct{} // closed and replaced when head moves
}

// NewTail returns a tail that begins after a position.
func NewTail(head eventstore.Position) *Tail {
	return &Tail{head: head, changed: make(chan struct{})}
}

// Add appends commits that follow the head. Commits at or below it are ignored;
// commits beyond a gap replace what the tail holds, since the log has the rest.
func (t *Tail) Add(commits []eventstore.Commit) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.head
	for _, c := range commits {
		if c.Position <= t.head {
			continue
		}
		if c.First() > t.head+1 {
			t.commits, t.bytes = nil, 0
		}
		t.commits = append(t.commits, c)
		t.bytes += size(&c)
		t.head = c.Position
	}
	first := 0
	for len(t.commits)-first > tailCommits || t.bytes > tailBytes && first < len(t.commits) {
		t.bytes -= size(&t.commits[first])
		first++
	}
	t.commits = t.commits[first:] // callers of After may hold the rest; append reallocates now and then
	if t.head != before {
		close(t.changed)
		t.changed = make(chan struct{})
	}
}

func size(c *eventstore.Commit) (n int) {
	for _, e := range c.Events {
		n += len(e.Data)
	}
	return n
}

// Reset empties the tail, for a log that begins again after a position.
func (t *Tail) Reset(head eventstore.Position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.commits, t.bytes, t.head = nil, 0, head
	t.resets++
	close(t.changed)
	t.changed = make(chan struct{})
}

// Head returns the position of the newest commit.
func (t *Tail) Head() eventstore.Position {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.head
}

// Resets returns how often Reset was called.
func (t *Tail) Resets() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.resets
}

// After returns at most limit commits after a position, which is the end of a
// commit. It reports false if the tail does not reach back to it.
func (t *Tail) After(after eventstore.Position, limit int) (commits []eventstore.Commit, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if after >= t.head {
		return nil, true
	}
	if len(t.commits) == 0 || t.commits[0].First() > after+1 {
		return nil, false
	}
	low, high := 0, len(t.commits)
	for low < high { // the first commit after the position
		if mid := (low + high) / 2; t.commits[mid].Position > after {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return t.commits[low:min(low+limit, len(t.commits))], true
}

// ErrReset reports that the log begins again, so what a segment knows is of no
// use.
var ErrReset = errors.New("the log begins again")

// Wait returns when the head is past a position, ctx ends, or Reset was called
// since it had been called resets times; the error then is ErrReset.
func (t *Tail) Wait(ctx context.Context, after eventstore.Position, resets uint64) error {
	for {
		t.mu.Lock()
		head, changed, now := t.head, t.changed, t.resets
		t.mu.Unlock()
		switch {
		case now != resets:
			return ErrReset
		case head > after:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
