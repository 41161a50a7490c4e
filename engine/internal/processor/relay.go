package processor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/relay"
)

const (
	// relayMoveEvery is how often the checkpoint of a relay moves over messages that
	// were confirmed.
	relayMoveEvery = 100 * time.Millisecond
	// relaySettle is how long a run that ends in good order waits for confirmations,
	// and then for its last write.
	relaySettle = time.Second
	// Pauses between runs that make no progress double from the first to the most.
	firstRelayPause, mostRelayPause = 100 * time.Millisecond, 30 * time.Second
	// relayFencedFor is the least pause of a run that was fenced, and half of the most. It
	// bounds how often two nodes repeat a window that do not agree about the owner.
	relayFencedFor = time.Second
	// relayFingerprint is that of every relay: its checkpoint does not depend on its
	// settings.
	relayFingerprint = "relay"
	// RelayPrefix begins the name under which a relay is stored and placed. No projection
	// can have such a name.
	RelayPrefix = "~relay/"
	// RelayKey is the key of a relay's block and of the events that it skips.
	RelayKey = "event"
)

// SpecOfRelay describes the checkpoint of a relay to a rows.Store.
func SpecOfRelay(name string) rows.Spec {
	return rows.Spec{Projection: RelayPrefix + name, Fingerprint: relayFingerprint, Segments: 1, Relay: true}
}

// A brokerError is a failure of the broker, or of the connection to it.
type brokerError struct{ error }

func (e *brokerError) Unwrap() error { return e.error }

// relayFigures are what other goroutines see of a relay.
type relayFigures struct {
	published, confirmed, runs atomic.Uint64
	run                        atomic.Pointer[relayRun] // nil while no target is open
	waits                      atomic.Pointer[string]   // why, while none is
}

// RelayStats are the figures of a relay on one node. Counts are since New.
type RelayStats struct {
	Published, Confirmed uint64 // messages
	Runs                 uint64 // that have begun to publish
	Connected            bool   // this node works on the relay, and has a connection
	Unconfirmed          int    // messages of the present run
	// Waits is why the broker takes nothing, "" if it does or if another node works on
	// the relay.
	Waits string
}

// RelayStats returns the figures of a relay.
func (p *Processor) RelayStats() RelayStats {
	f := &p.relay
	s := RelayStats{Published: f.published.Load(), Confirmed: f.confirmed.Load(), Runs: f.runs.Load()}
	if r := f.run.Load(); r != nil {
		s.Connected, s.Unconfirmed, s.Waits = true, r.ledger.unconfirmed(), r.target.Stalled()
	} else if why := f.waits.Load(); why != nil {
		s.Waits = *why
	}
	return s
}

// relayTries is what a worker remembers from one run to the next.
type relayTries struct {
	pauses   int // after runs without progress
	position eventstore.Position
	failed   int // runs that ended because of the event at position
}

// pause returns how long to wait before the next run.
func (t *relayTries) pause() time.Duration {
	d := min(firstRelayPause<<min(t.pauses, 20), mostRelayPause)
	t.pauses++
	return d/2 + rand.N(d/2)
}

// A relayRun is the time from opening a target to closing it.
type relayRun struct {
	p       *Processor
	w       *worker
	log     *slog.Logger
	table   rows.Table
	target  relay.Target
	resets  uint64 // of the tail, when the run began
	from    rows.Checkpoint
	skipped map[eventstore.Position]bool
	last    eventstore.Position // that the broker has, as far as it knows
	ledger  *relayLedger
}

// relayOnce publishes until ctx ends or something stops it. Besides those of
// segment.follow, it has the error *brokerError.
func (p *Processor) relayOnce(ctx context.Context, w *worker, table rows.Table, log *slog.Logger) error {
	r := &relayRun{p: p, w: w, log: log, table: table, resets: p.cfg.Tail.Resets()}
	blocks, err := r.begin(ctx)
	if err != nil {
		return err
	}
	w.stats.began(r.from.Position, len(blocks)) // the lag counts also if the broker is never reached
	if len(blocks) > 0 {
		w.stats.moved(r.from.Position, len(blocks))
		return p.cfg.Tail.Wait(ctx, math.MaxInt64, r.resets) // an operator's decision restarts the worker
	}
	if err := r.open(ctx); err != nil {
		return err
	}
	err = r.run(ctx)
	var event *relay.EventError
	if !errors.As(err, &event) {
		return err
	}
	return r.failed(ctx, event)
}

