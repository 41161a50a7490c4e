package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

func checkpoints(positions ...eventstore.Position) (list []rows.Checkpoint) {
	for s, p := range positions {
		list = append(list, rows.Checkpoint{Segment: s, Position: p})
	}
	return list
}

// waited returns how long a question waits for position 10 of two segments at 5 and
// 7, with a pause of a second, while announce runs.
func waited(t *testing.T, announce func(h *heard)) (took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var h heard
		count := h.count(1)
		go announce(&h)
		began := time.Now()
		h.await(t.Context(), 1, checkpoints(5, 7), count, 10, time.Second)
		took = time.Since(began)
		h.mu.Lock()
		defer h.mu.Unlock()
		if n := len(h.builds[1].waiting); n != 0 {
			t.Errorf("%d questions still wait", n)
		}
	})
	return took
}

func TestQuestionWaitsUntilAllSegmentsAreAnnounced(t *testing.T) {
	took := waited(t, func(h *heard) {
		time.Sleep(time.Millisecond)
		h.announce(1, 0, 10)
		time.Sleep(time.Millisecond)
		h.announce(1, 1, 12)
	})
	if took != 2*time.Millisecond {
		t.Errorf("waited %v", took)
	}
}

func TestQuestionLooksItselfIfNothingIsAnnounced(t *testing.T) {
	took := waited(t, func(h *heard) {
		time.Sleep(time.Millisecond)
		h.announce(1, 0, 10) // the other segment lags
		h.announce(2, 1, 10) // another build
		h.announce(1, -1, 10)
	})
	if took != time.Second {
		t.Errorf("waited %v", took)
	}
}

func TestAnnouncementBetweenReadAndWaitIsNotMissed(t *testing.T) {
	var h heard
	count := h.count(1)
	list := checkpoints(5, 10)
	h.announce(1, 0, 10)
	h.await(t.Context(), 1, list, count, 10, time.Hour)
}

// A position that was announced before the checkpoints were read, and that they do
// not show, is wrong: the log went back.
func TestWrongAnnouncementCausesNoRepeatedReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h heard
		h.announce(1, 0, 100)
		began := time.Now()
		h.await(t.Context(), 1, checkpoints(5), h.count(1), 10, time.Second)
		if took := time.Since(began); took != time.Second {
			t.Errorf("looked again after %v", took)
		}
	})
}

func TestQuestionEndsWithItsContext(t *testing.T) {
	var h heard
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h.await(ctx, 1, nil, 0, 10, time.Hour)
}

func TestAnnouncedBuildsAreBounded(t *testing.T) {
	var h heard
	for build := range int64(2 * maxHeard) {
		h.announce(build, 0, 1)
	}
	if n := len(h.builds); n > maxHeard {
		t.Errorf("%d builds are kept", n)
	}
}
