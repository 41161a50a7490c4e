// Package outbox has what one connection must still write: replies and other
// frames in order, control frames, and a close frame at the end.
//
// Events are not in it. When the connection's turn comes, the session begins a
// message with [Outbox.Begin], which takes pending frames, appends events to
// the [Draft], and passes it to [Outbox.Seal] and [Outbox.Send]. Send never
// blocks: if the socket is full, a goroutine writes the rest of the message.
//
//	open ──Close, Evict──> closing ──End, an error, a peer that takes nothing──> ended
//	  └──────────────────────────────────End─────────────────────────────────────┘
//
// A closing outbox accepts no more frames, but writes its pending ones. An ended
// outbox writes nothing.
//
// The session's lock guards an Outbox: the caller of each method holds it. The
// exception is WriteRest, which acquires it.
package outbox

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/gateway/internal/limits"
	"github.com/ganglion-es/ganglion/gateway/internal/socket"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// CloseGrace is how long a client may take to answer a close frame.
const CloseGrace = 5 * time.Second

// Shared is what the outboxes of a gateway share.
type Shared struct {
	Budget *limits.Budget
	// QueueBytes bounds the pending frames of one connection.
	QueueBytes int

	full      atomic.Int64
	delivered atomic.Uint64
}

// Full returns the number of connections whose socket is full.
func (s *Shared) Full() int { return int(s.full.Load()) }

// Delivered returns the number of event frames that were written.
func (s *Shared) Delivered() uint64 { return s.delivered.Load() }

// MessageLimit returns the current limit of a message, in bytes.
func (s *Shared) MessageLimit() int {
	if s.Budget.IsCrowded() {
		return wire.CrowdedMessageBytes
	}
	return min(wire.MessageBytes, s.QueueBytes)
}

// Owner is the session of an outbox. Its methods are called with the session's
// lock held, except for Cut.
type Owner interface {
	// ScheduleWrite asks the shard for a write.
	ScheduleWrite()
	// Blocked reports that the socket is full. The owner starts a goroutine that
	// calls [Outbox.WriteRest].
	Blocked()
	// Sent reports that a message with the given number of replies was written.
	// If isLast is set, the message ended with a close frame.
	Sent(replies int, isLast bool)
	// Failed reports that the connection can't be written to.
	Failed()
	// Cut ends the session without a close frame. readNothing is set if the
	// client took nothing for the grace period.
	Cut(readNothing bool)
}

// Outbox is what one connection must still write.
type Outbox struct {
	mu     sync.Locker // the session's
	owner  Owner
	shared *Shared
	conn   *socket.Conn
	wire   wire.Wire

	state     state
	isEvicted bool
	queue     []item
	bytes     int     // in queue and rest
	rest      *[]byte // unwritten rest of a message, while the socket is full
	isWriting bool    // a goroutine writes rest, or the connection is held
	ping      bool
	pong      []byte

	// The contents of the message that is being written.
	replies, events int
	isLast          bool
}

type state uint8

const (
	open state = iota
	closing
	ended
)

// item is a frame, or the close frame at the end.
type item struct {
	frame   []byte
	isReply bool // writing it frees the slot of a request
	isClose bool
}

// Init sets the session, its lock and the state shared with other sessions.
func (o *Outbox) Init(mu sync.Locker, owner Owner, shared *Shared) {
	o.mu, o.owner, o.shared = mu, owner, shared
}

// Attach sets the connection.
func (o *Outbox) Attach(conn *socket.Conn, w wire.Wire) { o.conn, o.wire = conn, w }

// Hold keeps the connection from being written to until Release.
func (o *Outbox) Hold() { o.isWriting = true }

// Release undoes Hold.
func (o *Outbox) Release() { o.isWriting = false }

// Add adds a frame. It returns false if the outbox accepts no more frames.
func (o *Outbox) Add(frame []byte, isReply bool) bool {
	return o.add(item{frame: frame, isReply: isReply})
}

// Close closes the outbox with a close frame, after the pending frames.
func (o *Outbox) Close(frame []byte) {
	if o.add(item{frame: frame, isClose: true}) {
		o.state = max(o.state, closing)
	}
}

func (o *Outbox) add(it item) bool {
	if o.IsClosing() {
		return false
	}
	if !it.isClose {
		o.count(len(it.frame))
	}
	o.queue = append(o.queue, it)
	o.schedule()
	return true
}

// count adds to the pending bytes of the outbox and of the budget.
func (o *Outbox) count(bytes int) {
	o.bytes += bytes
	o.shared.Budget.Add(bytes)
}

// schedule asks for a write, unless one is in progress.
func (o *Outbox) schedule() {
	if !o.isWriting && o.state != ended {
		o.owner.ScheduleWrite()
	}
}

// Ping adds a ping.
func (o *Outbox) Ping() { o.ping = true; o.schedule() }

