package history

import (
	"context"
	"errors"
	"time"

	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// Caller is the client that causes a read, and its session, if it has one.
type Caller struct{ Client, Session string }

// States reads the states of aggregates. It bounds the concurrent reads of one
// client. It is safe for concurrent use.
type States struct {
	// Read asks the aggregate's owner. Its error is a *command.Failure.
	Read     func(context.Context, command.Get) (command.State, error)
	Places   *limits.ClientPlaces
	Counters *limits.Counters
}

// turnTimeout bounds how long a read waits for its client's turn.
const turnTimeout = 15 * time.Second

// Get waits for the client's turn and reads a state.
func (s *States) Get(ctx context.Context, caller Caller, get command.Get) (command.State, *command.Failure) {
	waiting, cancel := context.WithTimeout(ctx, turnTimeout)
	release, err := s.Places.Acquire(waiting, caller.Client, caller.Session)
	cancel()
	if err != nil {
		if ctx.Err() == nil {
			return command.State{}, noTurn(s.Counters)
		}
		return command.State{}, stateFailure(err)
	}
	defer release()
	ctx, cancel = context.WithTimeout(ctx, frame.DefaultTimeout)
	defer cancel()
	get.Deadline, _ = ctx.Deadline()
	state, err := s.Read(ctx, get)
	if err != nil {
		return state, stateFailure(err)
	}
	return state, nil
}

// noTurn refuses a read that waited too long for its client's turn.
func noTurn(counters *limits.Counters) *command.Failure {
	counters.Reached(limits.Reads)
	return &command.Failure{
		Code: command.CodeBusy, Retry: command.RetryLater, After: 500 * time.Millisecond,
		Message: "too many reads of this client are in progress: send fewer at a time",
	}
}

// stateFailure turns the error of a read into a failure for the client, which
// does not see the text of unknown errors.
func stateFailure(err error) *command.Failure {
	var f *command.Failure
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, context.DeadlineExceeded):
		return command.Timeout(command.RetryLater, "no answer in time: try again")
	case errors.Is(err, context.Canceled):
		return command.Unavailable("the gateway is stopping: try again")
	}
	return command.Internal(command.RetryLater)
}
