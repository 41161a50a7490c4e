package outbox

import (
	"github.com/ganglion-es/ganglion/gateway/internal/history"
	"github.com/ganglion-es/ganglion/gateway/internal/wire"
	"github.com/ganglion-es/ganglion/proto/ask"
)

// Draft is a message that is being built.
type Draft struct {
	wire   wire.Wire
	b      []byte // room for the header, then frames
	limit  int    // of len(b); one frame may exceed it
	ending []byte // a close frame after the message

	// IsPlain is set if the message consists of consecutive events of one
	// subscription. First, Last and Count describe them.
	IsPlain     bool
	First, Last *history.Entry
	Count       int
}

// Begin begins a message with the pending frames, in the memory of scratch.
func (o *Outbox) Begin(scratch []byte, limit int) Draft {
	d := Draft{wire: o.wire, b: append(scratch[:0], make([]byte, wire.HeaderRoom)...), limit: wire.HeaderRoom + limit}
	n := 0
	for ; n < len(o.queue) && !o.queue[n].isClose && !d.IsFull(); n++ {
		d.Append(o.queue[n].frame)
		o.count(-len(o.queue[n].frame))
		if o.queue[n].isReply {
			o.replies++
		}
	}
	if n < len(o.queue) && o.queue[n].isClose {
		d.ending, o.isLast = o.queue[n].frame, true
		n++
	}
	o.dequeue(n)
	return d
}

// dequeue drops the first n items of the queue.
func (o *Outbox) dequeue(n int) {
	rest := copy(o.queue, o.queue[n:])
	clear(o.queue[rest:])
	o.queue = o.queue[:rest]
	if rest == 0 && cap(o.queue) > 8 {
		o.queue = nil // an idle session keeps no large queue
	}
}

// IsDrained reports whether no frame is pending and the outbox is open, so that
// a message may have events.
func (o *Outbox) IsDrained() bool { return len(o.queue) == 0 && o.state == open }

// HasFrames reports whether frames are pending.
func (o *Outbox) HasFrames() bool { return len(o.queue) > 0 }

// HasControl reports whether a control frame is pending.
func (o *Outbox) HasControl() bool { return o.ping || o.pong != nil }

// CountEvents counts events in the message that is being written.
func (o *Outbox) CountEvents(n int) { o.events += n }

// Seal makes the message of a draft, with the pending control frames before it
// and the close frame after it. The message is empty if all of these are.
func (o *Outbox) Seal(d *Draft) []byte {
	message := d.b[len(d.b):]
	if !d.IsEmpty() {
		message = o.wire.Message(d.b)
	}
	if o.HasControl() {
		control := o.pong
		if o.ping {
			control = append(control, o.wire.Ping()...)
		}
		o.pong, o.ping = nil, false
		message = append(control, message...)
	}
	return append(message, d.ending...)
}

// Scratch returns the memory of the draft.
func (d *Draft) Scratch() []byte { return d.b }

// IsEmpty reports whether the draft has no frame.
func (d *Draft) IsEmpty() bool { return len(d.b) == wire.HeaderRoom }

// IsFull reports whether the draft has reached its limit.
func (d *Draft) IsFull() bool { return len(d.b) >= d.limit }

// Append appends a frame, unless it is empty.
func (d *Draft) Append(frame []byte) {
	if len(frame) == 0 {
		return
	}
	d.separate()
	d.b = append(d.b, frame...)
	d.IsPlain = false
}

// Fits reports whether an event fits into the message. The first always does.
func (d *Draft) Fits(head string, e *history.Entry) bool { return d.fits(len(head) + len(e.Tail)) }

// FitsState is Fits for a state.
func (d *Draft) FitsState(head string, s *history.SharedState) bool {
	return d.fits(len(head) + len(s.Tail))
}

func (d *Draft) fits(bytes int) bool { return d.IsEmpty() || len(d.b)+1+bytes <= d.limit }

// AppendEvent appends an event of a subscription, whose frames begin with head. It
// reports whether the wire sends the event.
func (d *Draft) AppendEvent(head string, e *history.Entry) bool {
	d.separate()
	before := len(d.b)
	d.b = d.wire.AppendEvent(d.b, head, e)
	return len(d.b) > before
}

// AppendState appends a state of a subscription, whose frames begin with head.
func (d *Draft) AppendState(head string, s *history.SharedState) {
	d.separate()
	d.b = d.wire.AppendState(d.b, head, s)
	d.IsPlain = false
}

// Room returns the number of bytes up to the draft's limit.
func (d *Draft) Room() int { return d.limit - len(d.b) }

// AppendPart appends a frame of a live query.
func (d *Draft) AppendPart(head string, p ask.Part) {
	d.separate()
	d.b = d.wire.AppendPart(d.b, head, p)
	d.IsPlain = false
}

func (d *Draft) separate() {
	if !d.IsEmpty() {
		d.b = append(d.b, d.wire.Separator()...)
	}
}
