package frame

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// This file has the bodies of POST /v1/groups/{group}/next, which has the frames of
// consumer groups as one call.

// Next is the body of a request: acknowledge and park, and wait for the next events.
type Next struct {
	Member string
	Acks   []Ack  // without Sub
	Parks  []Park // without ID and Sub
	Max    int    // events, and unacknowledged events of each segment; 0 for DefaultConsumeWindow
	WaitMS *int64 // nil for DefaultTimeout
}

// Wait returns how long to wait for events.
func (n Next) Wait() time.Duration {
	if n.WaitMS == nil {
		return DefaultTimeout
	}
	return time.Duration(*n.WaitMS) * time.Millisecond
}

// MaxOrDefault returns the most events of the answer.
func (n Next) MaxOrDefault() int { return Consume{Window: n.Max}.WindowOrDefault() }

// ParseNext reads the body of a request. The error is ErrNotJSON or an *Error.
func ParseNext(body []byte) (Next, error) {
	if !valid(body) {
		return Next{}, ErrNotJSON
	}
	var p parts
	if p.split(body); p.err != nil {
		return Next{}, p.error()
	}
	n := Next{Member: p.member(), Max: int(p.uint(mMax))}
	if p.has(mMax) && (n.Max < 1 || n.Max > MaxConsumeWindow) {
		p.fail("max", "max must be 1 to %d", MaxConsumeWindow)
	}
	if p.has(mWaitMS) {
		ms := p.millis(mWaitMS)
		if n.WaitMS = &ms; ms > MaxTimeout.Milliseconds() {
			p.fail("wait_ms", "wait_ms must be 0 to %d", MaxTimeout.Milliseconds())
		}
	}
	p.each(mAcks, func(e *parts) {
		n.Acks = append(n.Acks, Ack{Segment: e.segment(), Epoch: e.epoch(), Cursor: e.cursorOfAck()})
	})
	p.each(mParks, func(e *parts) {
		n.Parks = append(n.Parks, Park{Segment: e.segment(), Epoch: e.epoch(), Position: e.positionOfPark(), Reason: e.reason()})
	})
	return n, p.error()
}

// each reads the elements of an optional list of objects.
func (p *parts) each(m member, read func(*parts)) {
	raw := p.raw[m]
	if raw == nil || p.err != nil {
		return
	}
	if raw[0] != '[' {
		p.fail(names[m], "%s must be a list of objects", names[m])
		return
	}
	i := 0
	for element := range array(raw) {
		var e parts
		if e.split(element); e.err == nil {
			read(&e)
		}
		if e.err != nil {
			p.fail(fmt.Sprintf("%s[%d].%s", names[m], i, e.err.Field), "%s[%d]: %s", names[m], i, e.err.Message)
		}
		i++
	}
}

// Held is a segment that a member has.
type Held struct {
	Segment    string
	Epoch      uint64
	Cursor     string // of Assigned
	IsRevoking bool
}

// Batch answers Next.
type Batch struct {
	Log         string
	AckWithinMS int64
	Segments    []Held
	Revoked     []Revoked         // without Sub
	Events      []json.RawMessage // events with a member segment
}

// Append appends the body.
func (b Batch) Append(dst []byte) []byte {
	o := object{append(dst, `{"log":`...)}
	o.b = AppendString(o.b, b.Log)
	o.int("ack_within_ms", b.AckWithinMS)
	o.list("segments", len(b.Segments), func(i int) {
		s := b.Segments[i]
		o.b = appendAssignment(o.b, s.Segment, s.Epoch)
		o.str("cursor", s.Cursor)
		o.optTrue("revoking", s.IsRevoking)
		o.b = append(o.b, '}')
	})
	o.list("revoked", len(b.Revoked), func(i int) {
		o.b = append(appendAssignment(o.b, b.Revoked[i].Segment, b.Revoked[i].Epoch), '}')
	})
	o.list("events", len(b.Events), func(i int) { o.b = append(o.b, b.Events[i]...) })
	return o.close()
}

func appendAssignment(dst []byte, segment string, epoch uint64) []byte {
	o := object{append(dst, `{"segment":`...)}
	o.b = AppendString(o.b, segment)
	o.uint("epoch", epoch)
	return o.b
}

// list appends a member with a list, whose elements add appends.
func (o *object) list(name string, n int, add func(i int)) {
	o.name(name)
	o.b = append(o.b, '[')
	for i := range n {
		if i > 0 {
			o.b = append(o.b, ',')
		}
		add(i)
	}
	o.b = append(o.b, ']')
}

// ParseBatch reads a Batch. The error is ErrNotJSON or an *Error.
func ParseBatch(body []byte) (Batch, error) {
	if !valid(body) {
		return Batch{}, ErrNotJSON
	}
	var p parts
	if p.split(body); p.err != nil {
		return Batch{}, p.error()
	}
	b := Batch{Log: p.text(mLog), AckWithinMS: p.millis(mAckWithinMS)}
	p.each(mSegments, func(e *parts) {
		b.Segments = append(b.Segments, Held{Segment: e.segment(), Epoch: e.epoch(), Cursor: e.text(mCursor), IsRevoking: e.bool(mRevoking)})
	})
	p.each(mRevoked, func(e *parts) { b.Revoked = append(b.Revoked, Revoked{Segment: e.segment(), Epoch: e.epoch()}) })
	p.each(mEvents, func(e *parts) { b.Events = append(b.Events, e.line) })
	return b, p.error()
}

// ParseBatchEvent reads an element of Batch.Events. The error is ErrNotJSON or an *Error.
func ParseBatchEvent(event json.RawMessage) (Event, error) {
	if !valid(event) {
		return Event{}, ErrNotJSON
	}
	var p parts
	p.split(event)
	f, ok := p.answer("event").(Event)
	if !ok && p.err == nil {
		return Event{}, errors.New("frame: not an event")
	}
	return f, p.error()
}

// cursorOfAck reads the cursor that an ack must have.
func (p *parts) cursorOfAck() string {
	if !p.has(mCursor) {
		p.missing(mCursor, "give the position of the last event that is done, as a string")
	}
	return p.ascii(mCursor, 64)
}

// positionOfPark reads the position that a park must have.
func (p *parts) positionOfPark() eventstore.Position {
	at := eventstore.Position(p.uint(mPosition))
	if at == 0 {
		p.missing(mPosition, "give the position of the event whose sequence must wait")
	}
	return at
}
