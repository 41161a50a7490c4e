package engine

import (
	"sync/atomic"
	"time"
)

const (
	pauseTick  = 50 * time.Millisecond
	pauseLimit = 500 * time.Millisecond
)

// pauseDetector detects that the process did not run for a while.
type pauseDetector struct {
	limit    time.Duration             // longest time between two ticks that is no pause
	lastTick atomic.Pointer[time.Time] // nil while watchForPauses does not run
}

// isPause reports whether the process was paused between two ticks. It compares
// wall-clock time too, since the monotonic clock stops while a machine is
// suspended.
func (p *pauseDetector) isPause(last, now time.Time) bool {
	return now.Sub(last) > p.limit || now.Round(0).Sub(last.Round(0)) > p.limit
}

// unnoticed reports whether the process has just resumed from a pause that
// watchForPauses has not noticed yet. A get that waited in a socket during the
// pause may be served before watchForPauses runs.
func (p *pauseDetector) unnoticed() bool {
	last := p.lastTick.Load()
	return last != nil && p.isPause(*last, time.Now())
}

// watchForPauses invalidates every state after a pause of the process, such as a
// frozen virtual machine or a closed laptop, since other nodes may own its
// aggregates by then. It protects gets that are not strong. Commands are safe
// without it, since the store compares versions.
func (h *Host) watchForPauses() {
	ticker := time.NewTicker(pauseTick)
	defer ticker.Stop()
	begun := time.Now()
	h.pauses.lastTick.Store(&begun)
	defer h.pauses.lastTick.Store(nil)
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-ticker.C:
		}
		now := time.Now()
		if last := *h.pauses.lastTick.Load(); h.pauses.isPause(last, now) {
			h.counters.pauses.Add(1)
			h.log.Warn("this process was paused; dropping every cached state", "pause", now.Sub(last))
			h.invalidate()
		}
		h.pauses.lastTick.Store(&now)
	}
}
