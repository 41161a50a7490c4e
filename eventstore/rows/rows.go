// Package rows is the contract of row storage: what projections keep, beside the
// log and in its database.
//
// A [Build] is one table of rows, folded from the log by one definition of a
// projection. Its work is divided into segments by the row's key, and each segment
// has a [Checkpoint]: the position up to which its rows show the log.
//
// # Safety without leases
//
// [Table.Write] moves a checkpoint from the position that the writer has seen to
// a later one, and writes the rows of the batch, in one atomic step that fails
// with [ErrFenced] if the checkpoint stands elsewhere. So two writers of one
// segment cost a batch of work and never a wrong row, and no writer ever needs to
// know whether it is the only one.
//
// # Operators
//
// An operator's program resumes a blocked row by a batch that mends: it stays at
// the checkpoint, writes the row as the events up to there have made it, and ends
// the waiting. The segment's writer, which believes the row to wait, must not
// pass over later events of it. So Write also compares the checkpoint's Mends,
// which every mend raises: the writer's next batch fails with ErrFenced, and it
// reads checkpoint and blocked rows again. [Table.Interrupt] raises Mends alone,
// to stop a busy writer for the moment that a mend takes. A paused projection
// moves no checkpoint, but can be mended.
//
// # Process managers
//
// A build of a process manager has an outbox besides: [Batch].Commands are written
// in the same step as rows and checkpoint, and wait until their outcome is final
// ([Outboxes]). A [Term] says for which events a segment may write commands; it is
// part of the fence, so a build that was handed over writes none.
//
// # Relays
//
// A build of a relay has no rows. Its checkpoint says up to where a broker has
// confirmed the log's events, and [Store.Rewind] moves it in either direction.
//
// # Reading
//
// A row carries the position of its last change. A deleted row leaves a tombstone
// with its key, segment and position, which [Table.Purge] removes; the
// checkpoint's Floor says up to which position tombstones may be missing. [Table.Ask]
// and [Table.Changes] return rows and checkpoints of one moment.
//
// # Errors
//
// Every method fails with [eventstore.ErrUnavailable] if the database cannot be
// reached; nothing was done then, except that a Write may have been stored: the
// checkpoint tells. A Write of data that the database refuses fails with a
// *[InvalidError].
//
// The packages postgres and sqlite implement Store; rowstest is the suite that
// both pass.
package rows

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

var (
	// ErrFenced reports that a checkpoint is not what the writer believes it to
	// be: another writer has moved or mended it. Nothing was written.
	ErrFenced = errors.New("rows: another writer has moved the checkpoint")

	// ErrPaused reports that an operator has paused the projection. Nothing was
	// written.
	ErrPaused = errors.New("rows: an operator has paused the projection")

	// ErrDropped reports that a build was dropped.
	ErrDropped = errors.New("rows: the build was dropped")

	// ErrAhead reports a position that the log has not reached. Nothing was
	// written.
	ErrAhead = errors.New("rows: the log has not reached the position")
)

// An InvalidError reports rows that the database refuses. Nothing was written.
type InvalidError struct{ Reason string }

func (e *InvalidError) Error() string { return "rows: the database refuses the rows: " + e.Reason }

// Kind is the type of a column's values.
type Kind uint8

// The kinds of columns, with the Go type of their values.
const (
	Bool  Kind = iota + 1 // bool
	Int                   // int64
	Float                 // float64
	Text                  // string, valid UTF-8 without U+0000, compared by bytes
	Time                  // int64, microseconds since 1970-01-01T00:00:00Z
)

// A Column is a member of the rows that conditions and orders use.
type Column struct {
	Name     string // 1 to 50 letters, digits, - and _; no two differ by case alone
	Kind     Kind
	Nullable bool
}

// A Spec describes the build that a definition of a projection makes.
type Spec struct {
	Projection  string
	Fingerprint string // names everything that the rows depend on
	Segments    int
	Columns     []Column
	Indexes     [][]int // indices into Columns
	// Process marks a process manager: it has the DueColumn alone and no Indexes, its
	// batches may have commands, and only one of its builds sends at a time. The
	// first build sends for the events after the head of its beginning, or with
	// FromTheBeginning for all.
	Process          bool
	FromTheBeginning bool
	// Relay marks a relay, which begins paused on a copy of a log, as a process manager
	// does ([PauseProcesses]).
	Relay bool
}

// State is what a build is for.
type State string

const (
	// Building means that the build has not caught up with the log yet.
	Building State = "building"
	// Active means that the build has caught up once, and answers queries.
	Active State = "active"
	// Retired means that a newer build answers, and that no program writes this
	// one. Expire drops it.
	Retired State = "retired"
)

