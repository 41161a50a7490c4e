// Package engine runs the aggregates that a node owns.
//
// A Host takes commands, lets the aggregates decide them, and stores what
// they decide. It promises, for any number of callers and with any number of
// other hosts on the same log:
//
//   - Commands on one aggregate are executed in the order of Submit.
//   - An answer leaves only after the log has confirmed it. Rejections,
//     failed expectations and decisions to do nothing are confirmed as well,
//     against the version that they were decided at: no answer comes from a
//     state that another node has moved on from.
//   - A key is executed once. Sent again, to whichever host, it gets its
//     first answer.
//   - Every queue is bounded. What finds one full is refused as busy, and so is
//     a command that would wait behind others until its deadline has passed.
//   - Application code that panics costs the command that set it off, and
//     nothing else.
//
// Each aggregate in use is a cell: a mailbox, and while there is work a
// goroutine that alone touches the aggregate's state. It takes all that has
// gathered in the mailbox, decides it on speculative state and appends it as
// one unit, so a hot aggregate is not limited to one command per disk flush.
// An append that fails takes the state with it. Idle aggregates cost memory
// for their cached state and no goroutine.
//
// The log is the truth and the state a cache of it: a Host that was paused,
// cut off, or believes wrongly that it owns an aggregate costs others a retry
// and never an event.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// Host runs aggregates. It is safe for concurrent use.
type Host struct {
	config  Config
	catalog *aggregate.Catalog
	store   eventstore.Store
	log     *slog.Logger
	born    time.Time

	// ctx ends when Run ends; what cells do beyond deciding runs under it.
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.Once // guards Run against a second call
	workers sync.WaitGroup

	loads     chan struct{} // a token per aggregate being read
	snapshots chan eventstore.Snapshot
	tip       tip
	counters  counters
	faults    sync.Map                  // of *rate.Sometimes: panics that were logged, by place
	differing sync.Map                  // of formKey: forms that were logged
	outage    atomic.Int64              // when the store last took no command, in nanoseconds since 1970; 0 while it does
	aheadTold atomic.Int64              // when decisionTime last logged, in nanoseconds since 1970
	pauseMost time.Duration             // a longer time between two looks of watchForPauses is a pause
	ticked    atomic.Pointer[time.Time] // when watchForPauses last looked; nil while it does not

	// mu guards all below and the fields of cells that say so. It is held
	// for map and list operations only, never across calls of others.
	mu           sync.Mutex
	cells        map[eventstore.StreamID]*cell
	idle         lru // cells with a state and without a goroutine
	cached       int // cells with a state
	cachedBytes  int
	active       int // cells with a goroutine
	pending      int // commands and gets that wait or are in progress
	pendingBytes int
	draining     bool
	closed       bool
	quiet        chan struct{} // made by Drain, closed once active is 0
}

// New returns a Host. It does not touch the store.
func New(config Config) (*Host, error) {
	config, err := config.withDefaults()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &Host{
		config:    config,
		catalog:   config.Catalog,
		store:     config.Store,
		log:       config.Logger,
		born:      time.Now(),
		pauseMost: pauseMost,
		ctx:       ctx,
		cancel:    cancel,
		loads:     make(chan struct{}, config.Loads),
		snapshots: make(chan eventstore.Snapshot, snapshotQueue),
		cells:     make(map[eventstore.StreamID]*cell),
	}
	h.tip.init()
	return h, nil
}

// Run does the background work: it writes snapshots and notices pauses of the
// process. When ctx ends, commands that were not begun are refused with
// Elsewhere, and Run returns once everything that the host started has ended.
// An append under way is waited for.
func (h *Host) Run(ctx context.Context) error {
	first := false
	h.running.Do(func() { first = true })
	if !first {
		return errors.New("host: Run was called twice")
	}
	var background sync.WaitGroup
	background.Go(h.writeSnapshots)
	background.Go(h.watchForPauses)

	<-ctx.Done()
	h.mu.Lock()
	h.closed = true // from here on no cell starts a goroutine
	h.mu.Unlock()
	h.cancel()
	background.Wait()
	h.workers.Wait()
	return nil
}

// Submit hands in a command. Commands on one stream are executed in the order
// of the calls. Submit never blocks; reply is called exactly once, perhaps
// before Submit returns, and must not block.
func (h *Host) Submit(c command.Command, reply func(command.Outcome)) {
	h.counters.commands.Add(1)
	j := &job{Command: c, reply: reply, keep: c.ClientKey || c.Attempt > 1, deciding: activity{doing: "deciding command", name: c.Name}}
	def, ok := h.catalog.Type(c.Stream.Type)
	switch {
	case !ok:
		j.settle(unknownType(c.Stream.Type))
	case c.Key == "":
		j.settle(badRequest("the command has no key", ""))
	case len(c.Data) > MaxCommandBytes:
		j.settle(&command.Failure{
			Code:    command.TooLarge,
			Message: fmt.Sprintf("data has %d bytes, at most %d are allowed", len(c.Data), MaxCommandBytes),
			Retry:   command.RetryNo,
		})
	default:
		if f := h.post(def, j); f != nil {
			j.settle(f)
		}
	}
}

