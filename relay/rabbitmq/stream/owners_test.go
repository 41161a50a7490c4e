package stream

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/relay"
)

// message is the event at a position.
func message(log string, p eventstore.Position) relay.Message {
	return relay.Message{Log: log, Position: p, Stream: eventstore.StreamID{Type: "auction", ID: "1"}, Version: eventstore.Version(p), Event: "bid", Form: 1, Data: []byte("{}")}
}

// opened opens a target and returns the position after which it begins.
func (w *world) opened(c Config) (relay.Target, eventstore.Position) {
	w.Helper()
	one := w.target(c)
	last, known, err := one.Open(w.Context(), w.store.LogID())
	if err != nil || !known {
		w.Fatalf("opened at %d, %v, %v", last, known, err)
	}
	return one, last
}

// publish publishes the events after one position up to another.
func (w *world) publish(to relay.Target, after, last eventstore.Position) {
	w.Helper()
	for p := after + 1; p <= last; p++ {
		w.must(to.Publish(w.Context(), message(w.store.LogID(), p)))
	}
}

// confirms waits until the broker has confirmed a number of messages.
func (w *world) confirms(from relay.Target, count int) {
	w.Helper()
	for range count {
		if _, open := <-from.Confirmed(); !open {
			w.Fatalf("the run has ended: %v", from.Err())
		}
	}
}

// TestStaleOwnerNeitherRepeatsNorLeavesAHole has an owner that was frozen, publishes what
// it had read, and is ahead of the new owner then.
func TestStaleOwnerNeitherRepeatsNorLeavesAHole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared)
	stale, last := w.opened(w.config())
	w.publish(stale, last, 50)
	w.confirms(stale, 50)
	owner, last := w.opened(w.config())
	if last != 50 {
		t.Errorf("the new owner begins after %d, want 50", last)
	}
	w.publish(owner, last, 90)
	w.confirms(owner, 40)
	w.publish(stale, 50, 100)
	w.confirms(stale, 50)
	w.publish(owner, 90, 120)
	w.confirms(owner, 30)
	w.publish(stale, 100, 110)
	w.confirms(stale, 10)
	w.wantOnce(120)
}

// TestOwnersTogetherLeaveNoHole has several owners that publish without regard to each
// other, and end at random.
func TestOwnersTogetherLeaveNoHole(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared)
	const owners, rounds, events = 4, 5, 6000
	one, _ := w.opened(w.config()) // makes the stream
	one.Close()
	t.Run("together", func(t *testing.T) {
		for n := range owners {
			t.Run(fmt.Sprint(n), func(t *testing.T) {
				t.Parallel()
				own := &world{T: t, store: w.store, server: w.server}
				for range rounds {
					owner, last := own.opened(w.config())
					count := int(min(rand.N(eventstore.Position(1000)), events-last))
					own.publish(owner, last, last+eventstore.Position(count))
					own.confirms(owner, rand.N(count+1))
					owner.Close() // with messages that were not sent, and ones that were not confirmed
				}
			})
		}
	})
	owner, last := w.opened(w.config())
	t.Logf("the owners came to position %d together", last)
	for p := last; p < events; p += 500 {
		to := min(p+500, events)
		w.publish(owner, p, to)
		w.confirms(owner, int(to-p))
	}
	w.wantOnce(events)
}

func TestRelaysAndLogsHaveIDsOfTheirOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shared)
	one, last := w.opened(w.config())
	w.publish(one, last, 5)
	w.confirms(one, 5)
	renamed := w.config()
	renamed.Relay = "others"
	if _, last = w.opened(renamed); last != 0 {
		t.Errorf("another relay begins after %d, want 0", last)
	}
	other := w.target(w.config())
	if last, _, err := other.Open(t.Context(), "another-log"); last != 0 || err != nil {
		t.Errorf("another log begins after %d, %v, want 0", last, err)
	}
	if err := other.Publish(t.Context(), message("another-log", 1)); err != nil {
		t.Fatal(err)
	}
	w.confirms(other, 1)
	if list := w.messages(); len(list) != 6 {
		t.Errorf("the stream has %d messages, want the event of the other log too", len(list))
	}
}
