// Package groups is the contract of storage for consumer groups: who holds which
// segment of a group, and up to where it was acknowledged. It is beside the log and in
// its database.
//
// # Safety without leases
//
// Each assignment and each operator's change raises the group's generation, in one
// atomic step that fails with [ErrFenced] if the generation is not what the caller has
// seen. A segment that changes hands gets the new generation as its epoch.
// Acknowledgements and parks name an epoch, and only the segment's own is accepted. So
// two coordinators of one group cost a round of work, and a member that lost a segment
// can never move its position.
//
// # Durability
//
// [Store.Ack] does not wait for the disk: a crash of the database may lose the newest
// acknowledgements, whose events are then delivered again. Everything else waits, since
// an epoch or a park that was lost could be given out a second time with another
// meaning.
//
// # Parked sequences
//
// A sequence is the stream of an aggregate. A parked one has a row that says from which
// position on its events are left out. [Store.Retry] adds a segment of its own for it,
// whose name is "~" and the sequence; the row stays until [Store.Rejoin] removes both, or
// a park of that segment removes the segment.
//
// # Errors
//
// Every method fails with [eventstore.ErrUnavailable] if the database cannot be
// reached; the change may have been stored then. Methods that name a group fail with
// ErrNoGroup if there is none.
//
// The packages postgres and sqlite implement Store; groupstest is the suite that both
// pass.
package groups

