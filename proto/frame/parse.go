package frame

import (
	"bytes"
	"iter"
	"math"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// Lines returns the lines of a message that are not blank.
func Lines(message []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(message) > 0 {
			line := message
			if i := bytes.IndexByte(message, '\n'); i >= 0 {
				line, message = message[:i], message[i+1:]
			} else {
				message = nil
			}
			if len(bytes.TrimSpace(line)) > 0 && !yield(line) {
				return
			}
		}
	}
}

// ParseRequest reads a client's frame. The error is ErrNotJSON or an *Error.
func ParseRequest(line []byte) (Request, error) { return ParseRequestWithin(line, math.MaxInt) }

// ParseRequestWithin is ParseRequest with a limit on the subscriptions in hello. A
// longer list is an *Error with CodeRateLimited; its elements are counted but not
// parsed.
func ParseRequestWithin(line []byte, subscriptions int) (Request, error) {
	if !valid(line) {
		return nil, ErrNotJSON
	}
	p := parts{subscriptions: subscriptions}
	p.split(line)
	if p.err != nil {
		return nil, p.error()
	}
	if string(p.raw[mOp]) != `"ack"` || p.has(mID) { // ack needs no id
		p.readID()
	}
	op := p.need(mOp, "give the kind of frame, such as \"op\":\"command\"")
	if p.err != nil {
		return nil, p.error()
	}
	f := p.request(op)
	if p.err != nil {
		return nil, p.error()
	}
	return f, nil
}

// ParseCommand reads the body of a command over HTTP: a command frame whose op and id
// may be missing.
func ParseCommand(body []byte) (Command, error) {
	if !valid(body) {
		return Command{}, ErrNotJSON
	}
	var p parts
	p.split(body)
	p.id = p.ascii(mID, MaxIDBytes)
	if op := p.text(mOp); op != "" && op != "command" {
		p.fail("op", "op is %s: only commands are accepted here", command.Quote(op))
	}
	c := p.command()
	return c, p.error()
}

func (p *parts) request(op string) Request {
	switch op {
	case "command":
		return p.command()
	case "hello":
		return p.hello()
	case "get":
		return Get{ID: p.id, Aggregate: p.stream(mAggregate), AtLeast: eventstore.Position(p.uint(mAtLeast)), Strong: p.bool(mStrong)}
	case "query":
		return p.query()
	case "subscribe":
		return p.subscribe()
	case "unsubscribe":
		if !p.has(mSub) {
			p.missing(mSub, "give the id of the subscription")
		}
		return Unsubscribe{ID: p.id, Sub: p.ascii(mSub, MaxIDBytes)}
	case "consume":
		return p.consume()
	case "ack":
		return p.ack()
	case "park":
		return p.park()
	case "auth":
		return Auth{ID: p.id, Token: p.need(mToken, "give the new token")}
	case "ping":
		return Ping{ID: p.id}
	}
	p.fail("op", "op %s is unknown: use hello, command, get, query, subscribe, unsubscribe, consume, ack, park, auth or ping", command.Quote(op))
	return nil
}

func (p *parts) hello() Hello {
	f := Hello{ID: p.id, Token: p.text(mToken), Client: p.text(mClient), Log: p.text(mLog)}
	if f.Token != "" && f.Client != "" {
		p.fail("client", "token and client are both given: give only one of them")
	}
	if f.Client != "" {
		if err := eventstore.ValidateClient(f.Client); err != nil {
			p.fail("client", "client: %s", err)
		}
	}
	raw := p.raw[mSubscriptions]
	if raw == nil {
		return f
	}
	if raw[0] != '[' {
		p.fail("subscriptions", "subscriptions must be a list of subscribe frames")
		return f
	}
	given := 0
	for range array(raw) {
		given++
	}
	if given > p.subscriptions && p.err == nil {
		p.fail("subscriptions", "subscriptions has %d elements, and a session may have at most %d subscriptions: ask for fewer", given, p.subscriptions)
		p.err.Code = command.CodeRateLimited
	}
	if p.err != nil {
		return f
	}
	for element := range array(raw) {
		var sub parts
		if sub.split(element); sub.err == nil {
			sub.readID()
		}
		s := sub.subscribe()
		if sub.err != nil {
			sub.err.ID = sub.id
			f.Refused = append(f.Refused, sub.err)
			continue
		}
		f.Subscriptions = append(f.Subscriptions, s)
	}
	return f
}

