package relay

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

const (
	// retryAfter and retryAtMost are the first and the longest pause before a command, or
	// a connection, is tried again. Each pause is twice the one before, less up to a half.
	retryAfter  = 100 * time.Millisecond
	retryAtMost = 10 * time.Second
	// finishWithin bounds how long Run waits for outcomes after the end of its context.
	finishWithin = 5 * time.Second
)

var errEnded = errors.New("the connection to the broker has ended")

// Execute executes a command of a client for which the caller vouches. It returns a
// frame.Result or a frame.Fault, also when ctx ends.
type Execute func(ctx context.Context, c frame.Command, client string) frame.Frame

// An IntakeServer serves an intake. Its methods are safe for concurrent use, except that
// Run runs once at a time.
//
// Each message is finished after its command has its final outcome: a result, or a
// failure that would be the same if the command were sent again. Until then the command is
// sent again with the same key. Commands to one aggregate are executed one after another,
// in the order of the queue, those to different aggregates concurrently.
//
// A message that was not finished returns to the queue, so a command may be sent again
// later, also by another node: its key makes that harmless.
type IntakeServer struct {
	intake  Intake
	execute Execute
	log     *slog.Logger

	unfinished atomic.Int64
	retries    atomic.Uint64
	failures   atomic.Uint64
	outcomes   [len(intakeOutcomes)]atomic.Uint64

	opened time.Time // when the connection was opened, zero before; only Run uses it

	mu    sync.Mutex
	state intakeState
}

// IntakeState is what an intake does on one node.
type IntakeState string

// The states.
const (
	IntakeStopped IntakeState = "stopped" // the node does not serve it
	IntakeAway    IntakeState = "away"    // it has no connection to the queue
	IntakeWaiting IntakeState = "waiting" // it has one, over which no message has arrived: the queue is empty, or another consumer has it
	IntakeWorking IntakeState = "working" // messages have arrived over the connection
)

// intakeState is the state of an intake, and the last error.
type intakeState struct {
	is        IntakeState
	since     time.Time
	problem   string
	problemAt time.Time
}

// IntakeOutcome is how a message ended.
type IntakeOutcome int

// The outcomes.
const (
	IntakeResult IntakeOutcome = iota
	IntakeRejected
	IntakeConflict
	IntakeDeadLetter
)

var intakeOutcomes = [...]string{IntakeResult: "result", IntakeRejected: "rejected", IntakeConflict: "conflict", IntakeDeadLetter: "dead_letter"}

// IntakeStats are the figures of an intake on one node.
type IntakeStats struct {
	Intake string
	Where  string // names the queue
	State  IntakeState
	// Since is when the state began. A connection that ends within 10 seconds, before a
	// message was finished, does not end the state away.
	Since time.Time
	// Problem is the last error of a connection, also of one that was replaced, and
	// ProblemAt its time; zero if there was none.
	Problem    string
	ProblemAt  time.Time
	Unfinished int               // messages that were taken and not finished
	Retries    uint64            // commands that were sent again
	Failures   uint64            // connections that could not be opened, or ended
	Commands   map[string]uint64 // finished messages, by their outcome: result, rejected, conflict, dead_letter
}

// Connected reports whether the node has a connection to the queue.
func (s *IntakeStats) Connected() bool { return s.State == IntakeWaiting || s.State == IntakeWorking }

// NewIntakeServer returns a server of a valid intake. The logger gets a line for each
// message that becomes a dead letter: it should limit lines with the same message.
func NewIntakeServer(in Intake, execute Execute, log *slog.Logger) *IntakeServer {
	in.Window = cmp.Or(in.Window, DefaultIntakeWindow)
	return &IntakeServer{intake: in, execute: execute, log: log.With("intake", in.Name), state: intakeState{is: IntakeStopped, since: time.Now()}}
}

// Stats returns the current figures.
func (s *IntakeServer) Stats() IntakeStats {
	s.mu.Lock()
	now := s.state
	s.mu.Unlock()
	stats := IntakeStats{
		Intake: s.intake.Name, Where: s.intake.Where, State: now.is, Since: now.since, Problem: now.problem, ProblemAt: now.problemAt,
		Unfinished: int(s.unfinished.Load()), Retries: s.retries.Load(), Failures: s.failures.Load(), Commands: map[string]uint64{},
	}
	for i, name := range intakeOutcomes {
		stats.Commands[name] = s.outcomes[i].Load()
	}
	return stats
}

