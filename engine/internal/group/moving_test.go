package group_test

import (
	"testing"
	"time"
)

// These tests look at members while segments move between them.

func TestNothingIsSentOfReleasedSegmentsWhileTheyMove(t *testing.T) {
	run(t, 2, 4, func(w *world) {
		a := w.nodes["n1"].join("a")
		wait(2 * time.Second)
		b := w.nodes["n2"].join("b")
		wait(1500 * time.Millisecond)
		w.nodes["n1"].assigning.Store(int64(500 * time.Millisecond))
		releaseAll(a)
		for range 9 {
			wait(100 * time.Millisecond)
			w.count("while the others move", 2, a)
		}
		wait(500 * time.Millisecond)
		w.count("after they have moved", 2, a, b)
	})
}

func TestGatewayThatReturnsIsNotGivenWhatMovesToOthers(t *testing.T) {
	run(t, 2, 4, func(w *world) {
		a, b := w.nodes["n1"].join("a"), w.nodes["n2"].join("b")
		wait(2 * time.Second)
		w.nodes["n1"].assigning.Store(int64(500 * time.Millisecond))
		w.nodes["n2"].cut.Store(true)
		wait(2300 * time.Millisecond) // the segments of n2 are being given to a
		w.nodes["n2"].cut.Store(false)
		for range 6 {
			wait(100 * time.Millisecond)
			w.count("while its segments move", 0, b)
		}
		w.nodes["n1"].assigning.Store(0)
		wait(time.Second)
		w.count("when they have moved and two are revoked", 2, a)
		w.count("before the release", 0, b)
		releaseAll(a)
		wait(time.Second)
		w.count("in the end", 2, a, b)
	})
}

func TestRevocationOutlivesItsCoordinator(t *testing.T) {
	run(t, 2, 4, func(w *world) {
		a := w.nodes["n1"].join("a")
		wait(2 * time.Second)
		b := w.nodes["n2"].join("b")
		wait(1500 * time.Millisecond)
		held := a.Holdings().List
		w.own("n2")
		releaseAll(a)
		for range 10 {
			wait(100 * time.Millisecond)
			w.count("under the new coordinator", 2, a)
		}
		wait(2500 * time.Millisecond)
		w.count("after the new coordinator has moved what was released", 2, a, b)
		for _, h := range held {
			if h.Revoking && epoch(b, h.Segment) <= h.Epoch {
				t.Errorf("the new coordinator did not move segment %s, which was released", h.Segment)
			}
		}
	})
}

func TestReleasedSegmentsReturnIfTheirNextMemberAndTheCoordinatorAreGone(t *testing.T) {
	run(t, 2, 4, func(w *world) {
		a := w.nodes["n1"].join("a")
		wait(2 * time.Second)
		b := w.nodes["n2"].join("b")
		wait(1500 * time.Millisecond)
		w.own("n2")
		releaseAll(a)
		b.Close()
		wait(4 * time.Second)
		w.count("under the new coordinator", 4, a)
	})
}
