package router

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// echo is an executor that answers immediately, so that a benchmark measures
// only the router.
type echo struct{}

func (echo) Submit(c command.Command, reply func(command.Outcome)) {
	reply(command.Outcome{Result: command.Result{Key: c.Key, Version: 1, Position: 1, Data: c.Data}})
}

func (echo) Get(context.Context, command.Get) (command.State, error) { return command.State{}, nil }

// BenchmarkRoundTrip measures commands of 200 bytes, in this node and over one
// link, with 1, 64 and 512 unanswered at a time.
func BenchmarkRoundTrip(b *testing.B) {
	w := newWorld(b, nil)
	instant := func(c *Config) { c.Executor = echo{} }
	w.start("a", instant)
	w.start("g")
	w.setReady("a", "g")
	w.nodes["g"].waitLinks()
	data := json.RawMessage(`{"text":"` + strings.Repeat("x", 180) + `"}`)
	for _, from := range []string{"a", "g"} {
		for _, inFlight := range []int{1, 64, 512} {
			b.Run(fmt.Sprintf("from=%s/inflight=%d", from, inFlight), func(b *testing.B) {
				b.ReportAllocs()
				r := w.nodes[from].router
				places := make(chan int, inFlight)
				for i := range inFlight {
					places <- i
				}
				streams, sessions := make([]eventstore.StreamID, inFlight), make([]string, inFlight)
				for i := range inFlight {
					streams[i] = eventstore.StreamID{Type: "counter", ID: fmt.Sprint(i)}
					sessions[i] = fmt.Sprint("session-", i)
				}
				for b.Loop() {
					i := <-places
					r.Send(command.Command{
						Stream: streams[i], Session: sessions[i], Name: "add", Data: data, Key: "0198c0de-0000-7000-8000-000000000000", Client: "ada",
					}, func(out command.Outcome) {
						if out.Failure != nil {
							b.Error(out.Failure)
						}
						places <- i
					})
				}
				for range inFlight {
					<-places
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commands/s")
			})
		}
	}
}