// Pong adds the answer to a ping. It replaces an unsent answer: only the newest
// ping needs one (RFC 6455, 5.5.3).
func (o *Outbox) Pong(payload []byte) { o.pong = socket.Pong(payload); o.schedule() }

// ScheduleWrite asks for a write, unless one is in progress.
func (o *Outbox) ScheduleWrite() { o.schedule() }

// IsClosing reports whether the outbox accepts no more frames.
func (o *Outbox) IsClosing() bool { return o.state >= closing }

// HasEnded reports whether the outbox has ended: it writes nothing more.
func (o *Outbox) HasEnded() bool { return o.state == ended }

// IsBlocked reports whether the socket is full, or the connection is held.
func (o *Outbox) IsBlocked() bool { return o.isWriting }

// CanWrite reports whether a new message can be written.
func (o *Outbox) CanWrite() bool { return !o.isWriting && o.state != ended }

// Bytes returns the number of pending bytes.
func (o *Outbox) Bytes() int { return o.bytes }

// Held returns the number of pending bytes, and whether the outbox is about to
// free them, because it was evicted or has ended.
func (o *Outbox) Held() (bytes int, isFreeing bool) {
	return o.bytes, o.isEvicted || o.state == ended
}

// HasRoom reports whether the outbox has room for the reply to another request.
func (o *Outbox) HasRoom() bool {
	return o.bytes <= o.shared.QueueBytes && !(o.isWriting && o.shared.Budget.IsCrowded())
}

// Evict drops the pending frames and closes the outbox. The rest of a message
// that was written in part is written as far as the kernel takes it. Evict
// returns the number of replies it dropped, and false if the outbox was already
// evicted or has ended.
func (o *Outbox) Evict(code int, reason string) (replies int, ok bool) {
	if o.isEvicted || o.state == ended {
		return 0, false
	}
	o.isEvicted = true
	for _, it := range o.queue {
		if !it.isClose {
			o.count(-len(it.frame))
		}
		if it.isReply {
			replies++
		}
	}
	o.queue, o.state = nil, closing
	ending := o.wire.Close(code, reason)
	if o.isWriting {
		o.conn.GiveUp(ending)
		return replies, true
	}
	o.queue = append(o.queue, item{frame: ending, isClose: true})
	o.schedule()
	return replies, true
}

// End makes the outbox write nothing more.
func (o *Outbox) End() { o.state = ended }

// Discard frees the pending frames of an ended outbox.
func (o *Outbox) Discard() {
	o.count(-o.bytes)
	o.queue = nil
}

// Send writes a message without blocking. It returns false if the socket is
// full, or the session has ended.
func (o *Outbox) Send(message []byte) bool {
	n, err := o.conn.Try(message)
	switch {
	case err != nil:
		o.state = ended
		_ = o.conn.Close() // does not block: only the Try of a bare socket can fail
		o.owner.Failed()
		return false
	case n == len(message):
		o.finishMessage()
		return true
	}
	o.rest = restBuffers.Get().(*[]byte)
	*o.rest = append((*o.rest)[:0], message[n:]...)
	o.count(len(*o.rest))
	o.isWriting = true
	o.shared.full.Add(1)
	o.owner.Blocked()
	return false
}

// restBuffers are buffers for the rests of messages.
var restBuffers = sync.Pool{New: func() any { return new([]byte) }}

// WriteRest writes the rest of a message. It blocks as long as the client takes
// something within each grace period. The caller does not hold the lock.
func (o *Outbox) WriteRest() {
	err := o.conn.WriteAll(*o.rest)
	stalled := o.conn.Stalled()
	readNothing := false
	if stalled {
		ending := o.conn.Ending()
		if readNothing = ending == nil; readNothing {
			ending = o.wire.Close(frame.CloseReadNothing, "read nothing for too long")
		}
		o.conn.WriteLast(ending)
	}
	if stalled || err != nil {
		o.owner.Cut(readNothing)
	}

	o.mu.Lock()
	defer o.mu.Unlock()
	o.count(-len(*o.rest))
	if cap(*o.rest) <= 2*wire.MessageBytes {
		restBuffers.Put(o.rest)
	}
	o.rest, o.isWriting = nil, false
	o.shared.full.Add(-1)
	if o.state == ended {
		return
	}
	// If an eviction came too late to interrupt the write, its close frame is
	// still unwritten.
	if ending := o.conn.Ending(); ending != nil {
		_ = o.conn.ClearWriteDeadline() // the one that GiveUp set has passed
		o.queue = append(o.queue, item{frame: ending, isClose: true})
	}
	o.finishMessage()
	o.schedule()
}

// finishMessage counts the events and reports the replies of a written message.
func (o *Outbox) finishMessage() {
	replies, isLast := o.replies, o.isLast
	if o.events > 0 {
		o.shared.delivered.Add(uint64(o.events))
	}
	o.replies, o.events, o.isLast = 0, 0, false
	o.owner.Sent(replies, isLast)
	if isLast {
		o.conn.Finish(CloseGrace)
	}
}
