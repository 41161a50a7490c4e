package processor

import (
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
)

func TestTailKeepsTheNewestCommitsWithoutGaps(t *testing.T) {
	t.Parallel()
	commit := func(p eventstore.Position, events int) eventstore.Commit {
		return eventstore.Commit{Position: p, Events: make([]eventstore.Event, events)}
	}
	tail := NewTail(2)
	tail.Add([]eventstore.Commit{commit(1, 1), commit(4, 2), commit(5, 1)})
	got, ok := tail.After(2, 10)
	if !ok || len(got) != 2 || got[0].Position != 4 {
		t.Errorf("after 2: got %v, %v", got, ok)
	}
	if _, ok := tail.After(1, 10); ok {
		t.Error("the tail claims commits from before it began")
	}
	if got, ok := tail.After(4, 10); !ok || len(got) != 1 {
		t.Errorf("after 4: got %v, %v", got, ok)
	}
	if got, ok := tail.After(5, 10); !ok || len(got) != 0 {
		t.Errorf("at the head: got %v, %v", got, ok)
	}
	tail.Add([]eventstore.Commit{commit(9, 1)})
	if _, ok := tail.After(5, 10); ok {
		t.Error("the tail reaches over a gap")
	}
	for p := eventstore.Position(10); p < 10+2*tailCommits; p++ {
		tail.Add([]eventstore.Commit{commit(p, 1)})
	}
	if got, ok := tail.After(tail.Head()-tailCommits, 2*tailCommits); !ok || len(got) != tailCommits {
		t.Errorf("a full tail has %d commits, %v", len(got), ok)
	}
	if _, ok := tail.After(tail.Head()-tailCommits-1, 1); ok {
		t.Error("a full tail has more commits than its bound")
	}
	tail.Reset(3)
	if tail.Head() != 3 {
		t.Errorf("after a reset the head is %d", tail.Head())
	}
}
