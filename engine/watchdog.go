package engine

import (
	"sync/atomic"
	"time"
)

// stuckAfter is how long application code may run before the log names it.
const stuckAfter = 5 * time.Second

// activity describes a call of application code.
type activity struct{ doing, name string }

var (
	applying  = &activity{doing: "applying events"}
	rendering = &activity{doing: "rendering the view"}
	encoding  = &activity{doing: "encoding the state"}
	decoding  = &activity{doing: "decoding a snapshot"}
)

func (a *activity) String() string {
	if a.name == "" {
		return a.doing
	}
	return a.doing + " " + a.name
}

// watchdog logs application code that does not return. Go cannot end such code,
// and its aggregate is unusable until it returns. The worker calls watch, next
// and stop; the timer's function reads what they write.
type watchdog struct {
	timer *time.Timer
	now   atomic.Pointer[activity]
	since atomic.Int64 // nanoseconds after Host.born
}

// watch begins to watch a call of application code, until stop is called.
func (w worker) watch(a *activity) {
	d := &w.cell.watchdog
	if d.timer == nil {
		d.timer = time.AfterFunc(stuckAfter, func() { w.host.reportStuck(w.cell) })
	} else {
		d.timer.Reset(stuckAfter)
	}
	d.since.Store(int64(time.Since(w.host.born)))
	d.now.Store(a) // last: the timer's function reads it first
}

// next records which call runs from now on. It does not restart the clock.
func (d *watchdog) next(a *activity) { d.now.Store(a) }

func (d *watchdog) stop() {
	d.timer.Stop()
	d.now.Store(nil)
}

// reportStuck logs the call that runs. It repeats the log line each time that the
// call has run twice as long.
func (h *Host) reportStuck(c *cell) {
	a := c.watchdog.now.Load()
	if a == nil {
		return
	}
	ran := time.Since(h.born) - time.Duration(c.watchdog.since.Load())
	if ran < stuckAfter { // a call that began while the timer fired
		c.watchdog.timer.Reset(stuckAfter - ran)
		return
	}
	h.log.Error("application code does not return; the aggregate is unusable until it does",
		"stream", c.stream, "doing", a.String(), "for", ran.Round(time.Second))
	c.watchdog.timer.Reset(ran)
}