// A Build is a stored build.
type Build struct {
	ID          int64 // of all builds of a log, in the order in which they began
	Projection  string
	Fingerprint string
	Segments    int
	State       State
	LogID       string    // the log's incarnation that its rows show
	Since       time.Time // when it got its State, by the database's clock
}

// A Checkpoint is how far one segment of a build has come.
type Checkpoint struct {
	Segment  int
	Position eventstore.Position
	// Key is that of the commit at Position, "" at 0. A log whose commit there has
	// another key is not the one that the rows show.
	Key string
	// At is when the checkpoint last moved, by the database's clock.
	At time.Time
	// Floor is the position up to which tombstones may be missing.
	Floor eventstore.Position
	// Mends counts the writes that may have changed rows at positions before the
	// checkpoint. Positions that a reader knows from before say nothing about
	// those rows.
	Mends int64
	// Paused reports that an operator has paused the projection. A Write that
	// moves the checkpoint then fails with ErrPaused.
	Paused bool
	// Term is for which events the segment of a process manager sends.
	Term Term
}

// A Row is one row of a build.
type Row struct {
	Key      string
	Segment  int
	Position eventstore.Position // of the last event that changed it
	// Gone marks a tombstone, which has neither Values nor Data.
	Gone bool
	// Values has one value for each column, nil for an absent one. They are
	// written with the row; reads leave them nil, since Data has them too.
	Values []any
	Data   json.RawMessage
}

// A Block says that the later events of one row wait for an operator, because
// one could not be folded.
type Block struct {
	Key      string
	Segment  int
	Position eventstore.Position // of the event
	Attempts int
	Error    string
	At       time.Time // by the database's clock
	// HandedOver marks a row that another build of the process manager has handed
	// over: the row may show later events, so it must be folded from the beginning,
	// and sends for the events after the position After.
	HandedOver bool
	After      eventstore.Position
}

// A Waiting is a Block of one of several builds.
type Waiting struct {
	Build int64
	Block
}

// A Skip is an event that an operator has excluded from one row, or from all rows
// of a stream.
type Skip struct {
	Key      string // as in the Block
	Segment  int
	Position eventstore.Position // of the event
	At       time.Time           // by the database's clock
}

// A Batch is what Write stores.
type Batch struct {
	Segment int
	// From is where the writer has seen the checkpoint, To where it moves to. They
	// may be equal: then the batch mends rows that stand at earlier positions, and
	// raises Mends.
	From, To eventstore.Position
	// Mends is what the writer has seen in the checkpoint.
	Mends int64
	// Key is that of the commit at To.
	Key string
	// Rows replace those with their keys. A row that is Gone leaves a tombstone.
	Rows []Row
	// Block and Unblock begin and end the waiting of rows. No key is in both, and
	// none is in Block twice.
	Block   []Block
	Unblock []string
	// Skip records events that the rows do not show.
	Skip []Skip
	// Commands are added to the outbox of a process manager; their Build, Segment and
	// At are set by Write. Term is what the writer has seen in the checkpoint: another
	// one is fenced.
	Commands []Command
	Term     Term
}

// An Overview is the state of one build.
type Overview struct {
	Build
	Checkpoints []Checkpoint // of all segments, in their order
	Blocked     []int        // how many rows wait, by segment
}

// Store keeps builds. It is safe for concurrent use.
type Store interface {
	Reader
	Outboxes
	// Open returns the table of a build, and makes the table if it is missing. Many
	// nodes may open the same build at the same time. The error is ErrDropped if
	// there is no such build of the spec's projection and fingerprint.
	Open(ctx context.Context, s Spec, id int64) (Table, error)
	// Ensure returns the newest build of a spec, and begins one if there is none. A
	// retired one becomes Building again.
	Ensure(ctx context.Context, s Spec) (Build, error)
	// Rebuild begins another build of a spec, besides the existing ones.
	Rebuild(ctx context.Context, s Spec) (Build, error)
	// Builds returns all builds, sorted by projection and ID.
	Builds(ctx context.Context) ([]Build, error)
	// Overviews returns all builds, sorted by projection and ID, as they are at one
	// moment.
	Overviews(ctx context.Context) ([]Overview, error)
	// Blocked returns what waits for an operator in builds, sorted by build, position and
	// key, at most limit. Unknown builds are ignored.
	Blocked(ctx context.Context, builds []int64, limit int) ([]Waiting, error)
	// SetState changes what a build is for.
	SetState(ctx context.Context, id int64, s State) error
	// Use records that a program writes these builds. Unknown IDs are
	// ignored.
	Use(ctx context.Context, ids []int64) error
	// Expire drops the builds of a projection that no program has used for a time,
	// by the database's clock, if another, active build was used since. It returns
	// their IDs. A build of a process manager that sends is kept.
	Expire(ctx context.Context, projection string, unused time.Duration) ([]int64, error)
	// Pause stops or resumes the moving of a projection's checkpoints, in all its
	// builds.
	Pause(ctx context.Context, projection string, paused bool) error
	// Rewind moves the checkpoints of a build without rows to the end of the last commit
	// at or before a position of the log's present incarnation, adopts that, raises
	// Mends, and ends the waiting of what was blocked. It returns where they are. Skipped
	// events remain skipped. The error is ErrAhead or ErrDropped.
	Rewind(ctx context.Context, id int64, to eventstore.Position) (eventstore.Position, error)
	// Drop removes a build and its rows, and is not an error if there is none.
	Drop(ctx context.Context, id int64) error
}

