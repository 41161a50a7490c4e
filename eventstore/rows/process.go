package rows

import (
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"math"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// ErrNoHandover reports that a build cannot take over from another one: that one
// does not send, or has not folded as far as the first. Nothing was changed.
var ErrNoHandover = errors.New("rows: the build cannot take over from the other one yet")

// PauseProcesses is a name that Store.Pause takes besides those of projections and
// process managers: while it is paused, a process manager or a relay begins its first
// build paused. A copy of a log is marked so, because its process managers would repeat
// outside what those of the log do. An operator resumes each by its name.
const PauseProcesses = "~processes"

// Endless is the Until of a build that no other build has taken over from.
const Endless eventstore.Position = math.MaxInt64

// DueColumn is the only column of the rows of a process manager: when the row's
// process is to be woken, or absent.
var DueColumn = Column{Name: "due", Kind: Time, Nullable: true}

// SegmentOf returns the segment of a row: 32-bit FNV-1a of its key, modulo the
// number of segments. It is stored with the rows and must never change.
func SegmentOf(key string, segments int) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return int(h.Sum32() % uint32(segments))
}

// An Origin is where a build of a process manager begins to send: each element has
// one position for each segment of a build from which it took over, and the element
// with the latest position for a row counts. A build without an element sends
// nothing.
type Origin [][]eventstore.Position

// After returns the position after whose events a build sends for a row, [Endless] if
// it sends nothing.
func (o Origin) After(key string) eventstore.Position {
	if len(o) == 0 {
		return Endless
	}
	after := eventstore.Position(0)
	for _, of := range o {
		after = max(after, of[SegmentOf(key, len(of))])
	}
	return after
}

// A Term is for which events a segment of a build of a process manager sends
// commands: those after From, up to Until. It folds all other events in silence.
type Term struct {
	From  Origin
	Until eventstore.Position
}

// Sends reports whether an event at a position makes commands for a row.
func (t Term) Sends(key string, p eventstore.Position) bool {
	return p > t.From.After(key) && p <= t.Until
}

// Current reports whether the build sends, and no other build has taken over from
// it.
func (t Term) Current() bool { return len(t.From) > 0 && t.Until == Endless }

// A CommandID names a command of a process manager: its cause's position, the index
// of its sequence among the sequences of the event, and its index among the
// commands that the sequence has returned.
type CommandID struct {
	Position eventstore.Position
	K, N     int
}

// Before reports whether a command precedes another one.
func (c CommandID) Before(d CommandID) bool {
	switch {
	case c.Position != d.Position:
		return c.Position < d.Position
	case c.K != d.K:
		return c.K < d.K
	}
	return c.N < d.N
}

// A Command waits in the outbox of a process manager until its outcome is final.
type Command struct {
	CommandID
	Build    int64 // that has written it; with Segment it names the sender
	Segment  int
	Sequence string // the key of the row whose event has caused it
	Target   string // the stream that it is sent to
	Name     string
	Data     json.RawMessage
	Depth    int
	// Attempts and Error are those of a command that failed for a reason of its
	// target. Held: it and later commands of its segment to this target wait for an
	// operator.
	Attempts int
	Error    string
	Held     bool
	At       time.Time // when it was written, by the database's clock
}

// A Sent is a command whose outcome is final.
type Sent struct {
	CommandID
	Rejected bool // its target has refused it
}

// A Sender is what a part of an outbox waits for: one segment of one build.
type Sender struct {
	Build    int64
	Segment  int
	Commands int
	Held     int           // commands that hold their target
	Age      time.Duration // of the oldest command
}

// Outboxes keeps the commands that process managers have decided to send. A batch
// adds them, with its rows and its checkpoint. An outbox belongs to a process
// manager, not to a build: dropping a build leaves its commands.
type Outboxes interface {
	// Pending returns at most limit commands of one segment that come after another,
	// in their order. While an operator has paused the process manager, the error is
	// ErrPaused, and the commands are returned all the same: do not send them.
	Pending(ctx context.Context, process string, build int64, segment int, after CommandID, limit int) ([]Command, error)
	// Senders returns for what the outbox of a process manager waits, sorted by
	// build and segment. Empty segments are left out.
	Senders(ctx context.Context, process string) ([]Sender, error)
	// Sent removes commands whose outcome is final. Unknown ones are ignored. A crash
	// of the database server may bring the newest ones back.
	Sent(ctx context.Context, process string, done []Sent) error
	// Rejected returns how many commands of a process manager Sent has removed as
	// rejected, and when it last did, by the database's clock; zero if none.
	Rejected(ctx context.Context, process string) (commands uint64, last time.Time, err error)
	// Ahead returns the targets of the commands that other builds than one have in the
	// outbox, sorted, at most limit, and whether all of these commands wait for an
	// operator behind a held one.
	Ahead(ctx context.Context, process string, build int64, limit int) (targets []string, held bool, err error)
	// Fail records an attempt that failed, and whether the target is held now.
	Fail(ctx context.Context, process string, id CommandID, attempts int, held bool, reason string) error
	// Held returns the commands of a process manager that hold their target, at most
	// limit, in their order.
	Held(ctx context.Context, process string, limit int) ([]Command, error)
	// Release makes a held command one that was never attempted, and reports whether
	// it was held.
	Release(ctx context.Context, process string, id CommandID) (bool, error)
	// Discard removes a held command, and reports whether it was held.
	Discard(ctx context.Context, process string, id CommandID) (bool, error)
	// Handover makes a build send from where another build of the same process
	// manager has come to, and ends that one's term. The rows that are blocked there
	// are then blocked in this build, with their own beginning. All checkpoints of
	// both builds are locked meanwhile, and writers that have seen the former terms
	// are fenced. The error is ErrNoHandover if the other build does not send, or if a
	// checkpoint of this one is beyond one of the other.
	Handover(ctx context.Context, from, to int64) error
}

// A Wake is a row whose process is due.
type Wake struct {
	Key      string
	Position eventstore.Position // of the last event that changed the row
	Due      time.Time           // with microseconds
}

// Due is what is due in one segment of a build of a process manager.
type Due struct {
	Now   time.Time // of the database's clock
	Wakes []Wake
	// Next is when the row after these is due, which may be before Now; zero if none
	// is.
	Next time.Time
}
