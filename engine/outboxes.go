package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/engine/internal/processor"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// MostHeld bounds the held commands that operations read together.
const MostHeld = 1000

// An OutboxState is the outbox of a process manager of this program.
type OutboxState struct {
	Process  string        `json:"process"`
	Commands int           `json:"commands"` // whose outcome is not final
	Oldest   time.Duration `json:"oldest_ns"`
	Held     []HeldCommand `json:"held"` // the first ones
	// Rejected counts the commands that aggregates have finally refused, on all nodes,
	// since the process manager first ran on this log. LastRejected is when the last of
	// them was, by the database's clock.
	Rejected     uint64    `json:"rejected"`
	LastRejected time.Time `json:"last_rejected,omitzero"`
}

// A HeldCommand is a command that has failed, and holds its target until an operator
// decides.
type HeldCommand struct {
	Target   string              `json:"target"`
	Command  string              `json:"command"`
	Position eventstore.Position `json:"position"` // of its cause
	Attempts int                 `json:"attempts"`
	Error    string              `json:"error"`
}

// Outboxes returns the outboxes of this program's process managers, sorted by name, each
// with at most limit held commands.
func (o *Operations) Outboxes(ctx context.Context, limit int) ([]OutboxState, error) {
	states := []OutboxState{}
	for _, d := range process.All(o.cfg.Catalog) {
		senders, err := o.cfg.Rows.Senders(ctx, d.Name())
		if err != nil {
			return nil, err
		}
		s := OutboxState{Process: d.Name(), Held: []HeldCommand{}}
		if s.Rejected, s.LastRejected, err = o.cfg.Rows.Rejected(ctx, d.Name()); err != nil {
			return nil, err
		}
		for _, of := range senders {
			s.Commands += of.Commands
			s.Oldest = max(s.Oldest, of.Age)
		}
		held, err := o.cfg.Rows.Held(ctx, d.Name(), limit)
		if err != nil {
			return nil, err
		}
		for _, c := range held {
			s.Held = append(s.Held, HeldCommand{c.Target, c.Name, c.Position, c.Attempts, c.Error})
		}
		states = append(states, s)
	}
	return states, nil
}

// release makes held commands of a process manager ones that are sent again, all or
// those to one target, and reports whether there was one.
func (o *Operations) release(ctx context.Context, name, target string, report func(Resumed)) (found bool, err error) {
	return o.eachHeld(ctx, name, target, func(c rows.Command) (bool, error) {
		return o.cfg.Rows.Release(ctx, name, c.CommandID)
	}, report)
}

// discard removes a held command of a process manager.
func (o *Operations) discard(ctx context.Context, name, target string, position eventstore.Position, report func(Resumed)) error {
	removed := false
	_, err := o.eachHeld(ctx, name, target, func(c rows.Command) (bool, error) {
		if removed || c.Position != position {
			return false, nil
		}
		removed = true
		return o.cfg.Rows.Discard(ctx, name, c.CommandID)
	}, report)
	if err == nil && !removed {
		err = fmt.Errorf("target %q of %q is not held by a command that an event at position %d has caused", target, name, position)
	}
	return err
}

func (o *Operations) eachHeld(ctx context.Context, name, target string, do func(rows.Command) (bool, error), report func(Resumed)) (found bool, err error) {
	d, err := o.definition(name)
	if err != nil || d.process == nil {
		return false, err
	}
	list, err := o.cfg.Rows.Held(ctx, name, MostHeld)
	if err != nil {
		return false, err
	}
	for _, c := range list {
		if target != "" && c.Target != target {
			continue
		}
		done, err := do(c)
		if err != nil {
			return found, err
		}
		if done {
			found = true
			report(Resumed{processor.Mended{Build: c.Build, Key: c.Target, Segment: c.Segment}, fmt.Sprintf("%s of position %d", c.Name, c.Position)})
		}
	}
	return found, nil
}
