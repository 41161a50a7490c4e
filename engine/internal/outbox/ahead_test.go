package outbox

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/proto/command"
)

// TestHeldCommandOfAnOldBuildHoldsItsTargetAlone hands over to a build while a command
// of the former one waits for an operator.
func TestHeldCommandOfAnOldBuildHoldsItsTargetAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, definition(t, nil))
	next := w.open("two")
	w.write(w.table, "thing/a", "thing/b", "thing/a")
	if err := w.rows.Handover(t.Context(), w.table.Build().ID, next.Build().ID); err != nil {
		t.Fatal(err)
	}
	w.write(next, "thing/a", "thing/b", "thing/c", "thing/a")
	broken := true
	w.answer = func(c command.Command) *command.Failure {
		if broken && c.Stream.ID == "a" {
			return command.Internal(command.RetryNo)
		}
		return nil
	}
	w.run(next)
	ctx, cancel := context.WithCancel(t.Context())
	var draining sync.WaitGroup
	draining.Go(func() { w.outbox.Drain(ctx, func(build int64) bool { return build == next.Build().ID }) })
	defer func() { cancel(); draining.Wait() }()
	w.until("what does not wait", func() bool { return w.left() == 4 })
	if got := w.keys("thing/b"); !slices.Equal(got, []string{key(2), key(5)}) {
		t.Errorf("thing/b has got %v", got)
	}
	if got := w.keys("thing/c"); !slices.Equal(got, []string{key(6)}) {
		t.Errorf("thing/c has got %v", got)
	}
	w.until("a held command", func() bool { h, err := w.rows.Held(t.Context(), "watcher", 10); return err == nil && len(h) > 0 })
	w.mu.Lock()
	broken = false
	w.mu.Unlock()
	held, err := w.rows.Held(t.Context(), "watcher", 10)
	if err != nil || len(held) != 1 || held[0].Build != w.table.Build().ID {
		t.Fatalf("held: %+v, %v; want one of the former build", held, err)
	}
	if ok, err := w.rows.Release(t.Context(), "watcher", held[0].CommandID); !ok || err != nil {
		t.Fatalf("release: %v, %v", ok, err)
	}
	w.until("an empty outbox", func() bool { return w.left() == 0 })
	if got := w.keys("thing/a"); !slices.Equal(got, []string{key(1), key(3), key(4), key(7)}) {
		t.Errorf("thing/a has got %v, want the commands of both builds in order", got)
	}
}
