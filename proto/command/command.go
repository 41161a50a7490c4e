// Package command has the types of a command inside a node: what a gateway passes
// to the router, what the router passes to the owner's engine, and the answer.
// Package frame has their form towards clients, package peer their form between
// nodes.
package command

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Command asks an aggregate to do something.
type Command struct {
	Stream eventstore.StreamID
	Name   string // stored name, such as "bid"
	Data   json.RawMessage

	// Checked reports whether this program has checked Data against the command's
	// type. It is not sent to other nodes, which may run another version.
	Checked bool

	// Key makes the command's effect happen once, however often it is sent. Every
	// dispatched command has one. ClientKey reports whether the client chose it.
	// If so, an outcome without events is kept too.
	Key       string
	ClientKey bool

	// Client is the id of the sender, or "" for an anonymous client. Claims are
	// the claims of its token.
	Client string
	Claims map[string]any

	// Session identifies the sender's session. Commands with the same Session and
	// Stream are a lane, which keeps their order.
	Session string

	// Ticket is the command's place among the commands of its lane that the
	// executor has. The router sets it. If Ticket.Refusal returns a failure, the
	// executor answers with it and does not begin the command.
	Ticket *Ticket

	// Expect, if not nil, is the version that the stream must have.
	Expect *eventstore.Version

	// Deadline is when the sender stops waiting. Past it, a command is not begun.
	Deadline time.Time

	// Attempt is the number of candidates that the command was sent to, from 1.
	Attempt int

	// Trace is the W3C traceparent that came with the command.
	Trace string

	// System marks a command that the program itself sends: a wake-up, or a command
	// of a process manager. No access rule was asked about it. Its key and its client
	// begin with [eventstore.Reserved]; those of other commands must not.
	System bool

	// Depth is the number of commands of process managers that led to this one,
	// itself included; 0 for commands of clients. It is stored with the events.
	Depth int

	// Log, if not empty, is the id of the log that the command's cause is in. An
	// owner with another log refuses it, since the cause may be lost.
	Log string
}

// A SystemSender carries a command of the program itself to its owner, and blocks
// until it has its outcome or ctx ends. Parts of a node that send such commands get
// one in their configuration; the SendSystem of package router is one.
type SystemSender func(ctx context.Context, c Command) Outcome

// MaxDepth bounds Command.Depth.
const MaxDepth = 1 << 20

// CheckReserved refuses a command whose key or client is not one that its sender may
// use, and a depth out of range.
func (c *Command) CheckReserved() *Failure {
	key, client := strings.HasPrefix(c.Key, eventstore.Reserved), strings.HasPrefix(c.Client, eventstore.Reserved)
	switch {
	case c.System && (!key || !client):
		return BadRequest("key", "the command is marked as the program's own, but its key %s and its client %s do not both begin with %s", Quote(c.Key), Quote(c.Client), eventstore.Reserved)
	case !c.System && key:
		return BadRequest("key", "the key %s begins with %s, which is reserved for the program's own commands: use another key, such as a UUID", Quote(c.Key), eventstore.Reserved)
	case !c.System && client:
		return BadRequest("client", "the client id %s begins with %s, which is reserved for the program's own commands: use another id", Quote(c.Client), eventstore.Reserved)
	case c.Depth < 0 || c.Depth > MaxDepth:
		return BadRequest("", "the command's depth is %d: 0 to %d are allowed", c.Depth, MaxDepth)
	}
	return nil
}

// Get asks for an aggregate's public state.
type Get struct {
	Stream eventstore.StreamID
	// AtLeast is a position that the answer must include, or 0 for any.
	AtLeast eventstore.Position
	// Strong makes the owner compare its state with the log first.
	Strong bool
	// Deadline is when the client stops waiting.
	Deadline time.Time
}

// State is an aggregate's public state.
type State struct {
	Version  eventstore.Version
	Position eventstore.Position // of the last event in it
	Data     json.RawMessage
}

// Result is the result of an executed command.
type Result struct {
	Key      string
	Version  eventstore.Version
	Position eventstore.Position
	// Replayed reports whether the key was executed before, so that this is the
	// first result again.
	Replayed bool
	Data     json.RawMessage
}

// Outcome is the outcome of a command: Failure if it is not nil, else Result.
type Outcome struct {
	Result  Result
	Failure *Failure
}

// Failed returns the Outcome with a failure.
func Failed(f *Failure) Outcome { return Outcome{Failure: f} }
