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

// longLog has a box of 3,000 events. A page of it takes 20 ms to read.
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

// The aggregate takes longer than LoadTimeout to read. The host runs with or without
// snapshots, and continues or is restarted after each attempt.
func TestInterruptedLoadContinuesWhereItStopped(t *testing.T) {
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
							t.Errorf("the aggregate was read in one attempt")
						}
						break
					}
					failed(t, o, command.CodeTimeout, command.RetryLater)
					if attempt == 5 {
						t.Fatalf("the aggregate is not read after %d attempts", attempt)
					}
					if test.restarts {
						stop()
						h, stop = startStopping(t, config)
					} else {
						read = 0
					}
				}
				if read != 3000 {
					t.Errorf("%d events were loaded, want each of 3000 once", read)
				}
				if value, _ := get(t, h, command.Get{Stream: box("long")}); value != 3001 {
					t.Errorf("the box shows %d", value)
				}
			})
		})
	}
}

// Two versions of a program run side by side, as in a rolling upgrade.
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
				s := h.Stats() // a conflict repeats the load
				if round == 0 && s.SnapshotsUsed != 0 || round > 0 && (s.SnapshotsUsed != s.Loads || s.EventsLoaded != 20*s.Loads) {
					t.Errorf("round %d, program %d: %d loads, %d snapshots used, %d events loaded", round, i, s.Loads, s.SnapshotsUsed, s.EventsLoaded)
				}
			}
		}
	})
}
