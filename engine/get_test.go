package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

func TestGetOfUnusedAggregateShowsTheEmptyState(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		h := start(t, Config{Store: log(nil)})
		for _, strong := range []bool{false, true} {
			state, err := h.Get(t.Context(), command.Get{Stream: box("a"), Strong: strong})
			if err != nil || state.Version != 0 || state.Position != 0 || string(state.Data) != `{"events":0,"value":0}` {
				t.Errorf("strong %v: %+v %s, error %v", strong, state, state.Data, err)
			}
		}
		waitIdle(t, h)
		if s := h.Stats(); s.Cached != 0 {
			t.Errorf("%d unused aggregates are cached", s.Cached)
		}
		getFails(t, h, command.Get{Stream: eventstore.StreamID{Type: "shelf", ID: "1"}}, command.CodeNotFound)
		getFails(t, h, command.Get{Stream: box(".")}, command.CodeBadRequest)
	})
}

func TestStrongGetIsNeverStale(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		one, two := start(t, Config{Store: log(nil)}), start(t, Config{Store: log(nil)})
		for i := 1; i <= 30; i++ { // without a feed the hosts do not know of each other's commits
			writer, reader := one, two
			if i%2 == 0 {
				writer, reader = two, one
			}
			o := do(t, writer, cmd("a", fmt.Sprint(i), "put", m{"by": 1}))
			r := granted(t, o, eventstore.Version(i))
			g := command.Get{Stream: box("a"), Strong: true}
			if i%3 == 0 { // read your own write on the other host
				g = command.Get{Stream: box("a"), AtLeast: r.Position}
			}
			if value, version := get(t, reader, g); value != i || version != eventstore.Version(i) {
				t.Fatalf("after %d commits a strong get shows %d at version %d", i, value, version)
			}
		}
	})
}

func TestObservedCommitOutdatesTheCache(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	one, two := start(t, Config{Store: log}), start(t, Config{Store: log})
	granted(t, do(t, one, cmd("a", "1", "put", m{"by": 1})), 1)
	waitIdle(t, one)
	granted(t, do(t, two, cmd("a", "2", "put", m{"by": 1})), 2)
	g := command.Get{Stream: box("a")}
	if value, _ := get(t, one, g); value != 1 {
		t.Errorf("before Observe a get shows %d, want 1", value)
	}
	waitIdle(t, one)
	one.Observe(assertLog(t, log))
	if value, _ := get(t, one, g); value != 2 {
		t.Errorf("after Observe a get shows %d, want 2", value)
	}
	if s := one.Stats(); s.Invalidated != 1 || s.EventsLoaded != 1 {
		t.Errorf("%+v, want one state invalidated and one event loaded", s)
	}
	// A command is decided at the known version, without a conflict.
	granted(t, do(t, two, cmd("a", "3", "put", m{"by": 1})), 3)
	one.Observe(assertLog(t, log))
	granted(t, do(t, one, cmd("a", "4", "put", m{"by": 1})), 4)
	if s := one.Stats(); s.Conflicts != 0 {
		t.Errorf("%d conflicts", s.Conflicts)
	}
}

func TestOwnCommitsOnTheFeedCauseNoLoad(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	h := start(t, Config{Store: log})
	log.listeners = append(log.listeners, func(_ string, batch []eventstore.Commit) { h.Observe(batch) }) // before the append returns, as a store does
	for i := range 50 {
		granted(t, do(t, h, cmd("a", fmt.Sprint(i), "put", m{"by": 1})), eventstore.Version(i+1))
		h.Observe(log.commits[len(log.commits)-1:]) // again, as the feed does
		if value, _ := get(t, h, command.Get{Stream: box("a")}); value != i+1 {
			t.Fatalf("the box shows %d after %d", value, i+1)
		}
	}
	if s := h.Stats(); s.Loads != 1 || s.Invalidated != 0 {
		t.Errorf("%d loads, %d invalidated", s.Loads, s.Invalidated)
	}
}

func TestGetIsAnsweredWhileAnAppendIsUnderWay(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	h := start(t, Config{Store: log})
	granted(t, do(t, h, cmd("a", "1", "put", m{"by": 1})), 1)
	get(t, h, command.Get{Stream: box("a")}) // renders the view
	waitIdle(t, h)
	held := holdFirst(t, log)
	a := submit(t, h, cmd("a", "2", "put", m{"by": 1}))
	<-held.arrived
	if value, version := get(t, h, command.Get{Stream: box("a")}); value != 1 || version != 1 {
		t.Errorf("during the append the box shows %d at version %d, want 1 at 1", value, version)
	}
	held.open()
	granted(t, <-a, 2)
	if value, _ := get(t, h, command.Get{Stream: box("a")}); value != 2 {
		t.Errorf("after the reply the box shows %d", value)
	}
}

