package outbox

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/proto/command"
)

// Config configures an Outbox. All fields are required.
type Config struct {
	Process *process.Definition
	Rows    rows.Outboxes
	Send    command.SystemSender
	// LogID returns the id of the log. Another one empties the outbox's memory.
	LogID  func() string
	Slots  *Slots
	Logger *slog.Logger
}

// An Outbox sends the commands of one process manager, as far as this node owns its
// segments. It is safe for concurrent use.
type Outbox struct {
	cfg    Config
	log    *slog.Logger
	pauses [mostFailures]time.Duration // after failures of a target
	counts counts

	mu      sync.Mutex
	running map[place]int // how often a segment is sent for on this node
	senders []rows.Sender // as last read by Drain; nil while it does not run
}

// place is one segment of one build.
type place struct {
	build   int64
	segment int
}

// counts are the counters of an outbox.
type counts struct {
	sent, refused, reused, recorded, woken, retries, failures atomic.Uint64
}

// New returns an outbox. Its segments run by themselves.
func New(cfg Config) *Outbox {
	return &Outbox{cfg: cfg, log: cfg.Logger.With("process", cfg.Process.Name()), pauses: failurePauses, running: map[place]int{}}
}

// Stats are the figures of an outbox on one node.
type Stats struct {
	// Commands, Held and Oldest describe the whole outbox, if this node watches it;
	// else they are zero. Oldest is the age of its oldest command.
	Watched  bool
	Commands int
	Held     int
	Oldest   time.Duration
	// Sent counts the commands with a result, Refused the commands that aggregates have
	// refused, Reused those whose key had another command, Recorded the refusals
	// that were recorded, Woken the times, Retries the repeated attempts, and Failures
	// the attempts that failed for a reason of their target.
	Sent, Refused, Reused, Recorded, Woken, Retries, Failures uint64
}

// Stats returns the current figures.
func (o *Outbox) Stats() Stats {
	c := &o.counts
	s := Stats{
		Sent: c.sent.Load(), Refused: c.refused.Load(), Reused: c.reused.Load(), Recorded: c.recorded.Load(),
		Woken: c.woken.Load(), Retries: c.retries.Load(), Failures: c.failures.Load(),
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	s.Watched = o.senders != nil
	for _, sender := range o.senders {
		s.Commands += sender.Commands
		s.Held += sender.Held
		s.Oldest = max(s.Oldest, sender.Age)
	}
	return s
}

// watchEvery is how often Drain reads the outbox, unless that takes long: it then
// rests for restTimes as long.
const (
	watchEvery = time.Second
	restTimes  = 20
)

// Drain watches the outbox until ctx ends, and sends the commands of segments for
// which this node does not send otherwise and owns reports false, such as those of a
// build that was handed over. One node of a cluster calls it.
func (o *Outbox) Drain(ctx context.Context, owns func(build int64) bool) {
	var draining sync.WaitGroup
	defer draining.Wait()
	for {
		began := time.Now()
		senders, err := o.cfg.Rows.Senders(ctx, o.cfg.Process.Name())
		if err == nil {
			o.watched(append([]rows.Sender{}, senders...))
			for _, s := range senders {
				at := place{s.Build, s.Segment}
				if owns(s.Build) || !o.begin(at, true) {
					continue
				}
				draining.Go(func() {
					defer o.end(at)
					o.newSegment(at, &Signal{}, true).run(ctx)
				})
			}
		}
		if !sleep(ctx, max(watchEvery, restTimes*time.Since(began))) {
			o.watched(nil)
			return
		}
	}
}

func (o *Outbox) watched(senders []rows.Sender) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.senders = senders
}

// begin counts a sender of a segment. If it is to be the only one, it reports
// whether it is.
func (o *Outbox) begin(at place, alone bool) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if alone && o.running[at] > 0 {
		return false
	}
	o.running[at]++
	return true
}

func (o *Outbox) end(at place) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.running[at]--; o.running[at] == 0 {
		delete(o.running, at)
	}
}

// Segment sends the commands of one segment of one build until ctx ends. signal says
// what the fold has written.
func (o *Outbox) Segment(ctx context.Context, build int64, segment int, signal *Signal) {
	at := place{build, segment}
	o.begin(at, false)
	defer o.end(at)
	o.newSegment(at, signal, false).run(ctx)
}

// A Signal tells the sender of a segment what the fold of the segment does. Its
// methods do not block and are safe for concurrent use. The zero value is ready.
type Signal struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced by each method
	state   signalState
}

type signalState struct {
	begun   uint64 // how often Began was called
	current bool
	wrote   uint64    // how often Wrote was called with commands
	due     time.Time // the earliest that was written, by the process's own choice; zero: none
}

// Began says that the fold has read the checkpoint, and whether the build's term is
// current.
func (s *Signal) Began(current bool) {
	s.update(func(st *signalState) {
		st.begun++
		st.current = current
	})
}

// Wrote says that a batch was written: whether it has commands, and the earliest
// time for which a row of it waits, zero if none does.
func (s *Signal) Wrote(commands bool, due time.Time) {
	if !commands && due.IsZero() {
		return
	}
	s.update(func(st *signalState) {
		if commands {
			st.wrote++
		}
		if !due.IsZero() && (st.due.IsZero() || due.Before(st.due)) {
			st.due = due
		}
	})
}

func (s *Signal) update(do func(*signalState)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do(&s.state)
	if s.changed != nil {
		close(s.changed)
	}
	s.changed = make(chan struct{})
}

// read returns the state, and a channel that is closed when it changes.
func (s *Signal) read() (signalState, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.state, s.changed
}

// takeDue returns the earliest time that was written since the last call.
func (s *Signal) takeDue() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	due := s.state.due
	s.state.due = time.Time{}
	return due
}
