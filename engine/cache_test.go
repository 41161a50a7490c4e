package engine

import (
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// putOne adds 1 to an unused box and waits until it is idle.
func putOne(t *testing.T, h *Host, id string) {
	t.Helper()
	granted(t, do(t, h, cmd(id, "1", "put", m{"by": 1})), 1)
	waitIdle(t, h)
}

func TestCacheEvictsTheLeastRecentlyUsedStates(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	h := start(t, Config{Store: log, CachedStates: 10})
	touch := func(i int) {
		get(t, h, command.Get{Stream: box(fmt.Sprint(i))})
	}
	for i := range 30 {
		putOne(t, h, fmt.Sprint(i))
		touch(0)
	}
	s := h.Stats()
	if s.Cached != 10 || s.Evicted != 20 || s.CachedBytes <= 0 {
		t.Errorf("%d cached in %d bytes, %d evicted", s.Cached, s.CachedBytes, s.Evicted)
	}
	if s.Loads != 30 {
		t.Errorf("the box that was used most was loaded again: %d loads", s.Loads)
	}
	for i := 21; i < 30; i++ {
		touch(i)
	}
	if again := h.Stats(); again.Loads != s.Loads {
		t.Errorf("recently used boxes were evicted: %d loads", again.Loads-s.Loads)
	}
	touch(1)
	if again := h.Stats(); again.Loads != s.Loads+1 {
		t.Errorf("an evicted box was loaded %d times, want once", again.Loads-s.Loads)
	}
}

func TestCacheIsBoundedByBytes(t *testing.T) {
	t.Parallel()
	h := start(t, Config{Store: newMemlog(), CachedBytes: 5000})
	for i := range 30 {
		putOne(t, h, fmt.Sprint(i))
		if s := h.Stats(); s.CachedBytes > 5000 {
			t.Fatalf("%d bytes cached", s.CachedBytes)
		}
	}
	if s := h.Stats(); s.Cached == 0 || s.Cached == 30 || s.Cached+int(s.Evicted) != 30 {
		t.Errorf("%d cached, %d evicted", s.Cached, s.Evicted)
	}
	h.Clear()
	if s := h.Stats(); s.Cached != 0 || s.CachedBytes != 0 {
		t.Errorf("%d states in %d bytes after Clear", s.Cached, s.CachedBytes)
	}
}

func TestKeepForgetsAggregatesThatAreNotOwned(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	h := start(t, Config{Store: log})
	putOne(t, h, "mine")
	putOne(t, h, "theirs")
	held := holdFirst(t, log)
	busy := submit(t, h, cmd("busy", "1", "put", m{"by": 1}))
	<-held.arrived
	next := submit(t, h, cmd("busy", "2", "put", m{"by": 1}))
	h.Keep(func(s eventstore.StreamID) bool { return s.ID == "mine" })
	if s := h.Stats(); s.Cached != 2 { // mine and busy, which has a worker
		t.Errorf("%d cached", s.Cached)
	}
	held.open()
	granted(t, <-busy, 1)
	granted(t, <-next, 2)
	waitIdle(t, h)
	if s := h.Stats(); s.Cached != 1 {
		t.Errorf("%d cached after the mailbox was empty", s.Cached)
	}
	if value, _ := get(t, h, command.Get{Stream: box("busy")}); value != 2 {
		t.Errorf("loaded again, the box shows %d", value)
	}
}

// An append that ends after Clear must not restore a state of lost events.
func TestClearDropsStateOfAppendInProgress(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	h := start(t, Config{Store: log})
	granted(t, do(t, h, cmd("a", "1", "repeat", m{"times": 2})), 2)
	held := newGate(t)
	log.after = func(eventstore.Unit) error { held.pass(); return nil }
	answer := submit(t, h, cmd("a", "2", "put", m{"by": 1}))
	<-held.arrived
	h.Clear()
	log.mu.Lock() // an older copy of the log is restored
	log.commits, log.streams, log.keys = nil, map[eventstore.StreamID][]int{}, map[keyOf]known{}
	log.mu.Unlock()
	held.open()
	granted(t, <-answer, 3)
	if value, version := get(t, h, command.Get{Stream: box("a")}); value != 0 || version != 0 {
		t.Errorf("the box shows %d at version %d, which the log has lost", value, version)
	}
	granted(t, do(t, h, cmd("a", "3", "put", m{"by": 1})), 1)
	if value, version := get(t, h, command.Get{Stream: box("a"), AtLeast: 1}); value != 1 || version != 1 {
		t.Errorf("the box shows %d at version %d", value, version)
	}
}

func TestPauseDetectorComparesBothClocks(t *testing.T) {
	t.Parallel()
	now := time.Now()
	h, err := New(Config{Store: newMemlog(), Catalog: catalog(nil)})
	if err != nil {
		t.Fatal(err)
	}
	for after, want := range map[time.Duration]bool{
		pauseTick: false, 9 * pauseTick: false, pauseLimit: false, pauseLimit + 1: true, time.Hour: true,
	} {
		if got := h.pauses.isPause(now, now.Add(after)); got != want {
			t.Errorf("%s between two ticks: paused %v", after, got)
		}
	}
	// On a suspended machine only the wall clock moves.
	if !h.pauses.isPause(now, now.Round(0).Add(time.Hour)) {
		t.Error("a suspended machine was not noticed")
	}
}

// A get that waited in a socket during the pause may be served before the pause is
// noticed.
func TestGetRightAfterAPauseIsNotStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, stop := startBehind(t)
		defer stop()
		h.pauses.lastTick.Store(new(time.Now().Add(-pauseLimit - 1)))
		if _, version := get(t, h, command.Get{Stream: box("a")}); version != 2 {
			t.Errorf("right after a pause a get shows version %d, want 2", version)
		}
		if n := h.Stats().Pauses; n != 0 {
			t.Errorf("%d pauses were noticed before the get, want 0", n)
		}
	})
}

