package engine

import (
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/proto/command"
)

// BenchmarkHost measures commands to counters, through the host into SQLite.
// commands/unit is the number of commands for each flush of the disk.
func BenchmarkHost(b *testing.B) {
	for _, counters := range []int{1, 64} {
		for _, inFlight := range []int{1, 64, 512} {
			b.Run(fmt.Sprintf("counters=%d/inflight=%d", counters, inFlight), func(b *testing.B) {
				store, err := sqlite.Open(b.Context(), sqlite.Config{Dir: b.TempDir()})
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { store.Close() })
				h := start(b, Config{Store: store, Catalog: &domain.Catalog})
				flow(b, h, counters, inFlight)
			})
		}
	}
}

// BenchmarkSubmit measures the host alone, on a log in memory.
func BenchmarkSubmit(b *testing.B) {
	for _, inFlight := range []int{1, 512} {
		b.Run(fmt.Sprintf("inflight=%d", inFlight), func(b *testing.B) {
			h := start(b, Config{Store: newMemlog(), Catalog: &domain.Catalog})
			b.ReportAllocs()
			flow(b, h, 1, inFlight)
		})
	}
}

// flow sends b.N commands with at most inFlight of them unanswered.
func flow(b *testing.B, h *Host, counters, inFlight int) {
	streams := make([]eventstore.StreamID, counters)
	for i := range streams {
		streams[i] = eventstore.StreamID{Type: "counter", ID: strconv.Itoa(i)}
	}
	var wg sync.WaitGroup
	places := make(chan struct{}, inFlight)
	reply := func(o command.Outcome) {
		if o.Failure != nil {
			b.Error(o.Failure)
		}
		<-places
		wg.Done()
	}
	before := h.Stats()
	runtime.GC()
	b.ResetTimer()
	for i := range b.N {
		places <- struct{}{}
		wg.Add(1)
		h.Submit(command.Command{
			Stream: streams[i%counters], Name: "add", Data: []byte(`{"by":1}`),
			Key: strconv.Itoa(i), Client: "ada", Attempt: 1,
		}, reply)
	}
	wg.Wait()
	b.StopTimer()
	s := h.Stats()
	b.ReportMetric(float64(s.Confirmed-before.Confirmed)/float64(s.Units-before.Units), "commands/unit")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
}

// BenchmarkGet measures a get that the cached view answers.
func BenchmarkGet(b *testing.B) {
	h := start(b, Config{Store: newMemlog()})
	granted(b, do(b, h, cmd("a", "1", "put", m{"by": 1})), 1)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := h.Get(b.Context(), command.Get{Stream: box("a")}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
