package engine

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/engine/internal/waker"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/wakes"
	"github.com/ganglion-es/ganglion/proto/command"
)

// none owns no segment, and takes one of another node that has stood still for a moment.
func none(int) bool { return false }

const takeSoon = 100 * time.Millisecond

// A frozen store does not answer until thaw is closed.
type frozen struct {
	wakes.Store
	thaw chan struct{}
}

func (f frozen) wait(ctx context.Context) error {
	select {
	case <-f.thaw:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f frozen) Begin(ctx context.Context, fingerprint string, segment int) (wakes.Checkpoint, error) {
	if err := f.wait(ctx); err != nil {
		return wakes.Checkpoint{}, err
	}
	return f.Store.Begin(ctx, fingerprint, segment)
}

func (w *wakeWorld) setMany(prefix string, n int) {
	w.Helper()
	for i := range n {
		w.set(fmt.Sprint(prefix, i), six, "")
	}
}

func TestWakeUpsOfAFrozenOwnerAreTakenUntilItWorks(t *testing.T) {
	t.Parallel()
	w := newWakeWorld(t)
	owner := frozen{w.store.Wakes(), make(chan struct{})}
	w.nodeOf(WakesConfig{Wakes: owner})
	other, _ := w.nodeOf(WakesConfig{Owns: none, TakeAfter: takeSoon})
	const n = 20
	w.setMany("a", n)
	w.rings(n)
	close(owner.thaw)
	rung := n
	for i := 0; other.Stats().Segments > 0; i++ { // the owner fences it at some commit
		w.setMany(fmt.Sprint("b", i, "-"), waker.Segments)
		rung += waker.Segments
		w.rings(rung)
	}
}

// TestOwnerThatAsksNothingLosesItsDueWakeUps lets the owner fold the log, while its
// questions are never answered and the log is quiet.
func TestOwnerThatAsksNothingLosesItsDueWakeUps(t *testing.T) {
	t.Parallel()
	w := newWakeWorld(t)
	var once sync.Once
	asked := make(chan struct{})
	w.nodeOf(WakesConfig{Send: func(ctx context.Context, _ command.Command) command.Outcome {
		once.Do(func() { close(asked) })
		<-ctx.Done()
		return command.Failed(command.Timeout(command.RetrySameKey, "it ended"))
	}})
	const n = 20
	w.setMany("a", n)
	<-asked
	w.nodeOf(WakesConfig{Owns: none, TakeAfter: takeSoon})
	w.rings(n)
}

// TestIdleWakeUpsOfAnotherNodeAreNotTaken waits for another segment that is taken.
func TestIdleWakeUpsOfAnotherNodeAreNotTaken(t *testing.T) {
	t.Parallel()
	w := newWakeWorld(t)
	w.set("later", nextCentury, "")
	_, stop := w.nodeOf(WakesConfig{})
	fingerprint := WakeFingerprint(w.catalog)
	for atHead := false; !atHead; {
		list, err := w.store.Wakes().Standings(t.Context(), fingerprint, []string{"alarm"})
		if err != nil {
			t.Fatal(err)
		}
		atHead = len(list) == waker.Segments
		for _, s := range list {
			atHead = atHead && s.Position == 1
		}
	}
	stop() // all segments are at the head, and nothing is due
	if err := w.store.Wakes().Write(t.Context(), wakes.Batch{Fingerprint: fingerprint, Segment: 2, From: 1, To: 1, Key: "set later", Asks: []wakes.Ask{
		{Stream: eventstore.StreamID{Type: "alarm", ID: "later"}, Version: 1, Now: true},
	}}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	began := map[int]bool{}
	n, _ := w.nodeOf(WakesConfig{Owns: none, TakeAfter: takeSoon, Wakes: begun{w.store.Wakes(), func(segment int) {
		mu.Lock()
		defer mu.Unlock()
		began[segment] = true
	}}})
	eventually(t, "an answer", func() bool { return n.Stats().NotDue > 0 })
	mu.Lock()
	defer mu.Unlock()
	if len(began) != 1 || !began[2] {
		t.Errorf("the segments %v were taken, want 2 alone", began)
	}
}

// begun reports which segments a node begins.
type begun struct {
	wakes.Store
	report func(segment int)
}

func (b begun) Begin(ctx context.Context, fingerprint string, segment int) (wakes.Checkpoint, error) {
	b.report(segment)
	return b.Store.Begin(ctx, fingerprint, segment)
}
