// Package group has what a gateway and the coordinator of a consumer group tell
// each other, and what a gateway needs to deliver a group's events.
//
// A consumer group shares the events that it reads among its members. Its streams
// are divided into segments, see [SegmentOf]; the coordinator, one node of the
// cluster, says which member holds which segment. A gateway joins each of its
// sessions that consume, delivers the events of the segments that a [Membership]
// holds, and writes acknowledgements directly to the database.
//
// # What a gateway does
//
//   - It calls [Membership.Holdings] when changed was called, and before it sends.
//     A segment that appears, or appears under another epoch, begins at its
//     Position: forget everything about it that was known of an older epoch, and
//     call [Membership.Parked] before the first event is sent. A segment that is
//     missing, or has another epoch, is lost: the member is told that it was revoked.
//   - While Silent, or while a holding has a Halt, it sends nothing new; what was
//     sent can still be acknowledged.
//   - It sends the events that the group reads, in the order of the log, of streams
//     whose [SegmentOf] is the segment, except those of a parked sequence at or after
//     the position at which it is parked.
//   - It calls [Membership.Pending] whenever the earliest event that was sent and is
//     not acknowledged changes.
//   - With nothing pending, it moves the segment's position along with
//     [Membership.Ack] about once a second, so that the log is not read again.
//   - Of a Revoking segment it sends nothing new, and calls [Membership.Release]
//     when nothing is pending. After 5 s the coordinator takes the segment anyway.
//   - It ends the subscription of a member that has had the same event pending for
//     AckWithin without a sign of life, and calls [Membership.Close].
//
// # Parked sequences under retry
//
// A parked sequence that an operator retries is a holding of its own: its Segment
// is "~" and the sequence, its Sequence is set, and the member is the one that holds
// the sequence's segment. The gateway sends the sequence's events after Position
// there, with the same frames and acknowledgements, while the main segment
// continues to leave them out. Once everything of the sequence up to the last
// position that the main segment was sent, or was moved to, is acknowledged, the
// gateway calls [Membership.Rejoin]; from then on the main segment has the
// sequence's events too. It must send nothing of the main segment during that call.
package group

import (
	"context"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/proto/command"
)

// Limits.
const (
	// MaxParked bounds the parked sequences of a group.
	MaxParked = groups.MaxParked
	// MaxMembers bounds the members of a group on one gateway; a further one is refused
	// as busy.
	MaxMembers = 1000
	// MaxReason bounds the reason of a parked sequence, in bytes; longer ones are cut.
	MaxReason = 1024
)

// The errors of a Membership that a gateway must tell apart.
var (
	// ErrRevoked reports that a segment has another epoch: the member does not hold
	// it any more. Nothing was stored.
	ErrRevoked = groups.ErrRevoked
	// ErrParkedFull reports that MaxParked sequences are parked already. Nothing was
	// stored: the event stays pending, and its segment waits for an operator.
	ErrParkedFull = groups.ErrParkedFull
	// ErrAhead reports a position that the log has not reached, because the log went
	// back. Nothing was stored.
	ErrAhead = groups.ErrAhead
)

// SegmentOf returns the segment of a stream: 32-bit FNV-1a of its name, modulo the
// number of segments. Positions are stored by segment, so it must never change.
//
// It does not use hash/fnv, which needs a copy of the name: gateways call it for
// every event and group.
func SegmentOf(s eventstore.StreamID, segments int) int {
	const offset, prime = 2166136261, 16777619 // of draft-eastlake-fnv, section 5
	h := uint32(offset)
	for _, part := range [...]string{s.Type, "/", s.ID} {
		for i := range len(part) {
			h = (h ^ uint32(part[i])) * prime
		}
	}
	return int(h % uint32(segments))
}

// A Group is a declared consumer group. It is immutable.
type Group struct {
	Name string
	// AckWithin is how long a member may have an event pending without a sign of
	// life.
	AckWithin time.Duration
	// Types are the aggregate types that it reads anything of, sorted.
	Types []string
	// Reads reports whether the group gets an event.
	Reads func(typ, event string) bool
	// Allows reports whether a caller may be a member.
	Allows func(client string, claims map[string]any) bool
}

// A Member identifies a member of a group: one program that consumes, whichever
// session it uses.
type Member struct {
	Group string
	// Client is the id of the client, "" for an anonymous one. Claims are the claims
	// of its token.
	Client string
	Claims map[string]any
	// Name is unique within Group and Client, and follows the rules of
	// [eventstore.ValidateID]. A second session with the same Name takes the place of
	// the first.
	Name string
	// Internal marks a handler of the node's own program: Group.Allows is not asked.
	Internal bool
}