// Run serves the intake until ctx ends. Then it begins no command and no further attempt,
// waits up to 5 seconds for the outcomes of commands that were sent, and closes the
// connection, which returns all other messages to the queue.
func (s *IntakeServer) Run(ctx context.Context) {
	pause, away := backoff{}, time.Now()
	s.enter(IntakeAway, away)
	defer func() { s.enter(IntakeStopped, time.Now()) }()
	for ctx.Err() == nil {
		before := s.finished()
		err := s.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		if s.finished() > before || !s.opened.IsZero() && time.Since(s.opened) > retryAtMost {
			pause, away = backoff{}, time.Now()
		}
		s.noteEnd(away, err)
		s.log.Warn("an intake takes no commands from its broker", "where", s.intake.Where, "err", err)
		pause.wait(ctx, 0)
	}
}

// enter sets the state.
func (s *IntakeServer) enter(is IntakeState, since time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.is, s.state.since = is, since
}

// noteEnd notes the end of a connection, and since when the intake lacks one that works.
func (s *IntakeServer) noteEnd(since time.Time, err error) {
	s.failures.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = intakeState{is: IntakeAway, since: since, problem: err.Error(), problemAt: time.Now()}
}

func (s *IntakeServer) finished() (n uint64) {
	for i := range s.outcomes {
		n += s.outcomes[i].Load()
	}
	return n
}

// serve serves one connection.
func (s *IntakeServer) serve(ctx context.Context) error {
	source := s.intake.New()
	defer source.Close()
	s.opened = time.Time{}
	opening, cancel := context.WithTimeout(ctx, DialTimeout)
	defer cancel()
	if err := source.Open(opening, s.intake.Window); err != nil {
		return err
	}
	s.opened = time.Now()
	s.enter(IntakeWaiting, s.opened)
	s.log.Info("an intake takes commands from its broker", "where", s.intake.Where)
	r := &intakeRun{IntakeServer: s, source: source, stopping: ctx.Done(), waiting: map[eventstore.StreamID][]*Request{}}
	r.alive, r.fail = context.WithCancelCause(context.WithoutCancel(ctx))
	var stopSending context.CancelFunc
	r.sending, stopSending = context.WithCancel(r.alive)
	defer context.AfterFunc(ctx, stopSending)()
	err := r.serve()
	r.fail(err)
	source.Close() // it ends calls that wait for the broker
	r.workers.Wait()
	s.unfinished.Store(0)
	return cmp.Or(source.Err(), err, errEnded)
}

// An intakeRun is the time from one connection to the next.
type intakeRun struct {
	*IntakeServer
	source   Source
	stopping <-chan struct{} // closed when the intake must end
	sending  context.Context // of the pauses: ends soon after, or with the run
	alive    context.Context // ends with the run
	fail     context.CancelCauseFunc
	workers  sync.WaitGroup
	hasTaken bool // only serve uses it

	waitingMu sync.Mutex
	// waiting has the requests of each aggregate that has a worker, behind the one that
	// the worker has.
	waiting map[eventstore.StreamID][]*Request
}

func (r *intakeRun) serve() error {
	for {
		select {
		case request, open := <-r.source.Requests():
			if !open {
				return r.source.Err()
			}
			r.take(request)
		case <-r.alive.Done():
			return context.Cause(r.alive)
		case <-r.stopping:
			return r.finish()
		}
	}
}

// take gives a request to the worker of its aggregate.
func (r *intakeRun) take(request *Request) {
	if !r.hasTaken {
		r.hasTaken = true
		r.enter(IntakeWorking, time.Now())
	}
	r.unfinished.Add(1)
	if request.Wrong != nil {
		r.workers.Go(func() { r.refuse(request, request.Wrong) })
		return
	}
	stream := request.Command.Aggregate
	r.waitingMu.Lock()
	defer r.waitingMu.Unlock()
	queue, hasWorker := r.waiting[stream]
	if hasWorker {
		r.waiting[stream] = append(queue, request)
		return
	}
	r.waiting[stream] = nil
	r.workers.Go(func() { r.work(request) })
}

