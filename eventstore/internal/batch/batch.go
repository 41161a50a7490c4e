// Package batch gathers what many callers append into few transactions.
//
// A Committer sends one batch at a time to its Backend, a database. What
// callers hand in meanwhile waits and becomes the next batch, so a batch is
// as large as the database is slow, and nobody waits for a timer. A batch
// holds at most one unit of a stream; further ones wait for the next, in the
// order in which they came.
//
// A unit is refused without harm to its neighbours. When the database refuses
// a whole batch because of somebody's data, and has proved that nothing of it
// was stored, the batch is sent again in halves until the culprit is alone.
// When the database goes away between question and answer, the same batch is
// sent again until its fate is known or a deadline has passed: units that a
// former attempt has stored are recognised by their content and count as
// stored, so every caller gets the one true answer or eventstore.ErrUnknown.
//
// Where others can store as well, waiting is not worth it for long: once the
// database has been away for Config.Patience, callers get eventstore.ErrUnknown
// for what was sent and eventstore.ErrUnavailable for the rest, at once, until
// it is back.
package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// Bounds of one batch and of what may wait.
const (
	// MaxCommands in a batch: past it, a larger batch costs latency and gains
	// next to nothing, because the flush of the disk is already shared.
	MaxCommands = 1_000
	// MaxBytes in a batch of several units.
	MaxBytes = 8 << 20
	// MaxWaiting is how many bytes of units may wait or be in flight. Past
	// it, Append waits for room.
	MaxWaiting = 128 << 20
)

// Backend is the database. The Committer calls it from one goroutine.
type Backend interface {
	// Ready connects to the database if need be. An error is a *Failure.
	Ready() error

	// Append stores those units that nothing speaks against, in order and
	// in one transaction, and says of each unit what became of it. An error
	// is a *Failure and concerns all of them.
	//
	// again says that a former attempt to append the same units may have
	// succeeded. Then the answer must be as durable as a commit, also
	// when there was nothing left to store.
	Append(units []*stored.Unit, again bool) (Result, error)
}

// Result is what became of a batch.
type Result struct {
	// Log is the incarnation in which the batch was stored.
	Log string
	// Base is the position that the first stored event of the batch follows.
	Base eventstore.Position
	// Verdicts has one element per unit.
	Verdicts []Verdict
}

// Verdict is what became of a unit: it was stored, unless Found or Moved say
// why not.
type Verdict struct {
	// Found is what the log holds under keys of the unit, by the index of the
	// command.
	Found map[int]Found
	// Moved says that the stream is not at the unit's expected version but
	// at Actual.
	Moved  bool
	Actual eventstore.Version
}

// Refused reports whether the unit was not stored.
func (v *Verdict) Refused() bool { return v.Moved || len(v.Found) > 0 }

// Found is a commit or an outcome that is in the log.
type Found struct {
	Version  eventstore.Version
	Position eventstore.Position // 0 for an outcome
	Hash     eventstore.Hash
	At       time.Time
	Meta     []byte
	Events   []byte // nil for an outcome
	Answer   []byte
}

// Kind tells failures apart by what is known of the batch.
type Kind uint8

const (
	// Down: the batch was not sent; nothing was stored.
	Down Kind = iota
	// Lost: the batch was sent, and its fate is unknown.
	Lost
	// Busy: rolled back for a passing reason; nothing was stored.
	Busy
	// Refused: rolled back because of somebody's data; nothing was stored.
	Refused
	// Broken: rolled back for a reason that sending it again won't mend.
	Broken
	// WentBack: rolled back because the log is older than it was.
	WentBack
)

// Failure is a Backend's error.
type Failure struct {
	Kind Kind
	// Reason is fit for a caller's eyes: no secrets, no data.
	Reason string
}

func (f *Failure) Error() string { return f.Reason }

