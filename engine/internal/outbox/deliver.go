package outbox

import (
	"context"
	"time"

	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/proto/command"
)

const (
	// firstPause and maxPause are those between attempts that were not executed or
	// whose outcome is unknown.
	firstPause = 10 * time.Millisecond
	maxPause   = time.Second
	// mostFailures is how often a command fails for a reason of its target before the
	// target is held.
	mostFailures = 5
	// answerIn is how long an attempt waits for its outcome.
	answerIn = 30 * time.Second
	// maxError bounds the stored text of an error, in bytes.
	maxError = 1000
)

// failurePauses are those after failures of the target.
var failurePauses = [mostFailures]time.Duration{time.Second, 4 * time.Second, 15 * time.Second, time.Minute, 0}

// A verdict is what to do with a command.
type verdict int

const (
	stopped  verdict = iota // the segment has ended, and the command is still pending
	final                   // its outcome is final
	rejected                // the same, and its target has refused it
	held                    // its target waits for an operator
)

// An outcome is what an attempt says about its command.
type outcome int

const (
	executed outcome = iota
	refused          // finally
	later            // the same key again
	broken           // for a reason of the target
)

func judge(f *command.Failure) outcome {
	if f == nil {
		return executed
	}
	switch f.Code {
	case command.CodeKeyReused:
		return executed
	case command.CodeRejected, command.CodeConflict, command.CodeBadRequest, command.CodeNotFound, command.CodeTooLarge:
		return refused
	case command.CodeBusy, command.CodeUnavailable, command.CodeTimeout, command.CodeRateLimited:
		return later
	}
	return broken
}

// deliver sends a command until its outcome is final, its target must be held, or
// ctx ends. It may run in any goroutine.
func (s *segment) deliver(ctx context.Context, c rows.Command, logID string) verdict {
	stream, err := streamOf(c.Target)
	if err != nil {
		return s.fail(ctx, c, mostFailures, err.Error())
	}
	pause := firstPause
	for attempts := c.Attempts; ; {
		f, ok := s.exchange(ctx, command.Command{
			Stream: stream, Name: c.Name, Data: c.Data, Depth: c.Depth, Log: logID,
			Key: s.cfg.Process.CommandKey(uint64(c.Position), c.K, c.N), Client: s.cfg.Process.Client(),
		})
		if !ok {
			return stopped
		}
		wait := pause
		switch judge(f) {
		case executed:
			if f != nil {
				s.counts.reused.Add(1)
			}
			s.counts.sent.Add(1)
			return final
		case refused:
			s.counts.refused.Add(1)
			return s.refuse(ctx, c, f, logID)
		case later:
			s.counts.retries.Add(1)
			pause = min(2*pause, maxPause)
			wait = max(wait, min(f.After, maxPause))
		case broken:
			s.counts.failures.Add(1)
			attempts++
			if v := s.fail(ctx, c, attempts, f.Error()); v != final {
				return v
			}
			wait = s.pauses[attempts-1]
		}
		if !sleep(ctx, wait) {
			return stopped
		}
	}
}

// exchange sends a command within the bounds, and returns its failure, nil for a
// result. It reports false if ctx ends first.
func (s *segment) exchange(ctx context.Context, c command.Command) (*command.Failure, bool) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, false
	}
	if !s.cfg.Slots.take(ctx) {
		return nil, false
	}
	defer s.cfg.Slots.free()
	c.Deadline = time.Now().Add(answerIn)
	o := s.cfg.Send(ctx, c)
	return o.Failure, ctx.Err() == nil || o.Failure == nil
}

// fail records an attempt that failed for a reason of the target. It returns final
// if the command is to be tried again.
func (s *segment) fail(ctx context.Context, c rows.Command, attempts int, reason string) verdict {
	hold := attempts >= mostFailures
	for {
		err := s.cfg.Rows.Fail(ctx, s.cfg.Process.Name(), c.CommandID, attempts, hold, reason[:min(len(reason), maxError)])
		switch {
		case err == nil && hold:
			s.log.Error("a command fails: its target is held until an operator decides", "stream", c.Target, "command", c.Name, "position", c.Position, "attempts", attempts, "err", reason)
			return held
		case err == nil:
			return final
		case !sleep(ctx, retryAfter):
			return stopped
		}
	}
}

// refuse records the refusal of a command, if the process manager handles it.
func (s *segment) refuse(ctx context.Context, c rows.Command, f *command.Failure, logID string) verdict {
	if !s.cfg.Process.HandlesRejections() {
		return rejected
	}
	stream, err := streamOf(c.Target)
	if err != nil {
		return rejected
	}
	r, err := s.cfg.Process.RecordRejected(c.Sequence, c.K, c.N, process.Rejection{
		Position: uint64(c.Position), Type: stream.Type, ID: stream.ID, Command: c.Name, Code: string(f.Code), Reason: f.Reason, Message: f.Message,
	})
	if err != nil {
		return s.fail(ctx, c, mostFailures, err.Error())
	}
	if !s.record(ctx, r, c.Depth, logID) {
		return stopped
	}
	s.counts.recorded.Add(1)
	return rejected
}

// recordPause is the longest pause between attempts to record something.
const recordPause = time.Minute

// record records an input of the process manager in its own stream, as often as it
// takes. It reports false if ctx ends first.
func (s *segment) record(ctx context.Context, r process.Record, depth int, logID string) bool {
	pause := firstPause
	for {
		f, ok := s.exchange(ctx, command.Command{
			Stream: eventstore.StreamID{Type: s.cfg.Process.Name(), ID: r.Sequence}, Name: r.Command, Data: r.Data,
			Key: r.Key, Client: s.cfg.Process.Client(), Depth: depth, Log: logID,
		})
		if !ok {
			return false
		}
		most := recordPause
		switch judge(f) {
		case executed:
			return true
		case later:
			most = maxPause
		default: // an owner with an older program does not know the stream's type
			s.log.Warn("an event of a process manager cannot be recorded", "stream", s.cfg.Process.Name()+"/"+r.Sequence, "command", r.Command, "err", f)
			pause = max(pause, maxPause)
		}
		s.counts.retries.Add(1)
		if !sleep(ctx, pause) {
			return false
		}
		pause = min(2*pause, most)
	}
}
