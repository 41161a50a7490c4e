package engine

import (
	"sync/atomic"
	"time"
)

// stuckAfter is how long application code may run before the log names it.
const stuckAfter = 5 * time.Second

// activity is a call of application code, in words.
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

// watchdog logs application code that does not return: nothing can end it, and
// its aggregate is unusable until it returns. The cell's goroutine calls begin,
// then next, then end; the timer reads what they leave.
type watchdog struct {
	timer *time.Timer
	now   atomic.Pointer[activity]
	since atomic.Int64 // from Host.born on
}

// begin watches until end is called. next says what runs from then on.
func (h *Host) begin(c *cell, a *activity) {
	w := &c.watchdog
	if w.timer == nil {
		w.timer = time.AfterFunc(stuckAfter, func() { h.stuck(c) })
	} else {
		w.timer.Reset(stuckAfter)
	}
	w.since.Store(int64(time.Since(h.born)))
	w.now.Store(a) // the timer's function reads the fields above after this one
}

func (w *watchdog) next(a *activity) { w.now.Store(a) }

func (w *watchdog) end() {
	w.timer.Stop()
	w.now.Store(nil)
}

// stuck names the code that runs, and comes back once it has run for twice as
// long.
func (h *Host) stuck(c *cell) {
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
