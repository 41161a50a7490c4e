package consumer_test

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway/internal/consumer"
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/proto/group"
)

// counter is a client that counts its events and keeps the last one of each segment.
type counter struct {
	assigned, events int
	last             map[string]eventstore.Position
}

func (c *counter) Frame(f frame.Frame) {
	if _, ok := f.(frame.Assigned); ok {
		c.assigned++
	}
}

func (c *counter) Event(of *consumer.Segment, e *history.Entry) bool {
	c.events++
	c.last[of.Name] = e.Position
	return true
}

// BenchmarkDelivery delivers events of 1,000 streams, 100 at a time, to a member with 16
// segments, which acknowledges each segment's last one. An operation is one event.
func BenchmarkDelivery(b *testing.B) {
	const segments = 16
	d := &desk{stored: map[string]eventstore.Position{}}
	g := newGateway(b, d, nil, 65_536)
	m, failure := g.Join(b.Context(), consumer.Request{Sub: "g", Group: "post", Name: "m", Window: 1000}, func() {})
	if failure != nil {
		b.Fatal(failure)
	}
	b.Cleanup(m.Close)
	var list []group.Holding
	for i := range segments {
		list = append(list, group.Holding{Segment: strconv.Itoa(i), Epoch: 1, Segments: segments})
	}
	d.hold(list...)
	c := &counter{last: map[string]eventstore.Position{}}
	for c.assigned < segments {
		_, _ = m.Next(c)
	}
	streams := make([]string, 1000)
	for i := range streams {
		streams[i] = fmt.Sprint("letter/", i)
	}
	at := eventstore.Position(0)
	b.ReportAllocs()
	for b.Loop() {
		at++
		g.Hub.Deliver(commit(at, streams[at%1000]))
		if at%100 > 0 {
			continue
		}
		clear(c.last)
		if _, failure := m.Next(c); failure != nil {
			b.Fatal(failure)
		}
		for name, p := range c.last {
			if isOver, failure := m.Ack(name, 1, history.Cursor(p)); isOver || failure != nil {
				b.Fatal(isOver, failure)
			}
		}
	}
}