// startBehind runs a host that has box a in memory at version 1, while another host
// has stored version 2. Without a feed the first host does not know it.
func startBehind(t *testing.T) (h *Host, stop func()) {
	t.Helper()
	log := newMemlog()
	h, stopFirst := startStopping(t, Config{Store: log})
	other, stopOther := startStopping(t, Config{Store: log})
	synctest.Wait()
	granted(t, do(t, h, cmd("a", "1", "put", m{"by": 1})), 1)
	granted(t, do(t, other, cmd("a", "2", "put", m{"by": 1})), 2)
	if _, version := get(t, h, command.Get{Stream: box("a")}); version != 1 {
		t.Fatalf("a get shows version %d, want 1", version)
	}
	return h, func() { stopFirst(); stopOther() }
}

func TestPauseDropsEveryState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, stop := startBehind(t)
		defer stop()
		h.pauses.lastTick.Store(new(time.Now().Add(-pauseLimit)))
		time.Sleep(2 * pauseTick) // until the pause is noticed
		synctest.Wait()
		if s := h.Stats(); s.Pauses != 1 || s.Cached != 0 {
			t.Errorf("%d pauses were noticed, and %d states are in memory", s.Pauses, s.Cached)
		}
		if _, version := get(t, h, command.Get{Stream: box("a")}); version != 2 {
			t.Errorf("after a pause a get shows version %d, want 2", version)
		}
	})
}

func TestHealthyProcessDropsNoState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, stop := startStopping(t, Config{Store: newMemlog()})
		defer stop()
		granted(t, do(t, h, cmd("a", "1", "put", m{"by": 1})), 1)
		time.Sleep(time.Minute) // the bubble's time
		if s := h.Stats(); s.Pauses != 0 || s.Cached != 1 {
			t.Errorf("%d pauses, %d cached", s.Pauses, s.Cached)
		}
	})
}

