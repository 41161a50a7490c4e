// Package progress carries the positions of projections to gateways, in
// milliseconds: how far the rows of each segment show the log.
//
// A [Publisher] has the newest position of each segment that its node works on.
// A [Subscriber] keeps a stream to the publisher of every other member that runs
// projections. What a subscriber receives is a hint: a lost or wrong position
// costs its reader a look at the checkpoint, which is what counts.
//
// # Bounds
//
// No queue grows. A publisher keeps one position for each segment, 4,096 at most,
// and a stream the number of the last change that it has sent: a slow stream skips
// positions that were replaced in the meantime. A stream sends at most every 2 ms.
package progress

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
)

const (
	// maxSegments bounds the segments that a publisher keeps; the one that has not
	// moved for the longest time makes room.
	maxSegments = 4096
	// apart is the least time between two batches of a stream.
	apart = 2 * time.Millisecond
	// heartbeat is the longest time between two batches, and silence the time
	// without a batch after which a subscriber opens the stream again.
	heartbeat = time.Second
	silence   = 5 * time.Second

	retryMin = 50 * time.Millisecond // between attempts to open a stream
	retryMax = time.Second
)

// A Segment is a segment of a build of a projection.
type Segment struct {
	Projection string
	Build      int64
	Number     int
}

// Publisher has the positions of the segments that its node works on. It is safe
// for concurrent use.
type Publisher struct {
	mu       sync.Mutex
	segments map[Segment]step
	change   uint64        // of the newest step
	wake     chan struct{} // closed after a change
	waiting  bool          // a stream waits on wake
	closed   bool
}

// A step is a position of a segment, and the number of the change that brought it.
type step struct {
	position eventstore.Position
	change   uint64
}

// NewPublisher returns a Publisher without segments.
func NewPublisher() *Publisher {
	return &Publisher{segments: map[Segment]step{}, wake: make(chan struct{})}
}

// Publish publishes the position of a segment. It does not block.
func (p *Publisher) Publish(s Segment, position eventstore.Position) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, known := p.segments[s]; !known && len(p.segments) >= maxSegments {
		p.evict()
	}
	p.change++
	p.segments[s] = step{position, p.change}
	p.notify()
}

// evict forgets the segment that has not moved for the longest time.
func (p *Publisher) evict() {
	var oldest Segment
	least := p.change + 1
	for s, at := range p.segments {
		if at.change < least {
			oldest, least = s, at.change
		}
	}
	delete(p.segments, oldest)
}

// Close ends all streams.
func (p *Publisher) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.notify()
}

func (p *Publisher) notify() {
	if p.waiting {
		close(p.wake)
		p.wake, p.waiting = make(chan struct{}), false
	}
}

// after returns the segments that have moved after a change, in the order of
// their changes, and the newest change. If there are none, wake is closed with the
// next change.
func (p *Publisher) after(change uint64) (moved []*peer.Segment, newest uint64, wake <-chan struct{}, closed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.change > change {
		order := make(map[*peer.Segment]uint64)
		for s, at := range p.segments {
			if at.change > change {
				one := &peer.Segment{Projection: s.Projection, Build: s.Build, Number: uint32(s.Number), Position: uint64(at.position)}
				order[one] = at.change
				moved = append(moved, one)
			}
		}
		slices.SortFunc(moved, func(a, b *peer.Segment) int { return cmp.Compare(order[a], order[b]) })
	} else {
		p.waiting = true
	}
	return moved, p.change, p.wake, p.closed
}

// Progress serves a stream of another node: it sends what moves until the stream
// or the publisher ends.
func (p *Publisher) Progress(stream transport.Sender[peer.ProgressBatch]) error {
	ctx := stream.Context()
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for sent := uint64(0); ; {
		moved, newest, wake, closed := p.after(sent)
		if closed {
			return nil
		}
		if len(moved) > 0 {
			if err := stream.Send(&peer.ProgressBatch{Segments: moved}); err != nil {
				return err
			}
			sent = newest
			pause.Reset(apart)
			select {
			case <-pause.C:
			case <-ctx.Done():
				return ctx.Err()
			}
			continue
		}
		select {
		case <-wake:
		case <-beat.C:
			if err := stream.Send(&peer.ProgressBatch{}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