// post puts a job into its aggregate's mailbox, or says why not.
func (h *Host) post(def *aggregate.Definition, j *job) *command.Failure {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.draining || h.closed {
		return leaving()
	}
	if h.pending > 0 && (h.pending >= h.config.PendingCommands || h.pendingBytes+j.size() > h.config.PendingBytes) {
		h.counters.busy.Add(1)
		return busy("this node has as many requests waiting as it takes")
	}
	c, f := h.cell(def, j.Stream)
	if f != nil {
		return f
	}
	if len(c.jobs) > 0 && (len(c.jobs) >= h.config.MailboxCommands || c.jobBytes+j.size() > h.config.MailboxBytes) {
		h.counters.busy.Add(1)
		return busy(j.Stream.String() + " has as many commands waiting as it takes")
	}
	if !c.inTime(j) {
		h.counters.busy.Add(1)
		return busy(j.Stream.String() + " has more commands waiting than it can answer before this one's deadline")
	}
	c.jobs = append(c.jobs, j)
	c.jobBytes += j.size()
	h.pending++
	h.pendingBytes += j.size()
	h.start(c)
	return nil
}

// queueLeast is how much work may always wait for an aggregate, by estimate.
const queueLeast = 100 * time.Millisecond

// inTime reports whether a command can be answered before its deadline, as
// far as the last units of its aggregate tell. A third is added to the
// estimate: work that ends just too late is worth nothing. A command that
// finds an empty mailbox is always taken, so that a wrong estimate corrects
// itself. The caller holds mu.
func (c *cell) inTime(j *job) bool {
	if len(c.jobs) == 0 || j.Deadline.IsZero() {
		return true
	}
	ahead := int64(len(c.jobs)) + c.left.Load() + 1
	wait := time.Duration(ahead*c.pace.Load() + c.unit.Load())
	return wait <= queueLeast || time.Until(j.Deadline) > wait+wait/3
}

// Drain refuses new commands and gets with Elsewhere, and waits until those in
// flight are answered or ctx ends. The host stays so.
func (h *Host) Drain(ctx context.Context) error {
	h.mu.Lock()
	h.draining = true
	if h.quiet == nil {
		h.quiet = make(chan struct{})
		if h.active == 0 {
			close(h.quiet)
		}
	}
	quiet := h.quiet
	h.mu.Unlock()
	select {
	case <-quiet:
		return nil
	case <-ctx.Done():
		h.mu.Lock()
		defer h.mu.Unlock()
		return fmt.Errorf("host: drain: %d commands and gets are still in flight: %w", h.pending, ctx.Err())
	}
}

// Observe is told of what any node has committed, in order. An aggregate
// whose cached state is behind is brought up to date before it is used again.
// It does not block.
func (h *Host) Observe(commits []eventstore.Commit) {
	if len(commits) == 0 {
		return
	}
	h.tip.saw(commits[len(commits)-1].Position)
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range commits {
		c := h.cells[commits[i].Stream]
		// The feed is often ahead of the goroutine that made the commit; by
		// the time that one looks, its own version has caught up with known.
		if c == nil || commits[i].Version <= c.known {
			continue
		}
		c.known = commits[i].Version
		if !c.running {
			h.counters.invalidated.Add(1)
		}
	}
}

// Keep forgets the aggregates for which owned is false: at once when idle,
// else as soon as the mailbox is empty. It is called when the ring changes.
func (h *Host) Keep(owned func(eventstore.StreamID) bool) {
	h.mu.Lock()
	cells := make([]*cell, 0, len(h.cells))
	for _, c := range h.cells {
		cells = append(cells, c)
	}
	h.mu.Unlock()

	lost := cells[:0]
	for _, c := range cells {
		if !owned(c.stream) {
			lost = append(lost, c)
		}
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range lost {
		switch {
		case c.running:
			c.leave = true
		case h.cells[c.stream] == c: // it may have gone meanwhile
			h.remove(c)
		}
	}
}

// Clear forgets every state and everything that was known of the log. It is
// called when the log went back.
func (h *Host) Clear() {
	h.tip.reset()
	h.forget()
	for {
		select {
		case <-h.snapshots: // made of events that may be gone
		default:
			return
		}
	}
}

// forget drops every state: at once where no goroutine works on it, else
// before it is used again.
func (h *Host) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.cells {
		if c.running {
			c.forget, c.known = true, 0
			h.release(c)
		} else {
			h.remove(c)
		}
	}
}

const (
	pauseTick = 50 * time.Millisecond
	pauseMost = 500 * time.Millisecond
)

// watchForPauses forgets every state once the process was stopped for so long
// that other nodes may have taken over: a frozen virtual machine, a laptop's
// lid. Commands are safe without it, since the store compares versions; it is
// for gets that ask for no more than the owner's state.
func (h *Host) watchForPauses() {
	ticker := time.NewTicker(pauseTick)
	defer ticker.Stop()
	last := time.Now()
	h.ticked.Store(&last)
	defer h.ticked.Store(nil)
	for {
		select {
		case <-h.ctx.Done():
			return
		case <-ticker.C:
		}
		now := time.Now()
		if last := *h.ticked.Load(); h.paused(last, now) {
			h.counters.pauses.Add(1)
			h.log.Warn("this process was paused: forgetting every aggregate's state", "pause", now.Sub(last))
			h.forget()
		}
		h.ticked.Store(&now)
	}
}

// woken tells whether the process has just come out of a pause that
// watchForPauses has not noticed yet: gets that waited in a socket for its end
// may well be served before that.
func (h *Host) woken() bool {
	last := h.ticked.Load()
	return last != nil && h.paused(*last, time.Now())
}

// paused tells whether the process did not run between two ticks. Wall-clock
// time is compared as well: the monotonic clock stands still while a machine
// is suspended.
func (h *Host) paused(last, now time.Time) bool {
	return now.Sub(last) > h.pauseMost || now.Round(0).Sub(last.Round(0)) > h.pauseMost
}
