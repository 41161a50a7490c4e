package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/proto/command"
)

// BenchmarkLoad measures a get of an aggregate of 100,000 events that is not in memory:
// from the oldest snapshot that occurs (999 events old), and from the first event. The aim
// is 50 ms with a snapshot.
func BenchmarkLoad(b *testing.B) {
	const events, every = 100_000, aggregate.DefaultSnapshotEvery
	stores := map[string]func(b *testing.B) eventstore.Store{
		"sqlite": func(b *testing.B) eventstore.Store {
			store, err := sqlite.Open(b.Context(), sqlite.Config{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { store.Close() })
			return store
		},
		"postgres": func(b *testing.B) eventstore.Store {
			store, err := postgres.Open(b.Context(), postgres.Config{URL: postgrestest.URL(b)})
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { store.Close() })
			return store
		},
	}
	for _, name := range []string{"sqlite", "postgres"} {
		b.Run(name, func(b *testing.B) {
			store := stores[name](b)
			appendPuts(b, store, 0, events-every+1)
			snapshots := catalog(func(t *aggregate.Type[Box]) { t.SnapshotEvery = every })
			h := start(b, Config{Store: store, Catalog: snapshots})
			get(b, h, command.Get{Stream: box("long")}) // makes the snapshot
			waitStats(b, h, func(s Stats) bool { return s.Snapshots == 1 })
			appendPuts(b, store, events-every+1, events)
			load := func(b *testing.B, h *Host, want uint64) {
				b.Helper()
				for b.Loop() {
					h.Clear()
					if value, _ := get(b, h, command.Get{Stream: box("long")}); value != events {
						b.Fatalf("the box shows %d", value)
					}
				}
				if s := h.Stats(); s.EventsLoaded/uint64(b.N) != want {
					b.Errorf("%d events were loaded in %d loads", s.EventsLoaded, b.N)
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/load")
			}
			b.Run("snapshot", func(b *testing.B) {
				load(b, start(b, Config{Store: store, Catalog: snapshots}), every-1)
			})
			b.Run("events", func(b *testing.B) {
				load(b, start(b, Config{Store: store, Catalog: catalog(func(t *aggregate.Type[Box]) { t.SnapshotEvery = -1 })}), events)
			})
		})
	}
}

// appendPuts adds commits of one event to the box "long", up to a version.
func appendPuts(b *testing.B, store eventstore.Store, from, to int) {
	b.Helper()
	for from < to {
		u := eventstore.Unit{Stream: box("long"), Expected: eventstore.Version(from)}
		for range min(1000, to-from) {
			u.Commands = append(u.Commands, eventstore.Command{
				Key: fmt.Sprint("k", from), At: time.Now(), Meta: eventstore.Meta{Client: "ada"},
				Events: []eventstore.Event{{Type: "put", Data: []byte(`{"by":1}`)}},
			})
			from++
		}
		if _, err := store.Append(b.Context(), u); err != nil {
			b.Fatal(err)
		}
	}
}
