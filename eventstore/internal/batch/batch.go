// Package batch is the group commit of a store: it gathers the units of
// concurrent callers into few transactions.
//
// A [Committer] sends one batch at a time to its [Backend], a database. Units
// that arrive while a batch is in flight form the next one, so batch size
// follows the database's latency, and no unit waits for a timer. A batch
// holds at most one unit of a stream. Further units of the stream wait for the
// next batch, in the order of their arrival.
//
// # Failures
//
// Rejecting a unit does not affect the others in its batch. What follows a failed
// attempt depends on the [Kind] of the failure and on what is known about the
// batch: either no attempt has stored it, or an earlier attempt may have.
//
//	failure    not stored               may be stored
//	Down       reject as unavailable    retry
//	Lost       retry as may be stored   retry
//	Busy       retry                    retry
//	Refused    halve                    halve
//	Broken     reject as unavailable    retry
//	WentBack   reject as gone back      reject as unknown
//
// A batch is halved until the refused unit is alone; that unit is invalid.
// When a batch is retried, units that an earlier attempt has stored are
// recognised by their content and count as stored. Retries end after
// Config.Deadline. A batch that may be stored is then [eventstore.ErrUnknown],
// any other [eventstore.ErrUnavailable].
//
// # Patience
//
// If Config.Patience is set, callers do not wait longer than that for a
// database that does not answer, since another node may reach it. Units that
// were sent get [eventstore.ErrUnknown]. All others, and all that arrive until
// the database answers again, get [eventstore.ErrUnavailable].
//
// # Concurrency
//
// One goroutine, run, calls the Backend. A caller of Append adds its unit to
// the queue and waits for the reply. The lock order is patience, queue.
package batch

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// Bounds of a batch and of the queue.
const (
	// MaxCommands bounds the commands of a batch. A larger batch would add
	// latency and next to no throughput, because its commands already share
	// one flush of the disk.
	MaxCommands = 1_000
	// MaxBytes bounds the bytes of a batch of several units.
	MaxBytes = 8 << 20
	// MaxWaiting bounds the bytes of units in the queue and in flight. Above it,
	// Append waits for room.
	MaxWaiting = 128 << 20
)

// Backend is the database. The Committer calls it from one goroutine.
type Backend interface {
	// Ready connects to the database if there is no connection. An error is a
	// *Failure.
	Ready() error

	// Append stores all acceptable units, in order and in one transaction, and
	// returns a verdict for each unit. An error is a *Failure and concerns the
	// whole batch.
	//
	// mayBeStored means that an earlier attempt to append the same units may have
	// succeeded. The result must then be as durable as a commit even if nothing
	// was left to store.
	Append(units []*stored.Unit, mayBeStored bool) (Result, error)
}

// Result is the outcome of a batch.
type Result struct {
	// Log is the incarnation in which the batch was stored.
	Log string
	// Base is the position before the first stored event of the batch.
	Base eventstore.Position
	// Verdicts has one element per unit.
	Verdicts []Verdict
}

// Verdict is the outcome of a unit. The unit was stored unless Found or Moved
// says otherwise.
type Verdict struct {
	// Found is what the log holds under keys of the unit, by the index of the
	// command.
	Found map[int]Found
	// Moved means that the stream is not at the unit's expected version but at
	// Actual.
	Moved  bool
	Actual eventstore.Version
}

// Refused reports whether the unit was not stored.
func (v *Verdict) Refused() bool { return v.Moved || len(v.Found) > 0 }

// Found is a commit or a kept outcome in the log.
type Found struct {
	Version  eventstore.Version
	Position eventstore.Position // 0 for a kept outcome
	Hash     eventstore.Hash
	At       time.Time
	Meta     []byte
	Events   []byte // nil for a kept outcome
	Answer   []byte
}

