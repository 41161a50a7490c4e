package eventstore

import (
	"context"
	"fmt"
)

// Record is a commit with everything that a log stores about it.
type Record struct {
	Commit
	// Hash identifies the first use of the commit's key.
	Hash Hash
}

// Mover is a Store whose log can be copied into another log unchanged. Package
// transfer moves logs through a file. The stores of the packages postgres and
// sqlite are Movers.
type Mover interface {
	Store

	// Records is Read for records.
	Records(ctx context.Context, after Position, limit int) ([]Record, error)

	// Restore appends commits of another log at their own positions. It has the
	// lock and the checks of Append: the first position follows the head, there
	// is no hole, every commit continues its stream, and no key exists twice.
	// Restore stores all commits or none. A *RestoreError names the commit that
	// was refused. After any other error the outcome is unknown; Head shows it. A
	// kept outcome with the key of a commit is deleted.
	//
	// Restore does not call Committed. Readers of the log find the commits.
	Restore(ctx context.Context, records []Record) error

	// Adopt gives an empty log the incarnation of the log that is about to be
	// restored into it, so that cursors of that log are valid for this one. The
	// error is a *RestoreError if the log has events and another incarnation.
	Adopt(ctx context.Context, id string) error
}

// RestoreError is the reason why a log refuses the commits of another log.
type RestoreError struct {
	Position Position // of the refused commit; 0 for the whole log
	Reason   string
}

func (e *RestoreError) Error() string {
	if e.Position == 0 {
		return "eventstore: restore: " + e.Reason
	}
	return fmt.Sprintf("eventstore: restore position %d: %s", e.Position, e.Reason)
}

// Size is the space that a log takes, in bytes.
type Size struct {
	// Database is the whole database, or all files of an embedded log.
	Database int64
	// Log is the part of the commits and their indexes, 0 if it is not known.
	Log int64
	// Free is what is left on the disk of an embedded log, -1 if it is not known.
	Free int64
	// TransactionAge is the number of transactions since the oldest transaction id that the
	// database server must still know. At 2^31 the server would store nothing. It is 0 for
	// an embedded log.
	TransactionAge int64
}
