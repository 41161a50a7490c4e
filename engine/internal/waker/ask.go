package waker

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/wakes"
	"github.com/ganglion-es/ganglion/proto/command"
)

const (
	// dueRows bounds the rows of one read.
	dueRows = 256
	// maxFlight bounds the questions of a segment in flight, fewFlight while
	// manyAppends appends of the node wait for the database.
	maxFlight, fewFlight = 64, 8
	manyAppends          = 16
	// lookEvery is how often a segment looks at the table without a reason: for rows of
	// other writers, and for what operators do.
	lookEvery = time.Second
	// lookPause is the least time between two looks while questions are in flight.
	lookPause = 10 * time.Millisecond
	// touchEvery is how often a segment says that its fingerprint is in use.
	touchEvery = time.Hour
	// askFor bounds a question.
	askFor = 10 * time.Second
	// between is the least time between two wake-ups of a stream, and after a question
	// that its owner could not answer.
	between = time.Second
	// faultPause bounds the pause after a fault of the program.
	faultPause = time.Minute
	// maxFaults bounds the streams whose faults are counted.
	maxFaults = 4096
)

// An answer is the outcome of a question.
type answer struct {
	row  wakes.Row
	late time.Duration // how long it had been due when the answer came
	out  command.Outcome
}

// An asker asks for one segment. It belongs to one goroutine.
type asker struct {
	s       *segment
	flight  map[eventstore.StreamID]bool
	queue   []wakes.Row // due and not in flight
	read    time.Time   // when queue was read, by this machine's clock
	now     time.Time   // the same by the database's clock
	changes []wakes.Change
	flushed time.Time
	answers chan answer
	sending sync.WaitGroup
	faults  map[eventstore.StreamID]time.Duration // the last pause after a fault
	slow    time.Time                             // until which it asks one question at a time
	counted time.Time
	touched time.Time
}

