package core

import (
	"context"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
)

// Log implements the methods of eventstore.Store that need no statement of
// their own. A store embeds it.
type Log struct{ core *Core }

// Log returns the Log of a Core.
func (c *Core) Log() Log { return Log{c} }

// Append implements eventstore.Store.
func (l Log) Append(ctx context.Context, u eventstore.Unit) (eventstore.Appended, error) {
	if err := l.core.Guard.Err(); err != nil {
		return eventstore.Appended{}, err
	}
	return l.core.Committer.Append(ctx, u)
}

// Waiting returns the number of units that wait for the next batch.
func (l Log) Waiting() int { return l.core.Committer.Waiting() }

// Appending implements eventstore.Busy.
func (l Log) Appending() int { return l.core.Committer.Appending() }

// LogID implements eventstore.Store.
func (l Log) LogID() string { return l.core.Guard.Mark().LogID }

// Witness implements eventstore.Store.
func (l Log) Witness(log string, c *eventstore.Commit) {
	if !l.core.Guard.Witness(log, guard.Of(c)) {
		l.core.logger.Debug("the log went back: another node has seen a commit that it lacks", "position", c.Position)
	}
}

// Check implements eventstore.Store.
func (l Log) Check(ctx context.Context) error {
	mark, log, err := l.core.look(ctx, "check the log")
	if err != nil {
		return err
	}
	return l.core.Guard.Check(mark, log)
}

// Resume implements eventstore.Store.
func (l Log) Resume(ctx context.Context) (eventstore.Position, error) {
	mark, log, err := l.core.look(ctx, "look at the log that went back")
	if err != nil {
		return 0, err
	}
	return log.Head.Position, l.core.Guard.Resume(mark, log)
}