// Config configures a Committer.
type Config struct {
	// Backend is required.
	Backend Backend
	// Committed is told of what was stored. Optional.
	Committed eventstore.Committed
	// Saw is told of the newest commit of each batch, before Committed.
	// Required.
	Saw func(log string, c guard.Commit) error
	// Deadline is how long the Committer tries to find out what became of a
	// batch. Defaults to 10 seconds.
	Deadline time.Duration
	// Patience is how long callers wait for a database that went away. 0 is
	// as long as it takes to know what became of a batch, or Deadline.
	Patience time.Duration
	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

// Committer is the one writer of a store. Use New; it is safe for concurrent
// use.
type Committer struct {
	cfg  Config
	room *semaphore.Weighted
	wake chan struct{} // holds a token when there may be something to send
	stop chan struct{} // closed by Close
	done chan struct{} // closed when run has ended

	mu      sync.Mutex
	waiting []*pending
	probing bool // somebody wants to know whether the database answers
	closed  bool
	away    error           // why nothing is taken: the database has been away too long
	gone    context.Context // ended while it is
	leave   func()          // ends it

	// What Committed was told of last; run's own.
	announcedLog string
	announced    eventstore.Position
}

type pending struct {
	unit   *stored.Unit
	told   atomic.Bool
	answer chan answer
}

// tell answers, if nobody has yet.
func (p *pending) tell(a answer) {
	if p.told.CompareAndSwap(false, true) {
		p.answer <- a
	}
}

type answer struct {
	appended eventstore.Appended
	err      error
}

// New starts a Committer. Close ends it.
func New(cfg Config) *Committer {
	cfg.Deadline = cmp.Or(cfg.Deadline, 10*time.Second)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	c := &Committer{
		cfg:  cfg,
		room: semaphore.NewWeighted(MaxWaiting),
		wake: make(chan struct{}, 1),
		stop: make(chan struct{}),
		done: make(chan struct{}),
	}
	c.gone, c.leave = context.WithCancel(context.Background())
	go c.run()
	return c
}

// Append implements eventstore.Store.
func (c *Committer) Append(ctx context.Context, u eventstore.Unit) (eventstore.Appended, error) {
	unit, err := stored.Prepare(u)
	if err != nil {
		return eventstore.Appended{}, err
	}
	waited := func() error {
		return fmt.Errorf("eventstore: append to %s: nothing was stored: %w", u.Stream, context.Cause(ctx))
	}
	if ctx.Err() != nil {
		return eventstore.Appended{}, waited()
	}
	if err := c.room.Acquire(ctx, int64(unit.Bytes)); err != nil {
		return eventstore.Appended{}, waited()
	}
	defer c.room.Release(int64(unit.Bytes))

	p := &pending{unit: unit, answer: make(chan answer, 1)}
	if err := c.enter(p); err != nil {
		return eventstore.Appended{}, err
	}
	select {
	case a := <-p.answer:
		return a.appended, a.err
	case <-ctx.Done():
		if c.withdraw(p) {
			return eventstore.Appended{}, waited()
		}
		a := <-p.answer // under way: its outcome is not the context's to end
		return a.appended, a.err
	}
}

// Waiting returns how many units wait for the next batch.
func (c *Committer) Waiting() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting)
}

// Away returns a context that has ended while nothing is taken because the
// database has been away for Config.Patience.
func (c *Committer) Away() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

// Probe has the Committer ask the database something if nothing else does: only
// what is asked tells that a database is away. It does not wait for the answer.
func (c *Committer) Probe() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.probing = true
	c.rouse()
}

// Close answers what was not yet sent with eventstore.ErrClosed, waits for
// the batch in flight, and ends.
func (c *Committer) Close() {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	c.mu.Unlock()
	if first {
		close(c.stop)
	}
	<-c.done
}

func (c *Committer) enter(p *pending) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return eventstore.ErrClosed
	}
	if c.away != nil {
		return c.away
	}
	c.waiting = append(c.waiting, p)
	c.rouse()
	return nil
}

// rouse wakes run.
func (c *Committer) rouse() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *Committer) withdraw(p *pending) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, q := range c.waiting {
		if q == p {
			c.waiting = append(c.waiting[:i], c.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// take removes the next batch from what waits. A unit that has to wait holds
// back those that follow it on its stream, and no others. An empty batch is to
// be sent if somebody is probing.
func (c *Committer) take() (batch []*pending, send bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, false
	}
	var (
		taken, kept []*pending
		streams     = make(map[eventstore.StreamID]struct{}, min(len(c.waiting), MaxCommands))
		commands    int
		bytes       int
	)
	for i, p := range c.waiting {
		if commands == MaxCommands {
			kept = append(kept, c.waiting[i:]...)
			break
		}
		_, held := streams[p.unit.Stream]
		streams[p.unit.Stream] = struct{}{}
		n := len(p.unit.Rows)
		if held || commands+n > MaxCommands || len(taken) > 0 && bytes+p.unit.Bytes > MaxBytes {
			kept = append(kept, p)
			continue
		}
		taken = append(taken, p)
		commands += n
		bytes += p.unit.Bytes
	}
	c.waiting = kept
	send = len(taken) > 0 || c.probing
	c.probing = false
	return taken, send
}

func (c *Committer) run() {
	defer close(c.done)
	for {
		select {
		case <-c.stop:
			c.mu.Lock()
			left := c.waiting
			c.waiting = nil
			c.mu.Unlock()
			refuse(left, eventstore.ErrClosed)
			return
		case <-c.wake:
		}
		for c.wanted() && c.ready() {
			c.gather()
			batch, send := c.take()
			if !send {
				break
			}
			c.store(batch, false)
		}
	}
}

// wanted tells whether the database is: something waits for it, or nothing may
// until it is back.
func (c *Committer) wanted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.waiting) > 0 || c.probing || c.away != nil
}