// begin reads the checkpoint, and what is blocked and skipped.
func (r *relayRun) begin(ctx context.Context) ([]rows.Block, error) {
	if r.table.Build().State == rows.Building { // it serves from its beginning
		if err := r.p.cfg.Rows.SetState(ctx, r.table.Build().ID, rows.Active); err != nil {
			return nil, err
		}
		r.p.cfg.Watch.Refresh()
	}
	list, err := r.table.Checkpoints(ctx)
	if err != nil {
		return nil, err
	}
	r.from = list[0]
	if r.from.Paused {
		return nil, rows.ErrPaused
	}
	if err := sameLog(ctx, r.p.cfg.Log, r.table.Build(), r.from); errors.Is(err, errOtherLog) {
		return nil, fmt.Errorf("the relay stands at position %d of a log that this one is not: it was restored, or lost events. "+
			"Decide from where on consumers get events, and rewind the relay to the position before (%w)", r.from.Position, err)
	} else if err != nil {
		return nil, err
	}
	skips, err := r.table.Skips(ctx)
	if err != nil {
		return nil, err
	}
	r.skipped = map[eventstore.Position]bool{}
	for _, s := range skips {
		r.skipped[s.Position] = true
	}
	blocks, err := r.table.Blocks(ctx)
	r.w.start(r.from)
	return blocks, err
}

// start records the checkpoint with which a worker begins.
func (w *worker) start(c rows.Checkpoint) {
	w.mends.Store(c.Mends)
	w.term.Store(&c.Term)
	w.began.Store(true)
}

// open opens the target. Only then it fences the node that has worked on the relay
// before: a node that does not reach the broker does not disturb one that does.
func (r *relayRun) open(ctx context.Context) error {
	r.target = r.p.cfg.Relay.New()
	dialing, cancel := context.WithTimeout(ctx, relay.DialTimeout)
	defer cancel()
	last, known, err := r.target.Open(dialing, r.p.cfg.Log.LogID())
	if err != nil {
		r.target.Close()
		return &brokerError{err}
	}
	if known {
		r.last = last
	}
	if err := r.fence(ctx); err != nil {
		r.target.Close()
		return err
	}
	return nil
}

// fence raises the checkpoint's Mends, so that no other run moves it any more.
func (r *relayRun) fence(ctx context.Context) error {
	r.w.began.Store(false) // so that this is not taken for an operator's change
	if err := r.table.Interrupt(ctx, 0); err != nil {
		return err
	}
	list, err := r.table.Checkpoints(ctx)
	if err != nil {
		return err
	}
	if c := list[0]; c.Paused || c.Mends != r.from.Mends+1 {
		return rows.ErrFenced // an operator or another node has changed it since begin
	}
	r.from = list[0]
	r.w.start(r.from)
	r.p.cfg.Watch.Refresh() // it may still show a pause that has ended
	return r.checkLast(ctx)
}

// checkLast returns errOtherLog if the log ends before the last event of the broker.
func (r *relayRun) checkLast(ctx context.Context) error {
	if r.last <= r.from.Position {
		return nil
	}
	commits, err := r.p.cfg.Log.Read(ctx, r.last-1, 1)
	if err == nil && len(commits) == 0 {
		err = fmt.Errorf("the broker has the relay's events up to position %d, and the log ends before it: they are of a log that this one is not. "+
			"Give the relay another stream of the broker, or empty this one (%w)", r.last, errOtherLog)
	}
	return err
}

// run publishes until ctx ends or something stops it, closes the target, and records
// what was confirmed.
func (r *relayRun) run(ctx context.Context) error {
	cfg := r.p.cfg.Relay
	window := cfg.Window
	if window == 0 {
		window = relay.DefaultWindow
	}
	r.ledger = newRelayLedger(window, ledgerPlace{r.from.Position, r.from.Key})
	r.p.relay.runs.Add(1)
	r.p.relay.waits.Store(nil)
	r.p.relay.run.Store(r)
	defer r.p.relay.run.CompareAndSwap(r, nil)
	r.w.stats.moved(r.from.Position, 0)
	r.log.Info("a relay publishes", "position", r.from.Position, "broker", cfg.Where)

	publishing, stop := context.WithCancel(ctx)
	defer stop()
	var publisher sync.WaitGroup
	failed := make(chan error, 1)
	at := r.from.Position
	publisher.Go(func() { failed <- r.publish(publishing, at) })
	err := r.watch(ctx, failed)
	stop()
	if ctx.Err() != nil {
		r.settle()
	}
	r.target.Close()
	publisher.Wait()
	for p := range r.target.Confirmed() {
		r.confirm(p)
	}
	if errors.Is(err, rows.ErrFenced) {
		return err
	}
	// What was confirmed is recorded even if ctx has ended, so that it is not repeated.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), relaySettle)
	defer cancel()
	if moved := r.move(last); err == nil {
		err = moved
	}
	return err
}

func (r *relayRun) confirm(p eventstore.Position) {
	r.ledger.confirm(p)
	r.p.relay.confirmed.Add(1)
}