// protocol: rule Read your writes
func TestGetWaitsForAPosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newMemlog()
		h, stop := startStopping(t, Config{Store: log})
		defer stop()
		other, stopOther := startStopping(t, Config{Store: log})
		defer stopOther()
		granted(t, do(t, h, cmd("a", "1", "put", m{"by": 1})), 1)

		begun := time.Now()
		getFails(t, h, command.Get{Stream: box("a"), AtLeast: 2, Deadline: begun.Add(time.Second)}, command.CodeTimeout)
		if waited := time.Since(begun); waited != time.Second {
			t.Errorf("the get waited %s, want 1 s", waited)
		}

		for _, observed := range []bool{true, false} {
			type answer struct {
				value   int
				version eventstore.Version
			}
			answers := make(chan answer)
			position := log.head() + 1
			for range 3 {
				go func() {
					value, version := get(t, h, command.Get{Stream: box("a"), AtLeast: position})
					answers <- answer{value, version}
				}()
			}
			synctest.Wait()
			before := log.headReads()
			time.Sleep(time.Second)
			if asked := log.headReads() - before; asked == 0 || asked > 41 {
				t.Errorf("three gets asked for the head %d times in a second, want 1 to 41", asked)
			}
			do(t, other, cmd("a", fmt.Sprint("k", position), "put", m{"by": 1}))
			if observed {
				h.Observe(log.commits[len(log.commits)-1:])
			}
			for range 3 {
				if a := <-answers; a.value != int(position) || a.version != eventstore.Version(position) {
					t.Errorf("%+v at position %d", a, position)
				}
			}
		}
	})
}

func TestConcurrentGetsShareOneLoad(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	granted(t, do(t, start(t, Config{Store: log}), cmd("a", "1", "put", m{"by": 1})), 1)
	held := newGate(t)
	log.reading = func(eventstore.StreamID) error { held.pass(); return nil }
	h := start(t, Config{Store: log})
	_, before := log.counts()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if value, _ := get(t, h, command.Get{Stream: box("a")}); value != 1 {
				t.Errorf("the box shows %d", value)
			}
		})
	}
	<-held.arrived
	held.open()
	wg.Wait()
	if _, reads := log.counts(); reads != before+1 {
		t.Errorf("100 gets loaded the stream %d times", reads-before)
	}
}

func TestConcurrentLoadsAreBounded(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	held := newGate(t)
	var at, most atomic.Int64
	log.reading = func(eventstore.StreamID) error {
		now := at.Add(1)
		defer at.Add(-1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		held.pass()
		return nil
	}
	h := start(t, Config{Store: log, Loads: 4})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() { get(t, h, command.Get{Stream: box(fmt.Sprint(i))}) })
	}
	for range 4 {
		<-held.arrived
	}
	held.open()
	wg.Wait()
	if most.Load() != 4 {
		t.Errorf("%d aggregates were loaded concurrently, want 4", most.Load())
	}
}

func TestFailedLoadIsRetriedByTheNextRequest(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	var fail atomic.Bool
	fail.Store(true)
	log.reading = func(eventstore.StreamID) error {
		if fail.Load() {
			return eventstore.ErrUnavailable
		}
		return nil
	}
	h := start(t, Config{Store: log})
	getFails(t, h, command.Get{Stream: box("a")}, command.CodeUnavailable)
	failed(t, do(t, h, cmd("a", "1", "put", m{"by": 1})), command.CodeUnavailable, command.RetryLater)
	fail.Store(false)
	granted(t, do(t, h, cmd("a", "1", "put", m{"by": 1})), 1)
	if n, _ := log.counts(); n != 1 {
		t.Errorf("%d appends", n)
	}
}

func TestGetReturnsWhenItsContextEnds(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	held := newGate(t)
	log.reading = func(eventstore.StreamID) error { held.pass(); return nil }
	h := start(t, Config{Store: log, MailboxCommands: 2})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	for range 2 {
		go func() {
			_, err := h.Get(ctx, command.Get{Stream: box("a")})
			ended <- err
		}()
	}
	<-held.arrived
	cancel()
	for range 2 {
		var f *command.Failure
		if err := <-ended; !errors.As(err, &f) || f.Code != command.CodeTimeout {
			t.Errorf("error %v", err)
		}
	}
	held.open()
}

func TestDamagedStreamFailsAsInternal(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	h := start(t, Config{Store: log})
	for i := range 3 {
		granted(t, do(t, h, cmd("a", fmt.Sprint(i), "put", m{"by": 1})), eventstore.Version(i+1))
	}
	log.streams[box("a")] = []int{0, 2} // without version 2
	var out logged
	other := start(t, Config{Store: log, Logger: out.logger(), Catalog: catalog(func(b *aggregate.Type[Box]) { b.SnapshotEvery = -1 })})
	getFails(t, other, command.Get{Stream: box("a")}, command.CodeInternal)
	failed(t, do(t, other, cmd("a", "x", "put", m{"by": 1})), command.CodeInternal, command.RetryNo)
	if out.String() == "" {
		t.Error("nothing was logged")
	}
}