// gather lets those run first who were just answered and may have their next
// unit ready: the batch is fuller for it. One turn is not enough for hundreds
// of them, because the scheduler gives a turn to what waits in its global queue
// after 61 others.
func (c *Committer) gather() {
	for waiting := -1; ; {
		runtime.Gosched()
		now := c.Waiting()
		if now == waiting || now >= MaxCommands {
			return
		}
		waiting = now
	}
}

func refuse(batch []*pending, err error) {
	for _, p := range batch {
		p.tell(answer{err: err})
	}
}

// ready connects to the database. When that fails, what waits is refused, and
// whoever comes next makes it try again; when it takes too long, it goes on
// until it has succeeded, and everybody is refused meanwhile.
func (c *Committer) ready() bool {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		watch := c.watch(nil, false)
		err := c.cfg.Backend.Ready()
		watch.end(err == nil)
		if err == nil {
			return true
		}
		c.mu.Lock()
		waiting, away := c.waiting, c.away != nil
		c.waiting = nil
		if away {
			c.away = notStored(asFailure(err)) // says more than that it is silent
		}
		c.mu.Unlock()
		refuse(waiting, notStored(asFailure(err)))
		if !away || !c.sleep(pause) {
			return false
		}
	}
}

// notStored is the error for units that were certainly not stored.
func notStored(f *Failure) error {
	if f.Kind == WentBack {
		return eventstore.ErrWentBack
	}
	return fmt.Errorf("%w: %s", eventstore.ErrUnavailable, f.Reason)
}

func asFailure(err error) *Failure {
	if f := new(Failure); errors.As(err, &f) {
		return f
	}
	return &Failure{Kind: Lost, Reason: err.Error()}
}

// watch is a limit to callers' waiting for the database.
type watch struct {
	committer *Committer
	batch     []*pending
	maybe     bool
	timer     *time.Timer
	// Guarded by the committer's lock.
	left   int // steps of Patience
	gaveUp bool
	over   bool
}

// patienceSteps is how often a watch looks whether it is over. Each time it first
// lets all others run who are ready to: where thousands wait for a processor, an
// answer that has come does too, and a database is not away because of that.
const patienceSteps = 10

// watch gives callers up after Patience: those that wait, and those of a batch.
// maybe says that this may have been stored.
func (c *Committer) watch(batch []*pending, maybe bool) *watch {
	if c.cfg.Patience == 0 {
		return nil
	}
	w := &watch{committer: c, batch: batch, maybe: maybe, left: patienceSteps}
	c.mu.Lock() // step uses the timer
	defer c.mu.Unlock()
	w.timer = time.AfterFunc(c.cfg.Patience/patienceSteps, w.step)
	return w
}

func (w *watch) step() {
	runtime.Gosched()
	c := w.committer
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.over {
		return
	}
	if w.left--; w.left > 0 {
		w.timer.Reset(c.cfg.Patience / patienceSteps)
		return
	}
	w.gaveUp = true
	if c.away == nil {
		c.leave()
		c.away = fmt.Errorf("%w: it has not answered for %v", eventstore.ErrUnavailable, c.cfg.Patience)
	}
	refuse(w.batch, fmt.Errorf("%w: the database has not answered for %v", unheard(w.maybe), c.cfg.Patience))
	refuse(c.waiting, c.away)
	c.waiting = nil
}

// end stops watching, if that has not ended yet, and tells whether callers were
// given up. back says that the database has answered.
func (w *watch) end(back bool) (gaveUp bool) {
	if w == nil {
		return false
	}
	w.timer.Stop()
	c := w.committer
	c.mu.Lock()
	defer c.mu.Unlock()
	if !w.over && back && c.away != nil {
		c.away = nil
		c.gone, c.leave = context.WithCancel(context.Background())
	}
	w.over = true
	return w.gaveUp
}

// gaveUp tells whether nobody waits for the database any more.
func (c *Committer) gaveUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.away != nil
}

