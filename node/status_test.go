package node

import (
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/router/cluster"
)

// TestStateAndProblemAreChangedIndependently begins the drain of a node in the
// moment in which it loses its way, or finds it again.
func TestStateAndProblemAreChangedIndependently(t *testing.T) {
	t.Parallel()
	lost := errors.New("lost")
	for range 20_000 {
		n := &node{log: slog.New(slog.DiscardHandler)}
		n.status.Store(&status{state: cluster.Ready})
		var both sync.WaitGroup
		both.Go(func() { n.setState(cluster.Draining) })
		both.Go(func() { n.judge(func(s *status) { s.lost = lost }) })
		both.Wait()
		if s := n.status.Load(); s.state != cluster.Draining || !errors.Is(s.problem(), lost) {
			t.Fatalf("the node is %v, and its problem is %v", s.state, s.problem())
		}
	}
}

func TestANodeWhoseDatabaseStoresNothingIsReadyAndSaysSo(t *testing.T) {
	t.Parallel()
	n := &node{observer: newObserver("n1", nil)}
	n.status.Store(&status{state: cluster.Ready})
	shown := func(want cluster.Problem, state string) {
		t.Helper()
		if p := n.problem(); p != want || stateOf(cluster.Ready, p) != state {
			t.Errorf("the members hear of a node that is %s: %q, want %s: %q", stateOf(cluster.Ready, p), p, state, want)
		}
	}
	shown(cluster.NoProblem, "ready")
	n.observer.store.appended(eventstore.Appended{}, eventstore.ErrUnavailable, time.Now())
	shown(cluster.StoreRefuses, "ready")
	n.status.Store(&status{state: cluster.Ready, lost: eventstore.ErrWentBack})
	shown(cluster.LogWentBack, NotReady)
}
