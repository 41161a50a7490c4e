package router

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/proto/command"
)

func TestDrainFinishesInFlightCommandsAndDivertsNewOnes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "b", "c", "g"})
	s := w.streamOf("a", "b", "a", "b", "c")
	a, b, g := w.nodes["a"], w.nodes["b"], w.nodes["g"]
	w.setSight("b", "b", "c") // b must not hand commands of g back to a
	hold := make(chan struct{})
	a.executor.set(func(e *executor) { e.hold = hold })
	inFlight := []<-chan command.Outcome{
		g.send(command.Command{Stream: s, Session: "1"}), a.send(command.Command{Stream: s, Session: "2"}),
	}
	a.executor.waitSubmitted(t, 2)
	drained := make(chan error, 1)
	go func() { drained <- a.router.Drain(t.Context()) }()
	g.waitFor("a to report that it is draining", func() bool { return !usable(g, "a") })

	// No node has a new view yet, and no command fails.
	for _, from := range []*node{g, a, b} {
		mustSucceed(t, from.do(command.Command{Stream: s, Session: "3"}))
	}
	select {
	case err := <-drained:
		t.Fatalf("Drain returned before the commands in flight were answered: %v", err)
	default:
	}
	close(hold)
	for _, answer := range inFlight {
		mustSucceed(t, <-answer)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
	for _, e := range w.journal.of(s) {
		if (e.session == "3") != (e.node == "b") {
			t.Errorf("executed as %+v; want what was in flight at a, and the rest at b", e)
		}
	}
	if st := g.router.Stats(); st.Unknown != 0 {
		t.Errorf("counters of g: %+v; want nothing unknown", st)
	}
}

func TestDrainEndsWithItsContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a", "g"})
	s := w.streamOf("a", "", "a")
	hold := make(chan struct{})
	defer close(hold)
	w.nodes["a"].executor.set(func(e *executor) { e.hold = hold })
	w.nodes["g"].send(command.Command{Stream: s})
	w.nodes["a"].executor.waitSubmitted(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.nodes["a"].router.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Drain returned %v, want the error of its context", err)
	}
}

func TestDrainWaitsForCommandsOfOwnSessions(t *testing.T) {
	t.Parallel()
	w := newWorld(t, []string{"a"}) // without a peer, since Drain would also wait for its stream
	a := w.nodes["a"]
	hold := make(chan struct{})
	a.executor.set(func(e *executor) { e.hold = hold })
	s := w.streamOf("a", "", "a")
	answer := a.send(command.Command{Stream: s, Session: "1"})
	a.executor.waitSubmitted(t, 1)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.router.Drain(ended); err == nil || !strings.Contains(err.Error(), "1 commands are still in flight") {
		t.Errorf("Drain returned %v while the executor has a command", err)
	}
	executed := make(chan int)
	go func() {
		if err := a.router.Drain(t.Context()); err != nil {
			t.Error(err)
		}
		executed <- len(w.journal.of(s))
	}()
	close(hold)
	if n := <-executed; n != 1 {
		t.Error("Drain returned before the command was executed")
	}
	mustSucceed(t, <-answer)
}
