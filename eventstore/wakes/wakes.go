// Package wakes is the contract of the table that says when aggregates are to be
// asked whether they must be woken. It lies beside the log, in its database.
//
// The table is a fold of the log: each commit of a type with wake-ups has the time for
// which its state asks. The work is divided into segments by the stream, and each
// segment has a [Checkpoint] for each fingerprint, which names the types with wake-ups
// and their revisions.
//
// # Safety
//
// A row only says when to ask: the state of the aggregate decides. So a late, repeated
// or wrong row costs a question, and a missing one would cost a wake-up. No row is
// lost: [Store.Write] moves a checkpoint from the position that the writer has seen
// and writes the rows in one atomic step, which fails with [ErrFenced] if the
// checkpoint stands elsewhere. Rows of several writers do not disturb each other, since
// the higher version of a stream wins, in any order.
//
// After a log that went back was resumed, its streams may have lower versions than the
// rows. [Store.Reset] then empties a segment for all fingerprints, which fold it from
// the beginning.
//
// # Clock
//
// What is due, the database's clock decides alone ([Store.Due]).
//
// # Errors
//
// Every method fails with [eventstore.ErrUnavailable] if the database cannot be
// reached; nothing was done then, except that a Write may have been stored: the
// checkpoint tells.
//
// The packages postgres and sqlite implement Store; wakestest is the suite that both
// pass.
package wakes

import (
	"context"
	"errors"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// ErrFenced reports that a checkpoint is not where the writer believes it to be.
// Nothing was written.
var ErrFenced = errors.New("wakes: another writer has moved the checkpoint")

// A Checkpoint is how far one segment has come.
type Checkpoint struct {
	Position eventstore.Position
	// Key is that of the commit at Position, "" at 0.
	Key string
	// LogID is the log's incarnation that the rows show.
	LogID string
}

// An Ask is when one stream asks to be woken, at one of its versions.
type Ask struct {
	Stream  eventstore.StreamID
	Version eventstore.Version
	// At is the time, zero for never. Now means immediately: the commit does not say,
	// or another revision of the type has said it. It replaces a row of the same
	// version.
	At  time.Time
	Now bool
}

// A Batch is what Write stores.
type Batch struct {
	Fingerprint string
	Segment     int
	// From is where the writer has seen the checkpoint, To where it moves to.
	From, To eventstore.Position
	Key      string // of the commit at To
	// Asks has each stream at most once.
	Asks []Ask
}

// A Row is when one stream is to be asked.
type Row struct {
	Stream  eventstore.StreamID
	Version eventstore.Version
	Due     time.Time // by the database's clock; zero if it was refused
	// Refused is why the stream's command had no events at Version, "" if it was not
	// asked, or had some.
	Refused string
}

// Due is what is due in a segment.
type Due struct {
	// Rows are the next rows that were not refused, by their time. The first N are due
	// at Now, the database's clock.
	Rows []Row
	N    int
	Now  time.Time
	// Paused reports that an operator has paused wake-ups, or that the log was
	// imported. Rows is then empty.
	Paused bool
}

// A Change replaces a row after its stream was asked, unless the row has a higher
// version. It makes no row.
type Change struct {
	Stream  eventstore.StreamID
	Version eventstore.Version
	// At is when the stream asks to be woken next, but not before Pause from now, by
	// the database's clock. Zero: never, and the row goes, unless Refused says why it
	// stays.
	At      time.Time
	Pause   time.Duration
	Refused string
}

// Counts are the numbers of a segment's rows, by the database's clock.
type Counts struct {
	Due     int           // that are due, at most MaxCounted
	Late    time.Duration // how long the first of them has been due
	Refused int           // at most MaxCounted
	Paused  bool
}

// A Standing is how far a segment has come, as programs see it that do not work on it.
type Standing struct {
	Segment  int
	Position eventstore.Position
	// First is a row that has been due the longest, by the database's clock, and Late
	// for how long; both are zero if none is due, or if wake-ups are paused.
	First Row
	Late  time.Duration
}

// MaxCounted bounds the numbers of Counts.
const MaxCounted = 1_000_000

// PauseName is under which name rows.Store.Pause stops all wake-ups of a log. The
// import of a log under a new id pauses them.
const PauseName = "~wake"

// Store keeps the rows of a log. It is safe for concurrent use.
type Store interface {
	// Begin returns the checkpoint of a segment, and makes it at position 0 if there is
	// none. It also forgets the segments of fingerprints that no program has begun or
	// written for a day, by the database's clock.
	Begin(ctx context.Context, fingerprint string, segment int) (Checkpoint, error)
	// Write stores a batch: all of it, or nothing.
	Write(ctx context.Context, b Batch) error
	// Reset removes the rows of a segment, and moves the checkpoints of all
	// fingerprints to position 0 of the log's present incarnation, unless the
	// checkpoint has changed since from was read; then it does nothing.
	Reset(ctx context.Context, fingerprint string, segment int, from Checkpoint) error
	// Due returns the next rows of a segment whose type is one of types, at most limit.
	Due(ctx context.Context, segment int, types []string, limit int) (Due, error)
	// Change changes rows after their streams were asked.
	Change(ctx context.Context, list []Change) error
	// Count counts the rows of a segment.
	Count(ctx context.Context, segment int, types []string) (Counts, error)
	// Standings returns how the segments of a fingerprint stand, sorted by their
	// number, as far as a program has begun them. Only rows count whose type is one of
	// types.
	Standings(ctx context.Context, fingerprint string, types []string) ([]Standing, error)
	// List returns rows of all segments, refused ones first, and then by
	// their time; at most limit, and only those of a stream if it is not nil. paused
	// reports whether wake-ups are paused.
	List(ctx context.Context, stream *eventstore.StreamID, limit int) (list []Row, paused bool, err error)
	// Retry makes refused rows due immediately, all or those of a stream, and returns
	// how many.
	Retry(ctx context.Context, stream *eventstore.StreamID) (int, error)
}
