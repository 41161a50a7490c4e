package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

func badRequest(message, field string) *command.Failure {
	return &command.Failure{Code: command.BadRequest, Message: message, Field: field, Retry: command.RetryNo}
}

// unknownType and unknownCommand say Elsewhere: the gateway knew the name when
// it sent the command here, so this node is the older one.
func unknownType(typ string) *command.Failure {
	return &command.Failure{
		Code: command.NotFound, Message: fmt.Sprintf("there is no aggregate type %q", typ),
		Retry: command.RetryNo, Elsewhere: true,
	}
}

func unknownCommand(def *aggregate.Definition, name string) *command.Failure {
	return &command.Failure{
		Code:    command.NotFound,
		Message: fmt.Sprintf("%s has no command %q; it has: %s", def.Name(), name, strings.Join(def.Commands(), ", ")),
		Retry:   command.RetryNo, Elsewhere: true,
	}
}

func busy(why string) *command.Failure {
	return &command.Failure{Code: command.Busy, Message: why + ": send the command again in a moment", Retry: command.RetryLater}
}

func late() *command.Failure {
	return &command.Failure{
		Code: command.Timeout, Message: "the command waited until its time was over, and was not begun",
		Retry: command.RetryLater,
	}
}

func leaving() *command.Failure {
	return &command.Failure{
		Code: command.Unavailable, Message: "this node is leaving and takes no more requests",
		Retry: command.RetryLater, Elsewhere: true,
	}
}

func keyReused(key string) *command.Failure {
	return &command.Failure{
		Code:    command.KeyReused,
		Message: "the key was used before, with another client, command or data: use a new key for each command",
		Key:     key, Retry: command.RetryNo,
	}
}

func internal() *command.Failure {
	return &command.Failure{
		Code: command.Internal, Message: "the node failed at this request; its log says why", Retry: command.RetryNo,
	}
}

// outage is how long clients are asked to wait when the database is away: a
// failover takes seconds, and what waits should not be many.
const outage = 500 * time.Millisecond

// failure says to a client what an error from the store, or from reading an
// aggregate, means. It is internal, and logged with the keys of the commands
// concerned, when there is nothing that a client could know. Whether other
// nodes still reach the database, only they know: they are asked.
func (h *Host) failure(s eventstore.StreamID, doing string, err error, jobs ...*job) *command.Failure {
	unavailable := func(message string, retry command.Retry) *command.Failure {
		return &command.Failure{Code: command.Unavailable, Message: message, Retry: retry}
	}
	away := func(message string, retry command.Retry) *command.Failure {
		f := unavailable(message, retry)
		f.After, f.Elsewhere, f.Cause = outage, true, err.Error()
		return f
	}
	var invalid *eventstore.InvalidError
	switch {
	case errors.As(err, &invalid):
		return badRequest("the database refuses the data: "+invalid.Reason, "")
	case errors.Is(err, eventstore.ErrUnknown) && errors.Is(err, eventstore.ErrWentBack):
		h.counters.unknown.Add(1)
		return unavailable("the log has lost events that were seen before, perhaps this command's as well; it serves again "+
			"once an operator has decided about them: send it again with the same key", command.RetrySameKey)
	case errors.Is(err, eventstore.ErrUnknown):
		h.counters.unknown.Add(1)
		return away("the database went away while it stored the command, so the outcome is not known: "+
			"send it again with the same key", command.RetrySameKey)
	case errors.Is(err, errForgotten):
		h.counters.unavailable.Add(1)
		return away("this node stood still again and again while it read the aggregate: try again", command.RetryLater)
	case errors.Is(err, eventstore.ErrUnavailable):
		h.counters.unavailable.Add(1)
		return away("the database can't be reached, or stores nothing at the moment: try again", command.RetryLater)
	case errors.Is(err, eventstore.ErrWentBack):
		h.counters.unavailable.Add(1)
		return unavailable("the log has lost events that were seen before; it serves again once an operator has decided about them",
			command.RetryLater)
	case errors.Is(err, eventstore.ErrClosed), h.ctx.Err() != nil && errors.Is(err, context.Canceled):
		return leaving()
	case isMisread(err): // checkStored has logged it
		f := unavailable(fmt.Sprintf("%s has events that this node's version of the program would misread", s), command.RetryLater)
		f.Elsewhere = true
		return f
	case errors.Is(err, aggregate.ErrUnknownEvent):
		h.log.Warn("an event is newer than this program: leaving the aggregate to other nodes", "stream", s, "error", err)
		f := unavailable(fmt.Sprintf("%s has events that this node's version of the program does not know", s), command.RetryLater)
		f.Elsewhere = true
		return f
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return late()
	}
	h.counters.internal.Add(1)
	h.logFault(s, doing, err, jobs)
	return internal()
}

// logFault logs a fault of the program. A client can cause the same panic with
// each command that it sends: for each place the first ten are logged, and then
// one a second.
func (h *Host) logFault(s eventstore.StreamID, doing string, err error, jobs []*job) {
	log := h.log.With("stream", s)
	switch len(jobs) {
	case 0:
	case 1:
		log = log.With("key", jobs[0].Key, "command", jobs[0].Name, "client", jobs[0].Client)
	default:
		log = log.With("keys", keysOf(jobs))
	}
	var p *panicError
	if !errors.As(err, &p) {
		log.Error(doing+" failed", "err", err)
		return
	}
	place := doing + " of " + s.Type
	if len(jobs) == 1 {
		place += " " + jobs[0].Name
	}
	once, ok := h.faults.Load(place)
	if !ok {
		once, _ = h.faults.LoadOrStore(place, &rate.Sometimes{First: 10, Interval: time.Second})
	}
	once.(*rate.Sometimes).Do(func() {
		log.Error(doing+": application code panicked", "panic", p.value, "stack", string(p.stack))
	})
}

// keysOf returns the keys of the first commands of a round: enough to find
// them by.
func keysOf(jobs []*job) []string {
	const most = 16
	keys := make([]string, 0, min(len(jobs), most))
	for _, j := range jobs[:min(len(jobs), most)] {
		keys = append(keys, j.Key)
	}
	return keys
}

// panicError is a panic of application code.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// guarded calls application code and turns a panic into a panicError.
func guarded(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicError{value: v, stack: debug.Stack()}
		}
	}()
	return f()
}
