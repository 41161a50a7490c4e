package engine

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// longLog has a box of 3,000 events, of which a page takes 20 ms to read.
func longLog(t *testing.T) *memlog {
	log := newMemlog()
	for i := range 3000 {
		_, err := log.Append(t.Context(), eventstore.Unit{Stream: box("long"), Expected: eventstore.Version(i), Commands: []eventstore.Command{{
			Key: fmt.Sprint("k", i), At: time.Unix(int64(i), 0),
			Events: []eventstore.Event{{Type: "put", Form: 1, Data: []byte(`{"by":1}`)}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	log.reading = func(eventstore.StreamID) error { time.Sleep(20 * time.Millisecond); return nil }
	return log
}

// TestReplayContinuesWhereItsTimeEnded loads an aggregate that takes longer
// than LoadTimeout to read: with snapshots and without, on one node, and on one
// that is started again after each attempt.
func TestReplayContinuesWhereItsTimeEnded(t *testing.T) {
	for _, test := range []struct {
		name     string
		every    int
		restarts bool
	}{{"from memory", -1, false}, {"from memory, with snapshots", 10, false}, {"from snapshots", 10, true}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := Config{
					Store: longLog(t), LoadTimeout: 150 * time.Millisecond,
					Catalog: catalog(func(b *aggregate.Type[Box]) { b.SnapshotEvery = test.every }),
				}
				h, stop := startStopping(t, config)
				defer func() { stop() }()
				var read eventstore.Version
				for attempt := 1; ; attempt++ {
					o := do(t, h, cmd("long", "new", "put", m{"by": 1}))
					synctest.Wait() // a snapshot is written
					read += eventstore.Version(h.Stats().EventsLoaded)
					if o.Failure == nil {
						granted(t, o, 3001)
						if attempt < 2 {
							t.Errorf("the aggregate was read at once: the test shows nothing")
						}
						break
					}
					failed(t, o, command.Timeout, command.RetryLater)
					if attempt == 5 {
						t.Fatalf("after %d attempts the aggregate is still not read", attempt)
					}
					if test.restarts {
						stop()
						h, stop = startStopping(t, config)
					} else {
						read = 0
					}
				}
				if read != 3000 {
					t.Errorf("%d events were read, want each of 3000 once", read)
				}
				if value, _ := get(t, h, command.Get{Stream: box("long")}); value != 3001 {
					t.Errorf("the box shows %d", value)
				}
			})
		})
	}
}

// TestProgramVersionsKeepTheirOwnSnapshots runs two versions of a program side
// by side, as a rolling upgrade does.
func TestProgramVersionsKeepTheirOwnSnapshots(t *testing.T) {
	t.Parallel()
	eachStore(t, func(t *testing.T, log opener) {
		newer := func() *aggregate.Catalog { return catalog(func(b *aggregate.Type[Box]) { b.Revision = 7 }) }
		for round := range 3 {
			for i, c := range []*aggregate.Catalog{catalog(nil), newer()} {
				store := log(nil)
				h := start(t, Config{Store: store, Catalog: c})
				version := eventstore.Version(round*40 + i*20 + 20)
				granted(t, do(t, h, cmd("a", fmt.Sprint(version), "repeat", m{"times": 20})), version)
				def, _ := c.Type("box")
				waitSnapshot(t, store, box("a"), def.Fingerprint(), version)
				s := h.Stats() // an append that found the log busy repeats its load
				if round == 0 && s.SnapshotsUsed != 0 || round > 0 && (s.SnapshotsUsed != s.Loads || s.EventsLoaded != 20*s.Loads) {
					t.Errorf("round %d, program %d: %d loads, %d snapshots used, %d events read", round, i, s.Loads, s.SnapshotsUsed, s.EventsLoaded)
				}
			}
		}
	})
}