// store sends a batch until its fate is known, or nobody waits for it any more.
// maybe says that a former attempt may have stored it.
func (c *Committer) store(batch []*pending, maybe bool) {
	units := make([]*stored.Unit, len(batch))
	for i, p := range batch {
		units[i] = p.unit
	}
	var (
		end   = time.Now().Add(c.cfg.Deadline)
		pause = 10 * time.Millisecond
		gone  *watch // once the batch was lost
		back  bool   // the database has answered since
	)
	defer func() { gone.end(back) }()
	for !c.gaveUp() {
		if maybe && gone == nil {
			gone = c.watch(batch, maybe)
		}
		result, err := c.attempt(batch, units, maybe)
		if err == nil {
			back = true
			c.settle(batch, result, maybe)
			return
		}
		failure := asFailure(err)
		switch failure.Kind {
		case Lost:
			if !maybe && len(batch) > 0 {
				c.cfg.Logger.Warn("the database went away during an append: asking again what became of it",
					"commands", len(units), "reason", failure.Reason)
			}
			maybe = true
		case Refused:
			back = true
			if len(batch) > 1 {
				gone.end(back)
				c.store(batch[:len(batch)/2], maybe)
				c.store(batch[len(batch)/2:], maybe)
				return
			}
			for _, p := range batch {
				p.tell(answer{err: &eventstore.InvalidError{Stream: p.unit.Stream, Reason: failure.Reason}})
			}
			return
		case Down, Broken:
			if !maybe {
				refuse(batch, notStored(failure))
				return
			}
		case WentBack:
			back = true
			if maybe {
				refuse(batch, fmt.Errorf("%w: %w", eventstore.ErrUnknown, eventstore.ErrWentBack))
			} else {
				refuse(batch, eventstore.ErrWentBack)
			}
			return
		case Busy:
			if back = len(batch) == 0; back {
				return // it answers, which is all that was asked
			}
		}
		if !c.sleep(min(pause, time.Until(end))) {
			// Nothing is lost by saying so: the same keys find it out.
			if maybe {
				refuse(batch, fmt.Errorf("%w (%s)", eventstore.ErrUnknown, failure.Reason))
			} else {
				refuse(batch, notStored(failure))
			}
			return
		}
		pause = min(2*pause, 500*time.Millisecond)
	}
	// Who is in the other half of a batch that was given up has not been told.
	refuse(batch, unheard(maybe))
}

// unheard is what is known of a batch whose database does not answer.
func unheard(maybe bool) error {
	if maybe {
		return eventstore.ErrUnknown
	}
	return eventstore.ErrUnavailable
}

// attempt sends a batch. Only the way to the database is watched: one that
// takes its time over a batch is there.
func (c *Committer) attempt(batch []*pending, units []*stored.Unit, maybe bool) (Result, error) {
	var way *watch
	if !maybe { // else it is watched already
		way = c.watch(batch, false)
	}
	err := c.cfg.Backend.Ready()
	gaveUp := way.end(err == nil)
	if err != nil {
		return Result{}, err
	}
	if gaveUp { // callers were told that nothing is stored
		return Result{}, &Failure{Kind: Down, Reason: "connecting took too long"}
	}
	return c.cfg.Backend.Append(units, maybe)
}

// sleep waits before the next attempt, and reports whether there is to be one.
func (c *Committer) sleep(d time.Duration) bool {
	if d <= 0 {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-c.stop:
		return false
	}
}

// settle announces what was stored and answers everybody. maybe says that a
// former attempt may have stored the batch.
func (c *Committer) settle(batch []*pending, result Result, maybe bool) {
	var (
		answers = make([]answer, len(batch))
		commits = make([]eventstore.Commit, 0, len(batch))
		base    = result.Base
	)
	for i, p := range batch {
		v := &result.Verdicts[i]
		var mine bool
		if maybe {
			answers[i].appended, mine = recognise(p.unit, v.Found)
		}
		switch {
		case mine:
		case len(v.Found) > 0:
			answers[i] = answer{err: known(p.unit, v.Found)}
			continue
		case v.Moved:
			answers[i].err = &eventstore.ConflictError{Stream: p.unit.Stream, Expected: p.unit.Expected, Actual: v.Actual}
			continue
		default:
			answers[i].appended = p.unit.Appended(base)
			base += eventstore.Position(p.unit.Events)
		}
		commits = p.unit.Commits(commits, answers[i].appended)
	}
	c.announce(result.Log, commits)
	for i, p := range batch {
		p.tell(answers[i])
	}
}