import (
	"context"
	"errors"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

var (
	// ErrNoGroup reports a group that is not stored.
	ErrNoGroup = errors.New("groups: there is no such group")
	// ErrFenced reports that the group is not at the generation that the caller has
	// seen, or has another coordinator. Nothing was written.
	ErrFenced = errors.New("groups: the group has another generation")
	// ErrRevoked reports that a segment does not have the epoch that the caller holds.
	// Nothing was written.
	ErrRevoked = errors.New("groups: the segment was revoked")
	// ErrAhead reports a position that the log has not reached. Nothing was written.
	ErrAhead = errors.New("groups: the log has not reached the position")
	// ErrParkedFull reports that MaxParked sequences of the group are parked already.
	// Nothing was written.
	ErrParkedFull = errors.New("groups: too many sequences are parked")
	// ErrNotParked reports that a sequence is not parked, or not at the named position.
	// Nothing was written.
	ErrNotParked = errors.New("groups: the sequence is not parked there")
	// ErrOtherLog reports that the log has another commit where a segment stands, so its
	// position cannot be kept. Nothing was written.
	ErrOtherLog = errors.New("groups: the log has another commit at the position of a segment")
	// ErrHeld reports a group of which members hold segments. Nothing was written.
	ErrHeld = errors.New("groups: members hold segments of the group")
)

const (
	// MaxParked bounds the parked sequences of a group, however many segments park at
	// the same moment.
	MaxParked = 1000
	// Careful is the number of failed takeovers at one position after which a segment's
	// window is 1.
	Careful = 3
	// ParkAfter is the number of failed takeovers, Careful included, after which the
	// sequence of the event is parked.
	ParkAfter = 6
)

// PauseName is the name that pauses groups before they exist: while rows.Store.Pause has
// paused it, [Store.Ensure] makes groups that are paused. An import of a log under a new
// id does that, so that a copy of a log does not repeat what the log has caused outside.
// To resume any group ends it.
const PauseName = "~groups"

// RetrySegment returns the name of the segment of a parked sequence under retry.
func RetrySegment(sequence string) string { return "~" + sequence }

// SequenceOf returns the sequence of a segment's name; "" for a numbered segment.
func SequenceOf(segment string) string {
	sequence, _ := strings.CutPrefix(segment, "~")
	if sequence == segment {
		return ""
	}
	return sequence
}

// SegmentName returns the name of a numbered segment.
func SegmentName(number int) string { return strconv.Itoa(number) }

// A Group is the stored state of one group.
type Group struct {
	Name string
	// Generation is raised by each change except acknowledgements and parks.
	Generation uint64
	// Coordinator is the node that took the group last, "" if none has.
	Coordinator string
	// LogID is the incarnation of the log to which the positions belong.
	LogID  string
	Paused bool
	// Count is the number of numbered segments.
	Count int
	// Segments are sorted: the numbered ones by number, then those of sequences.
	Segments []Segment
	// Parked is the number of parked sequences.
	Parked int
}

// A Holder is who holds a segment. The zero Holder is no member.
type Holder struct {
	Client string // id of the client, "" for an anonymous one
	Member string // its name within group and client
	// Session identifies the session of the member, and Gateway the node that serves it.
	Session, Gateway string
}

// A Segment is one segment of a group.
type Segment struct {
	Name     string
	Position eventstore.Position // everything up to here is acknowledged
	// Key is that of the commit with the event at Position, "" at 0.
	Key    string
	Epoch  uint64
	Holder Holder
	// Tries counts the failed takeovers since the position last moved. While it is at
	// least [Careful], the window is 1.
	Tries int
	// CarefulUntil is the last event that was sent when Tries reached Careful: an
	// acknowledgement before it sets Tries to Careful, and a later one to 0.
	CarefulUntil eventstore.Position
	// Suspect is the event that was pending first at the last failed takeover, 0 if
	// none.
	Suspect eventstore.Position
	// At is when the position last moved, by the database's clock.
	At time.Time
}

// A Change gives a segment to a holder, or to none, under the new generation as its
// epoch.
type Change struct {
	Segment string
	To      Holder
	// Failed says that the holder so far is gone, with the events from Suspect to Last
	// pending. If Suspect is still unacknowledged, it counts as a try.
	Failed        bool
	Suspect, Last eventstore.Position
	// Park, if not nil, parks a sequence of the segment if its event is unacknowledged,
	// the tries have reached ParkAfter, with this one if it counts, and there is room.
	// Then a sequence's own segment is removed.
	Park *Park
}

// A Park leaves out a sequence from a position on.
type Park struct {
	Sequence string
	Position eventstore.Position // of the event that failed
	Reason   string
}

// Parked is a parked sequence.
type Parked struct {
	Park
	At time.Time // by the database's clock
	// Retried reports that the sequence has a segment of its own.
	Retried bool
}

// An Ack records that the events of a segment up to a position were handled.
type Ack struct {
	Group, Segment string
	Epoch          uint64
	Position       eventstore.Position
}

// Place is where a reset begins again.
type Place struct {
	// Keep leaves each segment where it is: only the log and the epochs change.
	Keep bool
	// Position is the last one that counts as acknowledged, unless Keep is set.
	Position eventstore.Position
}

// Store keeps consumer groups. It is safe for concurrent use.
type Store interface {
	// Ensure adds a group with a number of segments that begin at the head of the log,
	// and returns it; it is paused if PauseName is. If it exists, it is returned as it
	// is.
	Ensure(ctx context.Context, name string, segments int) (Group, error)
	// Groups returns the groups with these names that exist, or all groups, sorted by
	// name, as they are at one moment.
	Groups(ctx context.Context, names ...string) ([]Group, error)
	// Take makes a node the coordinator of a group under a new generation, whichever
	// node was it, and returns the group. No segment changes hands.
	Take(ctx context.Context, name, coordinator string) (Group, error)
	// Assign makes changes of a group that its coordinator has seen at a generation:
	// all of them under the next one, or none. It returns the group, which is perhaps
	// at a later generation already. Changes of segments that do not exist are left
	// out. The error is ErrFenced.
	Assign(ctx context.Context, name string, generation uint64, coordinator string, changes []Change) (Group, error)
	// Ack records acknowledgements, at most one for each group, segment and epoch. A
	// position at or before the stored one changes nothing. errs has an error for each
	// one: ErrRevoked or ErrAhead. err says that none may have been recorded.
	Ack(ctx context.Context, acks []Ack) (errs []error, err error)
	// Park leaves out a sequence, for the holder of a segment. A park of a sequence's
	// own segment removes the segment. The error is ErrRevoked or ErrParkedFull.
	Park(ctx context.Context, group, segment string, epoch uint64, p Park) error
	// Rejoin removes the segment of a sequence under retry and its parked row, for the
	// holder of the segment. It is not an error if both are gone already. The error is
	// ErrRevoked.
	Rejoin(ctx context.Context, group, segment string, epoch uint64) error
	// Parked returns the parked sequences of a group, by position, at most limit.
	// MaxParked is enough for all.
	Parked(ctx context.Context, group string, limit int) ([]Parked, error)

	// Reset moves all segments under a new epoch, adopts the log's incarnation and
	// ends retries. Sequences that are parked behind the place are not parked any more.
	// The holders stay. The error is ErrAhead, or ErrOtherLog for a place that keeps.
	Reset(ctx context.Context, group string, to Place) error
	// Resize replaces the segments by another number of them, without holders, at the
	// lowest position. It ends retries; sequences that are parked behind that position
	// are not parked any more.
	Resize(ctx context.Context, group string, segments int) error
	// Pause stops or resumes deliveries. To resume also ends the pause of PauseName.
	Pause(ctx context.Context, group string, paused bool) error
	// Retry gives a parked sequence a segment of its own, without a holder, if it has
	// none. The error is ErrNotParked.
	Retry(ctx context.Context, group, sequence string) error
	// Skip is Retry from after the position at which the sequence is parked. The error
	// is ErrNotParked if it is parked at another one, or under retry.
	Skip(ctx context.Context, group, sequence string, p eventstore.Position) error
	// Drop removes a group with all that is known of it. The error is ErrHeld if a
	// member holds a segment, unless left says that the members have left.
	Drop(ctx context.Context, group string, left bool) error
}

// Errors are the errors of this package.
var Errors = []error{ErrNoGroup, ErrFenced, ErrRevoked, ErrAhead, ErrParkedFull, ErrNotParked, ErrOtherLog, ErrHeld}

// Sort sorts the segments of a group: the numbered ones by number, then those of
// sequences.
func Sort(segments []Segment) {
	sort.Slice(segments, func(i, j int) bool {
		a, b := segments[i].Name, segments[j].Name
		x, errA := strconv.Atoi(a)
		y, errB := strconv.Atoi(b)
		switch {
		case errA == nil && errB == nil:
			return x < y
		case errA == nil || errB == nil:
			return errA == nil
		}
		return a < b
	})
}
