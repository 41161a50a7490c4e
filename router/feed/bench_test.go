package feed

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/peer"
)

// BenchmarkFeed pushes commits of one event in batches of 100 through one
// publisher to subscribers over loopback. An operation is one event,
// published once and delivered to each of them.
func BenchmarkFeed(b *testing.B) {
	for _, n := range []int{1, 8} {
		b.Run(fmt.Sprintf("subscribers=%d", n), func(b *testing.B) {
			net, members := newNetwork(b, true), new(views)
			p := NewPublisher(PublisherConfig{})
			members.set(domain("n1", net.serve(p)))
			log := newMemory(nil)
			var goal atomic.Uint64
			reached := make(chan struct{}, n)
			subs := make([]*Subscriber, n)
			for i := range subs {
				var w eventstore.Position
				subs[i] = start(b, SubscriberConfig{
					Self: fmt.Sprintf("g%d", i), Store: log, Push: true, Watch: members.watch,
					// Connections as between nodes: one per subscriber.
					Open: newNetwork(b, true).open,
					Deliver: func(cs []eventstore.Commit) {
						last := cs[len(cs)-1].Position
						if g := eventstore.Position(goal.Load()); w < g && last >= g {
							reached <- struct{}{}
						}
						w = last
					},
				})
				<-subs[i].Started()
			}
			head := eventstore.Position(0)
			publish := func(events int) {
				goal.Store(uint64(head) + uint64(events))
				for events > 0 {
					batch := make([]eventstore.Commit, min(100, events))
					for i := range batch {
						head++
						batch[i] = commit(head, 1)
					}
					log.append(batch...)
					p.Publish(logOne, batch)
					events -= len(batch)
				}
				for range n {
					<-reached
				}
			}
			publish(1) // returns when every stream is open
			b.ReportAllocs()
			b.ResetTimer()
			// Publish in portions, so that the ring does not overrun.
			for left := b.N; left > 0; left -= min(left, 5000) {
				publish(min(left, 5000))
			}
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
			b.ReportMetric(float64(b.N*n)/b.Elapsed().Seconds(), "deliveries/s")
			read := uint64(0)
			for _, s := range subs {
				read += s.Stats().Read
			}
			b.ReportMetric(float64(read)/float64(b.N*n), "read/event")
		})
	}
}

// BenchmarkPublish measures the time of a commit on the store's goroutine.
func BenchmarkPublish(b *testing.B) {
	p := NewPublisher(PublisherConfig{})
	batch := history(rand.New(rand.NewPCG(1, 1)), 0, 100)
	b.ReportAllocs()
	for b.Loop() {
		p.Publish(logOne, batch)
	}
}

// BenchmarkFrame measures a frame of 100 commits, which is encoded once for all
// streams and decoded by each subscriber.
func BenchmarkFrame(b *testing.B) {
	batch := history(rand.New(rand.NewPCG(1, 1)), 0, 100)
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			frames(batch)[0].encoded()
		}
	})
	b.Run("decode", func(b *testing.B) {
		wire := frames(batch)[0].encoded()
		b.SetBytes(int64(len(wire)))
		b.ReportAllocs()
		for b.Loop() {
			var m peer.FeedBatch
			if err := m.UnmarshalVT(wire); err != nil {
				b.Fatal(err)
			}
			var a arrival
			if err := decode(&m, &a); err != nil {
				b.Fatal(err)
			}
		}
	})
}
