package outbox

import (
	"context"
	"time"

	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

const (
	// wakePage is how many due rows are read together, and mostWaking bounds the
	// rows whose time is being recorded.
	wakePage   = 256
	mostWaking = 256
	// wakeEvery is the shortest time between two times that are recorded for one
	// sequence.
	wakeEvery = time.Second
	// forgetAfter is how long a recorded time is remembered. After that it may be
	// recorded again, under the same key.
	forgetAfter = 10 * time.Second
	// longestWait bounds the time between two looks at what is due.
	longestWait = time.Minute
)

// Wake records for the sequences of a segment that their time has come, by the
// database's clock, until ctx ends. It does so while the build's term is current.
func (o *Outbox) Wake(ctx context.Context, table rows.Table, number int, signal *Signal) {
	w := &waker{
		segment: &segment{Outbox: o, at: place{table.Build().ID, number}, signal: signal, slots: make(chan struct{}, segmentInFlight)}, table: table,
		woken: make(chan rows.Wake, mostWaking), known: map[string]known{},
	}
	for ctx.Err() == nil {
		recording, stop := context.WithCancel(ctx)
		err := w.run(ctx, recording)
		stop()
		w.flights.Wait()
		if err != nil && ctx.Err() == nil {
			w.log.Debug("times of sequences wait", "build", w.at.build, "segment", w.at.segment, "err", err)
			sleep(ctx, retryAfter)
		}
	}
}

// A waker records the times of one segment. It belongs to one goroutine.
type waker struct {
	*segment
	table  rows.Table
	woken  chan rows.Wake
	waking int
	known  map[string]known // by sequence
}

// known is what a waker has recorded for a sequence.
type known struct {
	position eventstore.Position // of the row; a time is recorded once for each
	at       time.Time           // by this node's clock
	waking   bool
}

// run records until the log is another one, or an error.
func (w *waker) run(ctx, recording context.Context) error {
	for len(w.woken) > 0 {
		<-w.woken
	}
	w.waking, w.known, w.logID = 0, map[string]known{}, w.cfg.LogID()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for at := time.Now(); ; {
		state, changed := w.signal.read()
		if due := w.signal.takeDue(); !due.IsZero() { // perhaps earlier than the next look
			at = earlier(at, time.Now().Add(max(0, time.Until(due))))
		}
		if !state.current {
			at = time.Now().Add(longestWait)
		} else if !time.Now().Before(at) {
			next, err := w.pass(recording)
			if err != nil {
				return err
			}
			at = time.Now().Add(next)
		}
		if w.cfg.LogID() != w.logID {
			return nil
		}
		timer.Reset(max(0, time.Until(at)))
		select {
		case done := <-w.woken:
			w.finish(done)
		case <-changed:
			if now, _ := w.signal.read(); now.current && !state.current {
				at = time.Now()
			}
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// pass begins to record everything that is due, and returns when to look again.
func (w *waker) pass(ctx context.Context) (time.Duration, error) {
	w.forget()
	next := longestWait
	for after := (rows.Wake{}); ; {
		due, err := w.table.Due(ctx, w.at.segment, after, wakePage)
		if err != nil {
			return 0, err
		}
		if first, ok := w.firstTick(); ok && len(due.Wakes) == 0 && due.Next.IsZero() && after.Due.IsZero() {
			if first.Due.After(due.Now) {
				return min(next, first.Due.Sub(due.Now)), nil
			}
			due.Wakes = []rows.Wake{first}
		}
		for _, wake := range due.Wakes {
			after = wake
			next = min(next, w.begin(ctx, wake, due.Now))
		}
		if due.Next.IsZero() {
			return next, nil
		}
		if due.Next.After(due.Now) {
			return min(next, due.Next.Sub(due.Now)), nil
		}
	}
}

// firstTick returns when a schedule runs that has never run: it has no row yet. It
// counts from when the build began.
func (w *waker) firstTick() (rows.Wake, bool) {
	s, ok := w.cfg.Process.Schedule()
	if !ok {
		return rows.Wake{}, false
	}
	due := s.Next(w.table.Build().Since)
	return rows.Wake{Key: process.TickSequence, Due: due}, !due.IsZero()
}

// begin begins to record one time, given the database's clock, and returns when to
// look at its sequence again.
func (w *waker) begin(ctx context.Context, wake rows.Wake, now time.Time) time.Duration {
	k, ok := w.known[wake.Key]
	switch {
	case ok && (k.waking || k.position == wake.Position):
		return wakeEvery
	case ok && time.Since(k.at) < wakeEvery:
		return wakeEvery - time.Since(k.at)
	}
	for w.waking >= mostWaking {
		select {
		case done := <-w.woken:
			w.finish(done)
		case <-ctx.Done():
			return 0
		}
	}
	w.known[wake.Key] = known{wake.Position, time.Now(), true}
	w.waking++
	logID := w.logID
	w.flights.Go(func() {
		w.recordDue(ctx, wake, now, logID)
		w.woken <- wake
	})
	return wakeEvery
}

// recordDue records what is due in one sequence. It may run in any goroutine.
func (w *waker) recordDue(ctx context.Context, wake rows.Wake, now time.Time, logID string) {
	list, err := w.cfg.Process.RecordDue(wake.Key, uint64(wake.Position), wake.Due, now)
	if err != nil {
		w.log.Error("a time of a process manager cannot be recorded", "stream", w.cfg.Process.Name()+"/"+wake.Key, "err", err)
		return
	}
	for _, r := range list {
		if !w.record(ctx, r, 0, logID) {
			return
		}
		w.counts.woken.Add(1)
	}
}

func (w *waker) finish(done rows.Wake) {
	w.waking--
	w.known[done.Key] = known{done.Position, time.Now(), false}
}

// forget drops what was recorded long ago.
func (w *waker) forget() {
	for key, k := range w.known {
		if !k.waking && time.Since(k.at) > forgetAfter {
			delete(w.known, key)
		}
	}
}
