package eventstore

import (
	"context"
	"fmt"
)

// Record is a commit with all that a log keeps of it.
type Record struct {
	Commit
	// Hash is what the commit's key was first used for.
	Hash Hash
}

// Mover is a Store whose log can be moved: read out whole, and written into
// another one as it was. Package transfer moves logs by way of a file. The
// stores of the packages postgres and sqlite are Movers.
type Mover interface {
	Store

	// Records is Read with all that the log keeps of each commit.
	Records(ctx context.Context, after Position, limit int) ([]Record, error)

	// Restore appends commits of another log at their own positions. It holds
	// the same lock and passes the same checks as Append: the first position
	// is the one behind the log's last, there is no hole, every commit
	// continues its stream, and no key is there twice. All of them are stored,
	// or none: *RestoreError says which one can't be and why, and any other
	// error leaves it open, so ask for the Head. A kept outcome whose key
	// comes in with a commit gives way to it.
	//
	// Committed is not told; whoever follows the log finds the commits there.
	Restore(ctx context.Context, records []Record) error

	// Adopt gives an empty log the incarnation of the log that is about to be
	// restored into it, so that cursors of that log are good for this one. A
	// log that has events and another incarnation keeps it: *RestoreError.
	Adopt(ctx context.Context, id string) error
}

// RestoreError says why a log does not take the commits of another.
type RestoreError struct {
	Position Position // of the commit at fault; 0 for the log as a whole
	Reason   string
}

func (e *RestoreError) Error() string {
	if e.Position == 0 {
		return "eventstore: restore: " + e.Reason
	}
	return fmt.Sprintf("eventstore: restore position %d: %s", e.Position, e.Reason)
}
