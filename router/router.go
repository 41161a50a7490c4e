// Package router carries a command to the node that owns its aggregate,
// whichever node that is, and brings the answer back.
package router

import (
	"context"

	"github.com/ganglion-es/ganglion/proto/command"
)

// Executor runs the aggregates of a domain node. package domain/host has one.
type Executor interface {
	// Submit hands in a command. Commands on one stream are executed in the
	// order of the calls. Submit never blocks; reply is called exactly once,
	// on any goroutine, perhaps before Submit returns, and must not block.
	Submit(c command.Command, reply func(command.Outcome))

	// Get answers with the aggregate's public state. The error is a
	// *command.Failure.
	Get(ctx context.Context, g command.Get) (command.State, error)
}
