package outbox

import (
	"context"
	"time"
)

const (
	// mostInFlight bounds the commands in flight of a node, fewInFlight while appends
	// wait for the database, and segmentInFlight those of a segment.
	mostInFlight    = 256
	fewInFlight     = 32
	segmentInFlight = 64
	// slotCheck is how often a command that waits looks whether appends still do.
	slotCheck = 5 * time.Millisecond
)

// Slots bound the commands in flight of all process managers of a node. They are
// safe for concurrent use.
type Slots struct {
	isBusy func() bool // reports whether appends wait for the database
	used   chan struct{}
}

// NewSlots returns the slots of a node. isBusy may be nil.
func NewSlots(isBusy func() bool) *Slots {
	if isBusy == nil {
		isBusy = func() bool { return false }
	}
	return &Slots{isBusy: isBusy, used: make(chan struct{}, mostInFlight)}
}

// take waits for a slot, and reports false if ctx ends first.
func (s *Slots) take(ctx context.Context) bool {
	for s.isBusy() && len(s.used) >= fewInFlight {
		if !sleep(ctx, slotCheck) {
			return false
		}
	}
	select {
	case s.used <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (s *Slots) free() { <-s.used }

// sleep waits, and reports false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
