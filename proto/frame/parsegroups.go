package frame

import "unicode/utf8"

func (p *parts) consume() Consume {
	f := Consume{ID: p.id, Group: p.need(mGroup, "name the consumer group, such as \"mailer\""), Member: p.member(), Window: int(p.uint(mWindow))}
	if p.has(mWindow) && (f.Window < 1 || f.Window > MaxConsumeWindow) {
		p.fail("window", "window must be 1 to %d", MaxConsumeWindow)
	}
	return f
}

// member reads the name of a member of a group.
func (p *parts) member() string {
	if !p.has(mMember) {
		p.missing(mMember, "name this process, with a name that no other process of the client uses, such as a UUID")
	}
	return p.ascii(mMember, MaxMemberBytes)
}

func (p *parts) ack() Ack {
	return Ack{Sub: p.consumer(), Segment: p.segment(), Epoch: p.epoch(), Cursor: p.cursorOfAck()}
}

func (p *parts) park() Park {
	return Park{
		ID: p.id, Sub: p.consumer(), Segment: p.segment(), Epoch: p.epoch(), Position: p.positionOfPark(), Reason: p.reason(),
	}
}

// consumer reads the id of the request that began a membership.
func (p *parts) consumer() string {
	if !p.has(mSub) {
		p.missing(mSub, "give the id of the consume frame")
	}
	return p.ascii(mSub, MaxIDBytes)
}

func (p *parts) segment() string {
	s := p.need(mSegment, "repeat the segment of assigned")
	if len(s) > MaxSegmentBytes {
		p.fail("segment", "segment has %d bytes: repeat the segment of assigned, which has at most %d", len(s), MaxSegmentBytes)
	}
	return s
}

func (p *parts) epoch() uint64 {
	n := p.uint(mEpoch)
	if n == 0 {
		p.missing(mEpoch, "repeat the epoch of assigned")
	}
	return n
}

// reason reads why a sequence is parked.
func (p *parts) reason() string {
	s := p.need(mReason, "say why the event could not be handled")
	switch {
	case len(s) > MaxReasonBytes:
		p.fail("reason", "reason has %d bytes, at most %d are allowed: shorten it", len(s), MaxReasonBytes)
	case p.has(mReason) && (hasNUL(p.raw[mReason]) || !utf8.ValidString(s)):
		p.fail("reason", "reason has the character U+0000, which cannot be stored: leave it out")
	}
	return s
}

// assignment reads a gateway's frame about a segment.
func (p *parts) assignment(op string) Frame {
	sub, segment, epoch := p.text(mSub), p.need(mSegment, "the gateway must send it"), p.uint(mEpoch)
	switch op {
	case "revoking":
		return Revoking{Sub: sub, Segment: segment, Epoch: epoch}
	case "revoked":
		return Revoked{Sub: sub, Segment: segment, Epoch: epoch}
	}
	return Assigned{Sub: sub, Segment: segment, Epoch: epoch, Cursor: p.need(mCursor, "the gateway must send it"), Log: p.text(mLog)}
}
