package gateway

import (
	"context"
	"time"

	"github.com/ganglion-es/ganglion/gateway/internal/access"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// Execute executes a command of a client for which the caller vouches, and returns its
// answer: a [frame.Result], or a [frame.Fault] if the command was refused or failed. The
// access rules apply, the limits of sessions and of HTTP requests do not. Concurrent
// calls have no order.
//
// It blocks until the command has its answer, at most the command's timeout, or until
// ctx ends. The answer is then a Fault whose Retry is same_key, and the command may be
// executed all the same.
func (g *Gateway) Execute(ctx context.Context, f frame.Command, id Identity) frame.Frame {
	return g.execute(ctx, f, id, 0)
}

// execute is Execute for a client whose bucket has room after a time, 0 if it has room.
func (g *Gateway) execute(ctx context.Context, f frame.Command, id Identity, after time.Duration) frame.Frame {
	c, log, failure := g.gate.Admit(f, id, access.NewID(), after)
	if failure != nil {
		return wire.Fault(f.ID, f.Key, failure)
	}
	outcome := make(chan command.Outcome, 1)
	g.cfg.Router.Send(c, func(o command.Outcome) {
		log.End(c.Key, o)
		outcome <- o
	})
	select { // the router replies by the command's deadline
	case o := <-outcome:
		return wire.Outcome(f.ID, c.Key, o)
	case <-ctx.Done():
		return wire.Fault(f.ID, c.Key, command.Timeout(command.RetrySameKey, "the sender stopped waiting for the answer"))
	}
}