// ask asks what is due until ctx ends, or the database stops it.
func (s *segment) ask(ctx context.Context) error {
	a := &asker{
		s: s, flight: map[eventstore.StreamID]bool{}, answers: make(chan answer, maxFlight), faults: map[eventstore.StreamID]time.Duration{},
	}
	ctx, stop := context.WithCancel(ctx)
	defer a.sending.Wait()
	defer stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, err := a.advance(ctx)
		if err != nil {
			return err
		}
		timer.Reset(next)
		select {
		case one := <-a.answers:
			a.settle(one)
			a.settleOthers()
		case <-timer.C:
		case <-s.signal:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// advance asks as many questions as the limit allows, and returns when there may be
// more to do.
func (a *asker) advance(ctx context.Context) (time.Duration, error) {
	for {
		for len(a.queue) > 0 && len(a.flight) < a.limit() {
			a.send(ctx, a.queue[0])
			a.queue = a.queue[1:]
		}
		if len(a.queue) > 0 || len(a.flight) >= a.limit() {
			return lookEvery, a.flushMany(ctx)
		}
		if wait := lookPause - time.Since(a.read); wait > 0 && len(a.flight) > 0 {
			return wait, nil
		}
		if err := a.flush(ctx); err != nil {
			return 0, err
		}
		next, err := a.look(ctx)
		if err != nil || len(a.queue) == 0 {
			return next, err
		}
	}
}

func (a *asker) limit() int {
	switch {
	case time.Now().Before(a.slow):
		return 1
	case a.s.waker.cfg.Appending() >= manyAppends:
		return fewFlight
	}
	return maxFlight
}

// look reads what is due, and returns when to look again if that is nothing.
func (a *asker) look(ctx context.Context) (time.Duration, error) {
	w := a.s.waker
	if time.Since(a.counted) >= countEvery {
		n, err := w.cfg.Wakes.Count(ctx, a.s.number, w.names)
		if err != nil {
			return 0, err
		}
		a.s.watch.counted(n)
		a.counted = time.Now()
	}
	if time.Since(a.touched) >= touchEvery {
		if _, err := w.cfg.Wakes.Begin(ctx, w.fingerprint, a.s.number); err != nil {
			return 0, err
		}
		a.touched = time.Now()
	}
	read := time.Now()
	d, err := w.cfg.Wakes.Due(ctx, a.s.number, w.names, dueRows)
	if err != nil {
		return 0, err
	}
	a.read, a.now, a.queue = read, d.Now, a.queue[:0]
	for _, r := range d.Rows[:d.N] {
		if !a.flight[r.Stream] {
			a.queue = append(a.queue, r)
		}
	}
	next := lookEvery
	if d.N < len(d.Rows) {
		next = min(next, d.Rows[d.N].Due.Sub(d.Now))
	}
	a.s.watch.plan(d.Now.Add(next))
	return next, nil
}

// send asks the owner of a stream.
func (a *asker) send(ctx context.Context, r wakes.Row) {
	data, err := json.Marshal(Question{Now: a.now.UnixMicro(), Version: r.Version})
	if err != nil {
		panic(err) // two numbers always encode
	}
	c := command.Command{
		Stream: r.Stream, Name: Name, Data: data, Key: Name, Client: Name, Session: Name + " " + r.Stream.String(),
		Log: a.s.waker.cfg.Log.LogID(), Deadline: time.Now().Add(askFor),
	}
	a.flight[r.Stream] = true
	overdue, began := a.now.Sub(r.Due), a.read
	a.sending.Go(func() {
		out := a.s.waker.cfg.Send(ctx, c)
		a.answers <- answer{row: r, late: overdue + time.Since(began), out: out}
	})
}

// settleOthers settles the answers that are there.
func (a *asker) settleOthers() {
	for {
		select {
		case one := <-a.answers:
			a.settle(one)
		default:
			return
		}
	}
}

// settle decides what becomes of a row whose stream was asked.
func (a *asker) settle(one answer) {
	delete(a.flight, one.row.Stream)
	if f := one.out.Failure; f != nil {
		a.fail(one.row, f)
		return
	}
	delete(a.faults, one.row.Stream)
	w, version := a.s.waker, one.out.Result.Version
	var got Answer
	if err := json.Unmarshal(one.out.Result.Data, &got); err != nil || version < one.row.Version {
		a.pause(one.row, between) // an owner whose log is behind, or whose answer is lost
		return
	}
	c := wakes.Change{Stream: one.row.Stream, Version: version}
	if got.Due != 0 {
		c.At = time.UnixMicro(got.Due).UTC()
	}
	switch {
	case got.Refused:
		c.Refused = got.Reason
		w.totals.refused.Add(1)
		w.cfg.Late(one.late)
		a.s.log.Warn("a wake-up was refused; the aggregate is not woken again until its state changes", "stream", one.row.Stream, "version", version, "reason", got.Reason)
	case got.Woken:
		c.Pause = between
		w.totals.woken.Add(1)
		w.cfg.Late(one.late)
	default:
		w.totals.notDue.Add(1)
	}
	a.changes = append(a.changes, c)
}

// fail decides what follows a question that was not answered.
func (a *asker) fail(r wakes.Row, f *command.Failure) {
	switch f.Code {
	case command.CodeNotFound:
		a.pause(r, between)
	case command.CodeBusy, command.CodeUnavailable, command.CodeTimeout:
		a.slow = time.Now().Add(between)
		a.pause(r, between)
	case command.CodeInternal:
		d := min(max(between, 2*a.faults[r.Stream]), faultPause)
		if len(a.faults) >= maxFaults {
			clear(a.faults)
		}
		a.faults[r.Stream] = d
		a.pause(r, d)
	default:
		a.s.log.Error("a wake-up was not understood", "stream", r.Stream, "code", f.Code, "err", f)
		a.pause(r, faultPause)
	}
	a.s.waker.totals.failed.Add(1)
}

// pause asks for a row again after a time.
func (a *asker) pause(r wakes.Row, d time.Duration) {
	a.changes = append(a.changes, wakes.Change{Stream: r.Stream, Version: r.Version, At: r.Due, Pause: d})
}

// flushMany writes the changes if they are many or old.
func (a *asker) flushMany(ctx context.Context) error {
	if len(a.changes) < dueRows && time.Since(a.flushed) < lookEvery {
		return nil
	}
	return a.flush(ctx)
}

func (a *asker) flush(ctx context.Context) error {
	if a.flushed = time.Now(); len(a.changes) == 0 {
		return nil
	}
	if err := a.s.waker.cfg.Wakes.Change(ctx, a.changes); err != nil {
		return err
	}
	a.changes = a.changes[:0]
	return nil
}
