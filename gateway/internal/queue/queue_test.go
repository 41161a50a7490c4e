package queue_test

import (
	"testing"

	"github.com/ganglion-es/ganglion/gateway/internal/queue"
)

func TestFIFOKeepsItsOrderWhileItGrows(t *testing.T) {
	t.Parallel()
	var q queue.FIFO[int]
	pushed, popped := 0, 0
	for round := range 100 {
		for range round {
			q.Push(pushed)
			pushed++
		}
		for range round / 2 {
			if got := q.Pop(); got != popped {
				t.Fatalf("got %d, want %d", got, popped)
			}
			popped++
		}
	}
	for q.Len() > 0 {
		if got := q.Pop(); got != popped {
			t.Fatalf("got %d, want %d", got, popped)
		}
		popped++
	}
	if popped != pushed {
		t.Errorf("popped %d elements, want %d", popped, pushed)
	}
}

func TestFairServesClientsInTurn(t *testing.T) {
	t.Parallel()
	var q queue.Fair[string]
	for _, v := range []string{"a1", "a2", "a3", "b1", "c1", "c2"} {
		q.Push(v[:1], v)
	}
	for _, want := range []string{"a1", "b1", "c1", "a2", "c2", "a3"} {
		if got := q.Pop(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if q.Len() != 0 {
		t.Errorf("%d elements are left, want none", q.Len())
	}
}