// A Holding is a segment that a member holds.
type Holding struct {
	// Segment is the number of the segment in decimal, or "~" and the sequence.
	Segment string
	// Epoch is unique to this tenure of the segment. Only acknowledgements of the
	// newest epoch are accepted.
	Epoch uint64
	// Segments is how many segments the group has, for SegmentOf.
	Segments int
	// Position is up to where the segment was acknowledged when this epoch began.
	Position eventstore.Position
	// Log is the incarnation of the log to which positions belong.
	Log string
	// Window bounds the pending events, if it is not 0: it is 1 after takeovers at the
	// same event, which may be what ends its consumers.
	Window int
	// Revoking asks to send nothing new, and to release the segment. It ends without that
	// if another node becomes the coordinator, which may ask again.
	Revoking bool
	// Halt says why nothing may be sent, "" if sending is right. Members keep their
	// segments, and may acknowledge.
	Halt Halt
	// Sequence is set for a parked sequence under retry: the name of its stream.
	Sequence string
}

// Halt says why a group stands still.
type Halt string

const (
	// Paused: until an operator resumes the group.
	Paused Halt = "paused"
	// WentBack: the log lost events that the group has acknowledged. Until an operator
	// resets the group.
	WentBack Halt = "log"
	// ParkedFull: MaxParked sequences are parked, and the next event of the segment
	// should be. Until an operator retries or skips some.
	ParkedFull Halt = "parked"
)

// Holdings is what a member holds, as the coordinator has said last.
type Holdings struct {
	// List is sorted by Segment. It must not be changed.
	List []Holding
	// Silent reports that the coordinator was not heard for 2 s, or not yet: others may
	// be given the segments. Send nothing.
	Silent bool
	// Replaced reports that a newer session of the member has taken its place. It is
	// final: end the subscription, call Close, and do not join again.
	Replaced bool
}

// A Parked is a sequence whose events are left out from a position on.
type Parked struct {
	Sequence string
	Position eventstore.Position
}

// Groups is the way of a gateway into consumer groups. It is safe for concurrent
// use.
type Groups interface {
	// Group returns a declared group.
	Group(name string) (Group, bool)
	// Join makes a session a member. changed is called whenever Holdings may have
	// changed, on any goroutine and perhaps before Join returns; it must not block and
	// must not call the Membership's methods. The failure is not_found for an unknown
	// group, forbidden, bad_request for an invalid name, or busy.
	//
	// Segments are given about 1 s later, so that members which start together share
	// them once.
	Join(ctx context.Context, m Member, changed func()) (Membership, *command.Failure)
}

// A Membership is the place of one session in a group. It is safe for concurrent
// use. Only Ack, Parked, Park and Rejoin block: they use the database, and fail with
// [eventstore.ErrUnavailable] if it cannot be reached.
type Membership interface {
	// Holdings returns what the member holds. It is cheap: call it before each send,
	// since Silent depends on the time.
	Holdings() Holdings
	// Renew is called when the client's token has changed, and now and then. The
	// failure says that the client may not be a member any more; call Close then.
	Renew(client string, claims map[string]any) *command.Failure
	// Ack records that every event of a segment up to a position was handled. Positions
	// at or before the stored one change nothing. Concurrent calls share a round trip;
	// a crash of the database may lose the newest ones. The error is ErrRevoked or
	// ErrAhead.
	Ack(ctx context.Context, segment string, epoch uint64, p eventstore.Position) error
	// Parked returns the sequences of a segment that are parked. There are none
	// for a holding with a Sequence.
	Parked(ctx context.Context, segment string, epoch uint64) ([]Parked, error)
	// Park leaves out a sequence from a position on, the position of an event that
	// failed. Of a holding with a Sequence, it ends the retry: the segment is lost. The
	// error is ErrRevoked or ErrParkedFull.
	Park(ctx context.Context, segment string, epoch uint64, p eventstore.Position, sequence, reason string) error
	// Rejoin ends the retry of a parked sequence whose events up to the main segment's
	// are handled. segment is that of the holding with the Sequence, which is lost. It
	// may be repeated after an error. The error is ErrRevoked.
	Rejoin(ctx context.Context, segment string, epoch uint64) error
	// Pending reports the earliest event that was sent and is not acknowledged, and the
	// last event that was sent; 0 and 0 if nothing is pending.
	Pending(segment string, epoch uint64, first, last eventstore.Position)
	// Release gives a revoking segment back. Nothing of it is pending.
	Release(segment string, epoch uint64)
	// Close ends the membership. What is pending counts as a failed try at its first
	// event: report that nothing is, with Pending, if the member is not to blame, such as
	// in a drain of the gateway. It may be called more than once.
	Close()
}