// watch moves the checkpoint over what the broker confirms, until something ends the
// run.
func (r *relayRun) watch(ctx context.Context, failed <-chan error) error {
	var due <-chan time.Time // nil while there is nothing to write
	for {
		select {
		case p, open := <-r.target.Confirmed():
			if !open {
				return r.broker(errors.New("the connection was closed"))
			}
			r.confirm(p)
		case <-r.ledger.changed:
			if due == nil {
				due = time.After(relayMoveEvery)
			}
		case <-due:
			due = nil
			if err := r.move(ctx); err != nil {
				return err
			}
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// broker returns the error of the target if it has one, and otherwise err.
func (r *relayRun) broker(err error) error {
	if why := r.target.Err(); why != nil {
		err = why
	}
	return &brokerError{err}
}

// settle waits, for a short time, until the broker has confirmed what was published.
func (r *relayRun) settle() {
	late := time.After(relaySettle)
	for r.ledger.unconfirmed() > 0 {
		select {
		case p, open := <-r.target.Confirmed():
			if !open {
				return
			}
			r.confirm(p)
		case <-late:
			return
		}
	}
}

// move writes the checkpoint if it has changed.
func (r *relayRun) move(ctx context.Context) error {
	to := r.ledger.place()
	if to.position == r.from.Position {
		return nil
	}
	err := r.table.Write(ctx, rows.Batch{From: r.from.Position, To: to.position, Mends: r.from.Mends, Key: to.key})
	if err != nil {
		return err
	}
	r.from.Position, r.from.Key = to.position, to.key
	r.w.tries.pauses = 0
	r.w.stats.wrote(0)
	r.w.stats.moved(to.position, 0)
	if to.position >= r.p.cfg.Tail.Head() {
		r.w.stats.current(time.Now())
	}
	return nil
}

// publish reads the log after a position and publishes, until ctx ends or something
// fails.
func (r *relayRun) publish(ctx context.Context, at eventstore.Position) error {
	var prev eventstore.Position
	for ctx.Err() == nil {
		if r.p.cfg.Tail.Resets() != r.resets {
			return ErrReset
		}
		commits, err := r.next(ctx, at)
		if err != nil {
			return err
		}
		if len(commits) == 0 {
			if err := r.p.cfg.Tail.Wait(ctx, at, r.resets); err != nil {
				return err
			}
			if r.ledger.place().position == at { // until now, the broker had everything
				r.w.stats.current(time.Now())
			}
		}
		for i := range commits {
			if prev, err = r.publishCommit(ctx, &commits[i], prev); err != nil {
				return err
			}
			at = commits[i].Position
		}
	}
	return ctx.Err()
}

// next returns the commits after a position, from the tail or else from the log; none
// at the head.
func (r *relayRun) next(ctx context.Context, after eventstore.Position) (commits []eventstore.Commit, err error) {
	commits, ok := r.p.cfg.Tail.After(after, batchCommits)
	if !ok {
		err = ctx.Err() // if the throttle does not run the batch
		r.p.cfg.Throttle.do(ctx, func() { commits, err = r.p.cfg.Log.Read(ctx, after, batchCommits) })
	}
	return commits[:bounded(commits)], err
}

// publishCommit publishes the events of one commit, given the position that was
// published before, and returns the last one that was.
func (r *relayRun) publishCommit(ctx context.Context, c *eventstore.Commit, prev eventstore.Position) (eventstore.Position, error) {
	var wanted []eventstore.Position
	for p := c.First(); p <= c.Position && r.p.cfg.RelayReads(c.Stream.Type); p++ {
		if p > r.last && !r.skipped[p] {
			wanted = append(wanted, p)
		}
	}
	r.ledger.begin(c, append([]eventstore.Position(nil), wanted...))
	for _, p := range wanted {
		select {
		case r.ledger.slots <- struct{}{}:
		case <-ctx.Done():
			return prev, ctx.Err()
		}
		if err := r.target.Publish(ctx, messageOf(r.p.cfg.Log.LogID(), c, p, prev)); err != nil {
			if ctx.Err() != nil {
				return prev, ctx.Err()
			}
			return prev, r.broker(err)
		}
		r.p.relay.published.Add(1)
		prev = p
	}
	return prev, nil
}

// messageOf returns the message of the event at a position of a commit.
func messageOf(log string, c *eventstore.Commit, p, prev eventstore.Position) relay.Message {
	n := p - c.First()
	e := &c.Events[n]
	return relay.Message{
		Log: log, Position: p, Prev: prev, Stream: c.Stream, Version: c.FirstVersion() + eventstore.Version(n), Event: e.Type, Form: max(e.Form, 1),
		Time: c.At, Cause: c.Key, By: c.Meta.Client, Data: e.Data, Traceparent: c.Meta.Trace,
	}
}

// failed counts the attempts of an event that the broker does not take over. After the
// last one, the relay is blocked there.
func (r *relayRun) failed(ctx context.Context, event *relay.EventError) error {
	t := &r.w.tries
	if t.position != event.Position {
		t.position, t.failed = event.Position, 0
	}
	r.w.stats.retried(RetryEvent)
	if t.failed++; t.failed < attempts {
		return &brokerError{event}
	}
	r.log.Error("a relay stops at an event until an operator decides", "position", event.Position, "err", event.Reason)
	at := r.from
	return r.table.Write(ctx, rows.Batch{
		From: at.Position, To: at.Position, Mends: at.Mends, Key: at.Key,
		Block: []rows.Block{{Key: RelayKey, Position: event.Position, Attempts: t.failed, Error: clip(event.Reason)}},
	})
}