// work executes a request, and those to the same aggregate that arrive in the meantime.
func (r *intakeRun) work(request *Request) {
	for stream := request.Command.Aggregate; request != nil; request = r.next(stream) {
		if !r.perform(request) {
			return
		}
	}
}

// next returns the next request of an aggregate, nil if its worker must end.
func (r *intakeRun) next(stream eventstore.StreamID) *Request {
	r.waitingMu.Lock()
	defer r.waitingMu.Unlock()
	queue := r.waiting[stream]
	if len(queue) == 0 {
		delete(r.waiting, stream)
		return nil
	}
	r.waiting[stream] = queue[1:]
	return queue[0]
}

// perform sends the command of a request until its outcome is final, and finishes the
// request. It returns false if the run ends first.
func (r *intakeRun) perform(request *Request) bool {
	for pause := (backoff{}); r.maySend(); {
		answer := r.execute(r.alive, request.Command, request.Client)
		fault, failed := answer.(frame.Fault)
		switch {
		case !failed:
			return r.settle(request, answer, IntakeResult)
		case fault.Code == command.CodeRejected:
			return r.settle(request, answer, IntakeRejected)
		case fault.Code == command.CodeConflict:
			return r.settle(request, answer, IntakeConflict)
		case fault.Retry != command.RetrySameKey && fault.Retry != command.RetryLater:
			return r.refuse(request, &fault)
		}
		if r.maySend() {
			r.retries.Add(1)
			pause.wait(r.sending, time.Duration(fault.AfterMS)*time.Millisecond)
		}
	}
	return false
}

// maySend reports whether the intake neither stops nor has lost its connection.
func (r *intakeRun) maySend() bool {
	select {
	case <-r.stopping:
		return false
	case <-r.alive.Done():
		return false
	default:
		return true
	}
}

// settle finishes a request that has an outcome of its aggregate.
func (r *intakeRun) settle(request *Request, answer frame.Frame, outcome IntakeOutcome) bool {
	return r.end(r.source.Finish(r.alive, request, answer.Append(nil)), outcome)
}

// refuse makes a message a dead letter.
func (r *intakeRun) refuse(request *Request, fault *frame.Fault) bool {
	c := &request.Command
	r.log.Warn("a message of an intake becomes a dead letter", "key", fault.Key, "stream", c.Aggregate, "command", command.Clip(c.Command),
		"client", request.Client, "code", fault.Code, "field", fault.Field, "err", fault.Message)
	return r.end(r.source.Refuse(r.alive, request, fault.Append(nil)), IntakeDeadLetter)
}

// end counts a message that was finished, or ends the run with an error.
func (r *intakeRun) end(err error, outcome IntakeOutcome) bool {
	if err != nil {
		r.fail(err)
		return false
	}
	r.outcomes[outcome].Add(1)
	r.unfinished.Add(-1)
	return true
}

// finish waits until the workers have ended, for a bounded time. The source stays a
// consumer of its queue in the meantime: otherwise the broker would give later messages
// to another node while earlier ones are unfinished.
func (r *intakeRun) finish() error {
	ended := make(chan struct{})
	go func() {
		r.workers.Wait()
		close(ended)
	}()
	timer := time.NewTimer(finishWithin)
	defer timer.Stop()
	for {
		select {
		case <-ended:
			return nil
		case _, open := <-r.source.Requests(): // it returns to the queue
			if !open {
				return r.source.Err()
			}
		case <-r.alive.Done():
			return context.Cause(r.alive)
		case <-timer.C:
			r.log.Warn("commands of an intake had no outcome when the node stopped: the broker delivers them again", "unfinished", r.unfinished.Load())
			return nil
		}
	}
}

// A backoff is a sequence of growing pauses.
type backoff struct{ last time.Duration }

// wait waits for the next pause, and at least for a duration, or until ctx ends.
func (b *backoff) wait(ctx context.Context, least time.Duration) {
	b.last = min(max(retryAfter, 2*b.last), retryAtMost)
	pause := max(least, b.last/2+rand.N(b.last/2))
	select {
	case <-time.After(pause):
	case <-ctx.Done():
	}
}
