package frame

import (
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// This file has the frames of consumer groups. Consume makes the session a member of a
// group, which Consuming answers. Assigned gives the member a segment under an epoch;
// its events follow as Event with Segment. The member acknowledges them with Ack, which
// has no answer. Revoked ends the assignment, in most cases after Revoking and the last
// Ack. Unsubscribe ends the membership.

// Bounds of the members of these frames.
const (
	MaxMemberBytes = 64
	// MaxSegmentBytes bounds the name of a segment: a number, or "~" and a stream.
	MaxSegmentBytes = 320
	// MaxReasonBytes bounds the reason of Park.
	MaxReasonBytes = 1 << 10
	// MaxConsumeWindow bounds the window of Consume. DefaultConsumeWindow applies without it.
	MaxConsumeWindow     = 1000
	DefaultConsumeWindow = 100
)

// Consume makes the session a member of a consumer group.
type Consume struct {
	ID     string
	Group  string
	Member string // of the client id; a newer session with the same member replaces this one
	Window int    // unacknowledged events of each segment; 0 for DefaultConsumeWindow
}

// WindowOrDefault returns the window that applies.
func (f Consume) WindowOrDefault() int {
	if f.Window == 0 {
		return DefaultConsumeWindow
	}
	return f.Window
}

// Ack acknowledges the events of a segment up to Cursor. The same cursor again says
// that the member still works on the next event. It has no id, and no answer if it is
// valid; an error about it has no id.
type Ack struct {
	Sub     string
	Segment string
	Epoch   uint64
	Cursor  string // the position of an event that was sent, or the cursor of Assigned
}

// Park asks to set aside the sequence (the stream) of an event: its events wait for an
// operator from this one on, and the others continue.
type Park struct {
	ID       string
	Sub      string
	Segment  string
	Epoch    uint64
	Position eventstore.Position // of the event
	Reason   string
}

// Consuming answers Consume.
type Consuming struct {
	ID     string
	Window int // the window that applies
	// AckWithinMS is how long the member may hold events without an Ack before its
	// segments go to other members.
	AckWithinMS int64
}

// AckWithin returns AckWithinMS as a duration.
func (f Consuming) AckWithin() time.Duration { return time.Duration(f.AckWithinMS) * time.Millisecond }

// Assigned gives the member a segment.
type Assigned struct {
	Sub     string
	Segment string
	Epoch   uint64 // names the assignment, in Ack and Park
	Cursor  string // the events after it follow
	Log     string // id of the log, for consumers that store positions
}

// Revoking asks the member to finish: no new event of the segment follows, and the
// segment is revoked once all is acknowledged, or after 5 s.
type Revoking struct {
	Sub     string
	Segment string
	Epoch   uint64
}

// Revoked ends an assignment. It also answers an Ack or Park whose epoch is over. Events
// that were not acknowledged are sent again, to the next member.
type Revoked struct {
	Sub     string
	Segment string
	Epoch   uint64
}

// Op returns the member op of the frame, here "consume".
func (Consume) Op() string   { return "consume" }
func (Ack) Op() string       { return "ack" }
func (Park) Op() string      { return "park" }
func (Consuming) Op() string { return "consuming" }
func (Assigned) Op() string  { return "assigned" }
func (Revoking) Op() string  { return "revoking" }
func (Revoked) Op() string   { return "revoked" }

// RequestID returns the frame's id.
func (f Consume) RequestID() string { return f.ID }
func (f Park) RequestID() string    { return f.ID }

// RequestID returns "", since the frame has no id.
func (Ack) RequestID() string { return "" }

// Append appends the frame.
func (f Consume) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("id", f.ID)
	o.str("group", f.Group)
	o.str("member", f.Member)
	o.optInt("window", int64(f.Window))
	return o.close()
}

// Append appends the frame.
func (f Ack) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.assignment(f.Sub, f.Segment, f.Epoch)
	o.str("cursor", f.Cursor)
	return o.close()
}

// Append appends the frame.
func (f Park) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("id", f.ID)
	o.assignment(f.Sub, f.Segment, f.Epoch)
	o.uint("position", uint64(f.Position))
	o.str("reason", f.Reason)
	return o.close()
}

// Append appends the frame.
func (f Consuming) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("id", f.ID)
	o.int("window", int64(f.Window))
	o.int("ack_within_ms", f.AckWithinMS)
	return o.close()
}

// Append appends the frame.
func (f Assigned) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.assignment(f.Sub, f.Segment, f.Epoch)
	o.str("cursor", f.Cursor)
	o.str("log", f.Log)
	return o.close()
}

// Append appends the frame.
func (f Revoking) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.assignment(f.Sub, f.Segment, f.Epoch)
	return o.close()
}

// Append appends the frame.
func (f Revoked) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.assignment(f.Sub, f.Segment, f.Epoch)
	return o.close()
}

func (o *object) assignment(sub, segment string, epoch uint64) {
	o.str("sub", sub)
	o.str("segment", segment)
	o.uint("epoch", epoch)
}

// AppendSegmentHead appends the beginning of the frame of an event of a group, as
// [AppendEventHead] does for a subscription's. [Event.AppendTail] appends the rest.
func AppendSegmentHead(dst []byte, sub, segment string) []byte {
	dst = AppendEventHead(dst, sub)
	dst = append(dst, `"segment":`...)
	dst = AppendString(dst, segment)
	return append(dst, ',')
}