// Table is the rows of one build. It is safe for concurrent use. Its methods fail
// with ErrDropped once the build was dropped.
type Table interface {
	// Build returns the build, as it was when it was opened.
	Build() Build
	// Checkpoints returns the checkpoints of all segments, in their order.
	Checkpoints(ctx context.Context) ([]Checkpoint, error)
	// Blocks returns what waits for an operator, by position.
	Blocks(ctx context.Context) ([]Block, error)
	// Skips returns what operators have skipped, by position.
	Skips(ctx context.Context) ([]Skip, error)
	// Load returns the rows with these keys that are not gone, in no order.
	Load(ctx context.Context, keys []string) ([]Row, error)
	// Write stores a batch: all of it, or nothing. A crash of the database server
	// may lose the newest batches that only move the checkpoint; the log has their
	// events. A batch with commands is not lost.
	Write(ctx context.Context, b Batch) error
	// Try fails as Write would, and stores nothing.
	Try(ctx context.Context, b Batch) error
	// Interrupt raises a segment's Mends, so that its writer must read checkpoint
	// and blocked rows again.
	Interrupt(ctx context.Context, segment int) error
	// Ask returns the first rows that answer a question, and the checkpoints, of
	// one moment.
	Ask(ctx context.Context, q Question) (Answer, error)
	// Changes returns rows, tombstones included, that changed after the position
	// that after has for their segment, in the order of position and key, and the
	// checkpoints of the same moment. Next continues where a page ended.
	Changes(ctx context.Context, after []eventstore.Position, next Edge, limit int) (Changed, error)
	// Due returns the rows of a segment of a process manager that are due by the
	// database's clock, at most limit, in the order of time and key. After continues
	// behind a row; its zero value is the beginning.
	Due(ctx context.Context, segment int, after Wake, limit int) (Due, error)
	// Purge removes tombstones whose row was deleted at or before a position, and
	// raises the Floor of every segment to it. It deletes in steps: an error may
	// leave some for the next call.
	Purge(ctx context.Context, upTo eventstore.Position) error
}

// An Edge is where a page of changes ended. Its zero value is the beginning.
type Edge struct {
	Position eventstore.Position
	Key      string
}

// Changed is a page of changes.
type Changed struct {
	Rows        []Row
	Checkpoints []Checkpoint
	More        bool // there may be changes after the last row
}

// A Question asks for rows. Filters and orders use columns by their index.
type Question struct {
	Filter Filter
	Order  []Order
	// After is the last row of the page before: its values and its key. Nil for
	// the first page.
	After *Row
	Limit int
}

// An Answer has the rows that a question asks for, in its order.
type Answer struct {
	Rows        []Row
	Checkpoints []Checkpoint
	Blocked     int // how many rows wait for an operator
}

// An Order sorts by one column. Absent values come first, in a descending order
// last. Rows that are equal in all columns are sorted by their key's bytes.
type Order struct {
	Column     int
	Descending bool
}

// A Filter is a condition on rows: a Test; or else Filters, of which every one
// must hold, or with Or at least one. A filter without either holds for every row,
// or with Or for none.
type Filter struct {
	Test    *Test
	Or      bool
	Filters []Filter
}

// A Test compares a column with values of its kind. It is false for an absent
// value, unless it asks for that.
type Test struct {
	Op     Op
	Column int // -1 for the row's key
	Values []any
}

// Op is how a Test compares.
type Op uint8

// The comparisons.
const (
	OneOf      Op = iota + 1 // equals one of Values
	IsAbsent                 // has no value
	GreaterEq                // >= Values[0]
	LessEq                   // <= Values[0]
	BeginsWith               // is text that begins with Values[0]
)
