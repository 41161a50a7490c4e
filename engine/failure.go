package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// unknownCommand refuses a command that this node's program lacks. The gateway
// that sent it knew the name, so other nodes may run a newer program.
func unknownCommand(def *aggregate.Definition, name string) *command.Failure {
	return command.UnknownCommand(def.Name(), name, def.Commands()...).OnOtherNodes()
}

func leaving() *command.Failure {
	return command.Unavailable("this node is shutting down; another node serves the request").OnOtherNodes()
}

// outageRetry is how long clients are asked to wait while the database is out of
// reach. A failover takes seconds.
const outageRetry = 500 * time.Millisecond

// unreachable is the failure for an error that may not occur on other nodes.
func unreachable(err error, retry command.Retry, message string) *command.Failure {
	f := command.Unavailable("%s", message).OnOtherNodes()
	f.Retry, f.After, f.Cause = retry, outageRetry, err.Error()
	return f
}

// failure translates an error of the store, or of reading an aggregate, for the
// client. An error that a client can do nothing about becomes an internal
// failure, and is logged with the keys of the jobs.
func (h *Host) failure(s eventstore.StreamID, doing string, err error, jobs ...*job) *command.Failure {
	if f := h.storeFailure(s, err); f != nil {
		return f
	}
	h.counters.internal.Add(1)
	h.reportFault(s, doing, err, jobs)
	return command.Internal(command.RetryNo)
}

// storeFailure returns nil for an error that is a fault of the program.
func (h *Host) storeFailure(s eventstore.StreamID, err error) *command.Failure {
	var invalid *eventstore.InvalidError
	switch {
	case errors.As(err, &invalid):
		return command.BadRequest("", "the database refuses the data: %s", invalid.Reason)
	case errors.Is(err, eventstore.ErrUnknown):
		h.counters.unknown.Add(1)
		return unknownOutcome(err)
	case errors.Is(err, errInvalidated):
		h.counters.unavailable.Add(1)
		return unreachable(err, command.RetryLater, "this node was paused several times while it read the aggregate: try again")
	case errors.Is(err, eventstore.ErrUnavailable):
		h.counters.unavailable.Add(1)
		return unreachable(err, command.RetryLater, "the database does not answer, or stores nothing at the moment: try again")
	case errors.Is(err, eventstore.ErrWentBack):
		h.counters.unavailable.Add(1)
		return command.Unavailable("the log has lost events: requests are refused until an operator has decided how to continue")
	case errors.Is(err, eventstore.ErrClosed), h.ctx.Err() != nil && errors.Is(err, context.Canceled):
		return leaving()
	case isMisread(err): // reportForm has logged it
		return command.Unavailable("%s has events that this node's version of the program would misread", s).OnOtherNodes()
	case errors.Is(err, aggregate.ErrUnknownEvent):
		h.log.Warn("an event is newer than this program; leaving the aggregate to other nodes", "stream", s, "err", err)
		return command.Unavailable("%s has events that this node's version of the program does not know", s).OnOtherNodes()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return command.Expired()
	}
	return nil
}

// unknownOutcome is the failure for a unit that may or may not be stored.
func unknownOutcome(err error) *command.Failure {
	if !errors.Is(err, eventstore.ErrWentBack) {
		return unreachable(err, command.RetrySameKey,
			"the database became unreachable while it stored the command, so the outcome is unknown: send the command again with the same key")
	}
	f := command.Unavailable("the log has lost events, perhaps also this command's: " +
		"send the command again with the same key once an operator has decided how to continue")
	f.Retry = command.RetrySameKey
	return f
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
