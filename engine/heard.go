package engine

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

const (
	// maxHeard bounds the builds whose announced positions are kept, maxSegments the
	// segments of one.
	maxHeard    = 256
	maxSegments = 1 << 16
)

// heard has the announced positions of segments, and the questions that wait for
// one. They are hints: a question that a hint has woken reads the checkpoints. The
// zero value is ready for use.
type heard struct {
	mu     sync.Mutex
	builds map[int64]*announced
}

type announced struct {
	positions []eventstore.Position // by segment; 0 if unknown
	lowest    eventstore.Position
	count     uint64 // of announcements
	waiting   map[*arrival]struct{}
}

// An arrival is a question that waits until a build has reached a position.
type arrival struct {
	position eventstore.Position
	reached  chan struct{}
}

// build returns what was announced of a build. The lock is held.
func (h *heard) build(id int64) *announced {
	b := h.builds[id]
	if b != nil {
		return b
	}
	if h.builds == nil {
		h.builds = map[int64]*announced{}
	}
	if len(h.builds) >= maxHeard {
		for other, old := range h.builds {
			if len(old.waiting) == 0 {
				delete(h.builds, other)
				break
			}
		}
	}
	b = &announced{waiting: map[*arrival]struct{}{}}
	h.builds[id] = b
	return b
}

// announce records the position of a segment.
func (h *heard) announce(build int64, segment int, position eventstore.Position) {
	if segment < 0 || segment >= maxSegments {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.build(build)
	b.count++
	b.note(segment, position)
	b.wake()
}

// count returns how many announcements of a build there were.
func (h *heard) count(build int64) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.build(build).count
}

func (b *announced) note(segment int, position eventstore.Position) {
	for len(b.positions) <= segment {
		b.positions = append(b.positions, 0)
	}
	b.positions[segment] = position
}

// wake ends the waiting of questions whose position is reached.
func (b *announced) wake() {
	lowest := slices.Min(b.positions)
	if lowest == b.lowest {
		return
	}
	b.lowest = lowest
	for a := range b.waiting {
		if a.position <= lowest {
			close(a.reached)
			delete(b.waiting, a)
		}
	}
}

// await returns when all segments of a build were announced at or past a position,
// after a pause, or when ctx ends. list has the checkpoints, as last read, and
// count the announcements before that.
func (h *heard) await(ctx context.Context, build int64, list []rows.Checkpoint, count uint64, position eventstore.Position, pause time.Duration) {
	a := &arrival{position: position, reached: make(chan struct{})}
	h.mu.Lock()
	b := h.build(build)
	for _, c := range list {
		if c.Segment >= len(b.positions) || c.Position > b.positions[c.Segment] {
			b.note(c.Segment, c.Position)
		}
	}
	if len(list) > 0 {
		b.wake()
	}
	if b.count != count && b.lowest >= position { // since the checkpoints were read
		h.mu.Unlock()
		return
	}
	b.waiting[a] = struct{}{}
	h.mu.Unlock()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-a.reached:
		return
	case <-timer.C:
	case <-ctx.Done():
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(b.waiting, a)
}