func (p *parts) command() Command {
	p.key = p.ascii(mKey, MaxKeyBytes)
	f := Command{
		ID: p.id, Key: p.key,
		Aggregate: p.stream(mAggregate),
		Command:   p.need(mCommand, "name the command, such as \"bid\""),
		Data:      p.data(),
		Expect:    p.version(mExpect),
		TimeoutMS: p.timeout(),
		Trace:     p.ascii(mTrace, 128), // a traceparent has 55 characters; later versions may have more
	}
	return f
}

// timeout reads an optional timeout.
func (p *parts) timeout() int64 {
	ms := p.millis(mTimeoutMS)
	if p.has(mTimeoutMS) && (ms < 1 || ms > MaxTimeout.Milliseconds()) {
		p.fail("timeout_ms", "timeout_ms must be 1 to %d", MaxTimeout.Milliseconds())
	}
	return ms
}

func (p *parts) subscribe() Subscribe {
	f := Subscribe{
		ID:       p.id,
		Category: p.text(mCategory),
		Query:    p.text(mQuery),
		After:    p.version(mAfter),
		Cursor:   p.cursor(),
		Last:     p.uint(mLast),
		State:    p.stateMode(),
	}
	if p.has(mStream) {
		f.Stream = p.stream(mStream)
	}
	switch count(p.has(mStream), p.has(mCategory), p.has(mQuery)) {
	case 0:
		p.fail("stream", "stream, category and query are missing: give a stream (\"auction/42\"), a category (\"auction\") or a query (\"open_auctions\")")
	case 1:
	default:
		p.fail("stream", "stream, category and query exclude each other: give only one of them")
	}
	if p.has(mCategory) {
		if err := eventstore.ValidateType(f.Category); err != nil {
			p.fail("category", "category: %s", err)
		}
	}
	if p.has(mLast) && f.Last == 0 {
		p.fail("last", "last must be 1 or more")
	}
	if count(p.has(mAfter), p.has(mCursor), p.has(mLast), f.State == StateFirst) > 1 {
		p.fail("cursor", "after, cursor, last and state: true exclude each other: give at most one of them")
	}
	if f.State == StateOnly && (p.has(mAfter) || p.has(mLast)) {
		p.fail("state", "state is \"only\", and after and last choose events: leave them out, or give the state \"each\"")
	}
	if !p.has(mStream) {
		for _, m := range []member{mAfter, mLast, mState} {
			switch {
			case !p.has(m), m == mState && f.State == StateNone:
			case p.has(mQuery):
				p.fail(names[m], "%s is for streams only: begin a query at a cursor that it sent, or without one with all its rows", names[m])
			default:
				p.fail(names[m], "%s is for streams only: begin a category at a cursor (\"0\" is the beginning) or without one at the next event", names[m])
			}
		}
	}
	p.parameters(&f)
	return f
}

func count(given ...bool) (n int) {
	for _, g := range given {
		if g {
			n++
		}
	}
	return n
}

// ParseAnswer reads a gateway's frame. The error is ErrNotJSON or an *Error. An *Error
// with CodeUnsupported reports an op that this package does not know; clients ignore
// such frames.
func ParseAnswer(line []byte) (Frame, error) {
	if !valid(line) {
		return nil, ErrNotJSON
	}
	var p parts
	p.split(line)
	p.id = p.ascii(mID, MaxIDBytes)
	op := p.need(mOp, "the gateway must send it")
	if p.err != nil {
		return nil, p.error()
	}
	f := p.answer(op)
	if p.err != nil {
		return nil, p.error()
	}
	return f, nil
}

