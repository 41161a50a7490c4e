package storetest

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
)

// runs numbers the runs on one log, so that each has its own streams.
var runs atomic.Int64

// BenchmarkAppend measures commands with events of 200 bytes. Each caller waits for
// the result before it appends to the next of its 100 streams.
func BenchmarkAppend(b *testing.B, s eventstore.Store, callers, events int) {
	data := json.RawMessage(`{"item":"` + fmt.Sprintf("%0160d", 1) + `","amount":1250}`)
	var (
		run     = runs.Add(1)
		left    atomic.Int64
		writing sync.WaitGroup
	)
	left.Store(int64(b.N))
	b.ReportAllocs()
	for c := range callers {
		writing.Go(func() {
			const streams = 100
			var versions [streams]eventstore.Version
			for n := 0; left.Add(-1) >= 0; n++ {
				i := n % streams
				u := eventstore.Unit{
					Stream:   eventstore.StreamID{Type: "counter", ID: fmt.Sprintf("run-%d-%d-%d", run, c, i)},
					Expected: versions[i],
					Commands: []eventstore.Command{{Key: fmt.Sprintf("0190b5c0-%04x-7000-8000-%012x", c, n), At: epoch, Meta: eventstore.Meta{Client: "ada"}}},
				}
				for range events {
					u.Commands[0].Events = append(u.Commands[0].Events, eventstore.Event{Type: "added", Data: data})
				}
				a, err := s.Append(b.Context(), u)
				if err != nil {
					b.Errorf("append: %v", err)
					return
				}
				versions[i] = a.Commands[0].Version
			}
		})
	}
	writing.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
}
