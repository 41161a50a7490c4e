package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ganglion-es/ganglion/proto/command"
	"github.com/ganglion-es/ganglion/router/cluster"
	"github.com/ganglion-es/ganglion/router/link"
	"github.com/ganglion-es/ganglion/router/ring"
	"github.com/ganglion-es/ganglion/router/transport"
)

// Executor runs the aggregates of a domain node. Package engine has one.
//
// Right before an executor begins a command, it calls Refusal on
// Command.Ticket. If that returns a failure, the failure is the answer. If the
// executor's queue is full, it answers busy. If the executor leaves the
// cluster, cannot read the aggregate's events or has lost its database, it
// answers with a failure that has Elsewhere set, and also After if it knows how
// long the condition will last.
type Executor interface {
	// Submit queues a command. Commands on one stream are executed in the order
	// of the calls. Submit does not block. It calls reply exactly once, on any
	// goroutine, perhaps before Submit returns; reply does not block.
	Submit(c command.Command, reply func(command.Outcome))

	// Get returns the aggregate's public state. The error is a
	// *command.Failure.
	Get(ctx context.Context, g command.Get) (command.State, error)
}

// Config configures a Router.
type Config struct {
	// Self is this node's id. Required.
	Self string

	// Executor executes commands for the aggregates that this node owns. A node
	// without one is a gateway and executes nothing.
	Executor Executor

	// Watch returns a channel that has the newest view immediately and after
	// each change, and that is closed when ctx ends. Required.
	Watch func(ctx context.Context) <-chan *cluster.View

	// View returns the newest view. If it is set, the router knows the ring
	// before Run.
	View func() *cluster.View

	// Pool holds the connections to peers. Required.
	Pool *transport.Pool

	// OnRing, if not nil, is called with the first ring and with each ring that
	// differs from the one before. Run's goroutine calls it, after the router has
	// begun to use the ring.
	OnRing func(*ring.Ring)

	// Suspect is how long a link may be silent before its node counts as
	// unreachable.
	//
	// Defaults to 500 ms.
	Suspect time.Duration

	// Search is how long a command or a get may wait for a candidate.
	//
	// Defaults to 2 seconds.
	Search time.Duration

	// Timeout is the deadline of commands and gets that have none.
	//
	// Defaults to 5 seconds.
	Timeout time.Duration

	// BusyPause is how long a lane stays paused after one of its commands was
	// answered with retry "later" or "same_key", if the answer does not say how
	// long.
	//
	// Defaults to 250 ms.
	BusyPause time.Duration

	// MaxLane bounds the unanswered commands of a lane, and MaxUnanswered those
	// of the router.
	//
	// Default to 1,024 and 65,536.
	MaxLane, MaxUnanswered int

	// MaxGets bounds the concurrent gets of peers.
	//
	// Defaults to 1,024.
	MaxGets int

	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	if c.Self == "" {
		errs = append(errs, errors.New("router: Self, the node's id, is required"))
	}
	if c.Watch == nil {
		errs = append(errs, errors.New("router: Watch is required"))
	}
	if c.Pool == nil {
		errs = append(errs, errors.New("router: Pool is required"))
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		standard time.Duration
	}{
		{"Suspect", &c.Suspect, link.DefaultSilence},
		{"Search", &c.Search, 2 * time.Second},
		{"Timeout", &c.Timeout, 5 * time.Second},
		{"BusyPause", &c.BusyPause, 250 * time.Millisecond},
	} {
		if *d.value < 0 {
			errs = append(errs, fmt.Errorf("router: %s is %v: it must not be negative", d.name, *d.value))
		}
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	if c.Suspect > 0 && c.Suspect < 2*link.Heartbeat {
		errs = append(errs, fmt.Errorf("router: Suspect is %v, less than two heartbeats of %v: it must be longer, or every peer is suspected all the time", c.Suspect, link.Heartbeat))
	}
	for _, n := range []struct {
		name     string
		value    *int
		standard int
	}{
		{"MaxLane", &c.MaxLane, 1024},
		{"MaxUnanswered", &c.MaxUnanswered, 65536},
		{"MaxGets", &c.MaxGets, 1024},
	} {
		if *n.value < 0 {
			errs = append(errs, fmt.Errorf("router: %s is %d: it must not be negative", n.name, *n.value))
		}
		if *n.value == 0 {
			*n.value = n.standard
		}
	}
	if c.OnRing == nil {
		c.OnRing = func(*ring.Ring) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}