func (p *parts) answer(op string) Frame {
	position, version := eventstore.Position(p.uint(mPosition)), eventstore.Version(p.uint(mVersion))
	switch op {
	case "event":
		return Event{
			Sub: p.text(mSub), Segment: p.text(mSegment), Stream: p.stream(mStream), Version: version, Position: position, Event: p.need(mEvent, "the gateway must send it"),
			Data: p.raw[mData], Time: p.time(mTime), Cause: p.text(mCause), By: p.text(mBy),
		}
	case "result":
		return Result{ID: p.id, Key: p.text(mKey), Version: version, Position: position, Replayed: p.bool(mReplayed), Data: p.raw[mData]}
	case "error":
		return Fault{
			ID: p.id, Key: p.text(mKey), Code: command.Code(p.need(mCode, "the gateway must send it")), Reason: p.text(mReason), Message: p.text(mMessage),
			Retry: command.Retry(p.text(mRetry)), AfterMS: p.millis(mAfterMS), Version: p.version(mVersion), Field: p.text(mField),
			Replayed: p.bool(mReplayed),
		}
	case "heartbeat":
		return p.heartbeat()
	case "welcome":
		return p.welcome()
	case "subscribed":
		return Subscribed{ID: p.id, Cursor: p.text(mCursor)}
	case "state":
		if p.has(mRows) {
			return p.rows()
		}
		return State{Sub: p.text(mSub), Version: version, Position: position, Data: p.raw[mData]}
	case "live":
		return p.live()
	case "update", "keys", "synced", "reset":
		return p.change(op)
	case "consuming":
		return Consuming{ID: p.id, Window: int(p.uint(mWindow)), AckWithinMS: p.millis(mAckWithinMS)}
	case "assigned", "revoking", "revoked":
		return p.assignment(op)
	case "unsubscribed":
		return Unsubscribed{ID: p.id, Sub: p.text(mSub), Code: command.Code(p.text(mCode)), Message: p.text(mMessage), Cursor: p.text(mCursor)}
	case "pong":
		return Pong{ID: p.id}
	case "expiring":
		return Expiring{InMS: p.millis(mInMS)}
	case "goodbye":
		return Goodbye{Reason: p.text(mReason), ReconnectInMS: p.millis(mReconnectInMS)}
	}
	p.fail("op", "op %s is unknown to this client: ignore the frame", command.Quote(op))
	p.err.Code = command.CodeUnsupported
	return nil
}

func (p *parts) heartbeat() Heartbeat {
	f := Heartbeat{Cursor: p.text(mCursor)}
	raw := p.raw[mBehind]
	if raw == nil {
		return f
	}
	if raw[0] != '[' {
		p.fail("behind", "behind must be a list")
		return f
	}
	for element := range array(raw) {
		var b parts
		b.split(element)
		f.Behind = append(f.Behind, Behind{Sub: b.need(mSub, "the gateway must send it"), Cursor: b.need(mCursor, "the gateway must send it")})
		if b.err != nil {
			p.fail("behind", "behind: %s", b.err.Message)
		}
	}
	return f
}

func (p *parts) welcome() Welcome {
	f := Welcome{
		ID: p.id, Session: p.text(mSession), Client: p.text(mClient), Node: p.text(mNode), Server: p.text(mServer),
		Log: p.text(mLog), Cursor: p.text(mCursor), HeartbeatMS: p.millis(mHeartbeatMS),
	}
	raw := p.raw[mLimits]
	if raw == nil {
		return f
	}
	if raw[0] != '{' {
		p.fail("limits", "limits must be an object")
		return f
	}
	for name, value := range walk(raw) {
		var into *int
		switch string(name) {
		case "frame_bytes":
			into = &f.Limits.FrameBytes
		case "open_requests":
			into = &f.Limits.OpenRequests
		case "subscriptions":
			into = &f.Limits.Subscriptions
		case "commands_per_second":
			into = &f.Limits.CommandsPerSecond
		default:
			continue
		}
		var n parts
		n.raw[mLast] = value // any number
		if *into = int(n.uint(mLast)); n.err != nil || *into < 0 {
			p.fail("limits", "limits: %s must be a whole number of 0 or more", name)
		}
	}
	return f
}
