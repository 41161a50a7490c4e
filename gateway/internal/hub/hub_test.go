package hub_test

import (
	"context"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/hub"
	"github.com/ganglion-es/ganglion/test/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

func encode(c *eventstore.Commit, i int) *history.Entry {
	return &history.Entry{Stream: c.Stream, Version: c.FirstVersion() + eventstore.Version(i), Position: c.First() + eventstore.Position(i)}
}

func newHub(shards int) *hub.Hub {
	return hub.New(hub.Config{
		Encode: encode, Window: history.NewWindow(1000, 1<<20), MessageLimit: func() int { return 1 << 20 }, Shards: shards,
	})
}

func event(p eventstore.Position, s eventstore.StreamID) []eventstore.Commit {
	return []eventstore.Commit{{Position: p, Stream: s, Version: 1, Events: make([]eventstore.Event, 1)}}
}

// reader is a session with one live subscription, which calls took for each
// event that a turn brings to it.
type reader struct {
	hub.Member
	hub.Seat
	place   history.Place
	touched atomic.Bool
	took    func()
}

func join(h *hub.Hub, t history.Topic, took func()) *reader {
	r := &reader{took: took}
	h.Enroll(&r.Member, r)
	r.Init(&r.Member, t, r)
	r.Join(func(eventstore.Position) bool { return false })
	return r
}

func (r *reader) Touch() { r.touched.Store(true) }
func (r *reader) Reach() {}

func (r *reader) Write(t *hub.Turn) {
	if !r.touched.Swap(false) {
		return
	}
	entries, _ := t.Excerpt(r.Topic()).After(r.place, t.Head)
	for _, e := range entries {
		r.place = e.Place()
		r.took()
	}
}

// TestHugeCategoryDoesNotDelayALoneStream delivers an event to thousands of
// sessions of a category and, while they are visited, another event to the only
// session of a stream in the same shard. The lone session gets its event within
// a few turns, before most of the others. GANGLION_FAULTS=long makes the
// category larger.
func TestHugeCategoryDoesNotDelayALoneStream(t *testing.T) {
	t.Parallel()
	crowd := 5_000
	if os.Getenv("GANGLION_FAULTS") == "long" {
		crowd = 100_000
	}
	h := newHub(1)
	var running sync.WaitGroup
	running.Go(h.Run)
	t.Cleanup(func() { h.Stop(); running.Wait() })

	var (
		served         atomic.Int64 // of the crowd
		began, proceed = make(chan struct{}), make(chan struct{})
		all, alone     = make(chan struct{}), make(chan struct{})
		servedByAlone  int64
	)
	lone := eventstore.StreamID{Type: "client", ID: "eve"}
	join(h, history.Topic{Stream: lone}, func() {
		servedByAlone = served.Load()
		close(alone)
	})
	for range crowd {
		join(h, history.Topic{Category: "auction"}, func() {
			switch served.Add(1) {
			case 1:
				close(began)
				<-proceed
			case int64(crowd):
				close(all)
			}
		})
	}
	wait := func(what string, signal <-chan struct{}) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		select {
		case <-signal:
		case <-ctx.Done():
			t.Fatalf("timeout: waited for %s", what)
		}
	}
	h.Deliver(event(1, eventstore.StreamID{Type: "auction", ID: "1"}))
	wait("the first delivery", began)
	h.Deliver(event(2, lone)) // does not wait for the shard
	close(proceed)
	wait("the lone session's event", alone)
	wait("the last delivery", all)
	if most := int64(4 * hub.LiveShare); servedByAlone > most {
		t.Errorf("the lone session got its event after %d of %d deliveries, want at most %d", servedByAlone, crowd, most)
	}
}

func TestVisitReachesSubscriptionsThatMoveInTheirAudience(t *testing.T) {
	t.Parallel()
	h := newHub(1)
	step := hub.NewStepper(h)
	counts := make([]int, 3*hub.LiveShare)
	var readers []*reader
	for i := range counts {
		readers = append(readers, join(h, history.Topic{Category: "auction"}, func() { counts[i]++ }))
	}
	h.Deliver(event(1, eventstore.StreamID{Type: "auction", ID: "1"}))
	step.Next() // visits the last of the audience
	for i := range counts {
		if i%2 == 0 { // the last seat moves to the index of the one that leaves
			readers[i].Leave()
		}
	}
	step.Serve()
	step.TakeAll()
	for i, n := range counts {
		if i%2 == 1 && n != 1 {
			t.Errorf("subscription %d got %d events, want 1", i, n)
		}
	}
}

func TestDeliverReportsMissingEvents(t *testing.T) {
	t.Parallel()
	h := newHub(1)
	s := eventstore.StreamID{Type: "auction", ID: "1"}
	for range 2 { // the second time the event is known
		if !h.Deliver(event(1, s)) || h.Head() != 1 {
			t.Errorf("events that are dense or known: the head is %d, want 1", h.Head())
		}
	}
	if h.Deliver(event(5, s)) || h.Head() != 5 {
		t.Errorf("events with a hole before them: the head is %d, want 5 and a report", h.Head())
	}
}