// Config configures a Committer.
type Config struct {
	// Backend is required.
	Backend Backend
	// Committed is called with the commits of each stored batch. Optional.
	Committed eventstore.Committed
	// Saw is called with the newest commit of each batch, before Committed.
	// Required.
	Saw func(log string, c guard.Commit) error
	// Deadline bounds the attempts to learn the outcome of a batch. Defaults
	// to 10 seconds.
	Deadline time.Duration
	// Patience bounds how long callers wait for a database that does not
	// answer. 0 means Deadline.
	Patience time.Duration
	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

// Committer is the only writer of a store. Use New. It is safe for concurrent
// use.
type Committer struct {
	cfg       Config
	queue     *queue
	patience  *patience
	announced announced     // used by run only
	appending atomic.Int64  // units that wait or are in flight
	stop      chan struct{} // closed by Close
	done      chan struct{} // closed when run has returned
}

// New starts a Committer. Close stops it.
func New(cfg Config) *Committer {
	cfg.Deadline = cmp.Or(cfg.Deadline, 10*time.Second)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	c := &Committer{
		cfg:   cfg,
		queue: newQueue(),
		stop:  make(chan struct{}),
		done:  make(chan struct{}),
	}
	c.patience = newPatience(cfg.Patience, c.queue)
	go c.run()
	return c
}

// Append implements eventstore.Store.
func (c *Committer) Append(ctx context.Context, u eventstore.Unit) (eventstore.Appended, error) {
	unit, err := stored.Prepare(u)
	if err != nil {
		return eventstore.Appended{}, err
	}
	givenUp := func() error {
		return fmt.Errorf("eventstore: append to %s: nothing was stored: %w", u.Stream, context.Cause(ctx))
	}
	if ctx.Err() != nil {
		return eventstore.Appended{}, givenUp()
	}
	if err := c.queue.room.Acquire(ctx, int64(unit.Bytes)); err != nil {
		return eventstore.Appended{}, givenUp()
	}
	defer c.queue.room.Release(int64(unit.Bytes))

	c.appending.Add(1)
	defer c.appending.Add(-1)
	p := &pending{unit: unit, outcome: make(chan outcome, 1)}
	if err := c.patience.admit(p); err != nil {
		return eventstore.Appended{}, err
	}
	select {
	case o := <-p.outcome:
		return o.appended, o.err
	case <-ctx.Done():
		if c.queue.withdraw(p) {
			return eventstore.Appended{}, givenUp()
		}
		o := <-p.outcome // in flight: a context cannot change the outcome
		return o.appended, o.err
	}
}

// Waiting returns the number of units that wait for the next batch.
func (c *Committer) Waiting() int { return c.queue.len() }

// Appending returns the number of units that wait or are in flight.
func (c *Committer) Appending() int { return int(c.appending.Load()) }

// Away returns a context that is cancelled while the Committer rejects units
// because the database has not answered for Config.Patience.
func (c *Committer) Away() context.Context { return c.patience.context() }

// Probe makes the Committer send an empty batch if it has nothing else to
// send: only an attempt shows that the database is away. Probe does not wait
// for the result.
func (c *Committer) Probe() { c.queue.probe() }

// Close rejects queued units with eventstore.ErrClosed, waits for the batch in
// flight, and stops the Committer.
func (c *Committer) Close() {
	if c.queue.close() {
		close(c.stop)
	}
	<-c.done
}

func (c *Committer) run() {
	defer close(c.done)
	for {
		select {
		case <-c.stop:
			reject(c.queue.drain(), eventstore.ErrClosed)
			return
		case <-c.queue.wake:
		}
		for (c.queue.wanted() || c.patience.isAway()) && c.connect() {
			c.queue.gather()
			batch, send := c.queue.take()
			if !send {
				break
			}
			c.store(batch, notStored)
		}
	}
}

// connect makes the Backend ready. If that fails, it rejects the queued units;
// the next unit causes a new attempt. Once the database counts as away, connect
// retries until it succeeds, and units are rejected in the meantime.
func (c *Committer) connect() bool {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		countdown := c.patience.start(nil, notStored)
		err := c.cfg.Backend.Ready()
		countdown.end(err == nil)
		if err == nil {
			return true
		}
		if !c.patience.unreachable(asFailure(err).rejection(notStored)) || !c.sleep(pause) {
			return false
		}
	}
}

// sleep waits before the next attempt. It returns false if no time is left or
// the Committer is closed.
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