func TestLoadStartsFromTheNewestSnapshot(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		store := log(nil)
		h := start(t, Config{Store: store})
		for i := range 25 {
			granted(t, do(t, h, cmd("a", fmt.Sprint(i), "put", m{"by": 1})), eventstore.Version(i+1))
		}
		waitStats(t, h, func(s Stats) bool { return s.Snapshots+s.SnapshotsDropped >= 2 })

		other := start(t, Config{Store: log(nil)})
		if value, version := get(t, other, command.Get{Stream: box("a")}); value != 25 || version != 25 {
			t.Errorf("from a snapshot the box shows %d at version %d", value, version)
		}
		if s := other.Stats(); s.SnapshotsUsed != 1 || s.EventsLoaded != 5 {
			t.Errorf("%d snapshots used, %d events loaded", s.SnapshotsUsed, s.EventsLoaded)
		}
		if r := granted(t, do(t, other, cmd("a", "idle", "idle", m{})), 25); r.Position != 25 {
			t.Errorf("%+v", r)
		}

		// A program with another fingerprint ignores the snapshot and makes its own.
		newer := start(t, Config{Store: log(nil), Catalog: catalog(func(b *aggregate.Type[Box]) { b.Revision = 7 })})
		if value, version := get(t, newer, command.Get{Stream: box("a")}); value != 25 || version != 25 {
			t.Errorf("without the snapshot the box shows %d at version %d", value, version)
		}
		if s := newer.Stats(); s.SnapshotsUsed != 0 || s.EventsLoaded != 25 {
			t.Errorf("%d snapshots used, %d events loaded", s.SnapshotsUsed, s.EventsLoaded)
		}
		waitStats(t, newer, func(s Stats) bool { return s.Snapshots == 1 })
	})
}

func TestUnusableSnapshotIsIgnored(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	h := start(t, Config{Store: log})
	granted(t, do(t, h, cmd("a", "1", "repeat", m{"times": 3})), 3)
	fingerprint := func() string { d, _ := h.catalog.Type("box"); return d.Fingerprint() }()

	log.snapshots[snapshotOf{box("a"), fingerprint}] = eventstore.Snapshot{Stream: box("a"), Version: 3, Fingerprint: fingerprint, State: []byte(`[`)}
	if value, _ := get(t, start(t, Config{Store: log}), command.Get{Stream: box("a"), Strong: true}); value != 3 {
		t.Errorf("without a snapshot that is not JSON the box shows %d", value)
	}
	// A snapshot ahead of the log was made of events that the log has lost.
	log.snapshots[snapshotOf{box("a"), fingerprint}] = eventstore.Snapshot{
		Stream: box("a"), Version: 9, Position: 9, Fingerprint: fingerprint, State: []byte(`{"Value":99,"Events":9}`),
	}
	other := start(t, Config{Store: log})
	granted(t, do(t, other, cmd("a", "2", "put", m{"by": 1})), 4)
	if value, _ := get(t, other, command.Get{Stream: box("a")}); value != 4 {
		t.Errorf("without a snapshot of lost events the box shows %d", value)
	}
}

func TestSnapshotsBeyondTheQueueAreDropped(t *testing.T) {
	t.Parallel()
	log := newMemlog()
	held := newGate(t)
	var once sync.Once
	log.saving = func() { once.Do(held.pass) }
	h := start(t, Config{Store: log})
	granted(t, do(t, h, cmd("first", "1", "repeat", m{"times": 10})), 10)
	<-held.arrived
	for i := range snapshotQueue + 5 {
		granted(t, do(t, h, cmd(fmt.Sprint(i), "1", "repeat", m{"times": 10})), 10)
	}
	waitIdle(t, h)
	if s := h.Stats(); s.SnapshotsDropped != 5 || s.Snapshots != 0 {
		t.Errorf("%d dropped, %d written", s.SnapshotsDropped, s.Snapshots)
	}
	held.open()
	waitStats(t, h, func(s Stats) bool { return s.Snapshots == snapshotQueue+1 })
}
