package frame

import (
	"bytes"
	"iter"
	"math"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// Lines walks the lines of a message that are not blank.
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

// ParseRequest reads a frame that a client sent. The error is ErrNotJSON, or
// an *Error that the client deserves as an answer.
func ParseRequest(line []byte) (Request, error) { return ParseRequestWithin(line, math.MaxInt) }

// ParseRequestWithin is ParseRequest with a bound on the subscriptions in
// hello. A longer list is an *Error with the code RateLimited; its elements are
// counted and not parsed.
func ParseRequestWithin(line []byte, subscriptions int) (Request, error) {
	if !valid(line) {
		return nil, ErrNotJSON
	}
	p := parts{subscriptions: subscriptions}
	p.take(line)
	if p.err != nil {
		return nil, p.error()
	}
	p.readID()
	op := p.need(mOp, "say what the frame is, such as \"op\":\"command\"")
	if p.err != nil {
		return nil, p.error()
	}
	f := p.request(op)
	if p.err != nil {
		return nil, p.error()
	}
	return f, nil
}

// ParseCommand reads the body of a command over HTTP: a command frame in
// which op and id may be missing.
func ParseCommand(body []byte) (Command, error) {
	if !valid(body) {
		return Command{}, ErrNotJSON
	}
	var p parts
	p.take(body)
	p.id = p.ascii(mID, MaxIDBytes)
	if op := p.text(mOp); op != "" && op != "command" {
		p.fail("op", "op is %q: this takes commands only", clip(op))
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
		return Query{ID: p.id, Query: p.need(mQuery, "name the query"), Data: p.data(), AtLeast: eventstore.Position(p.uint(mAtLeast))}
	case "subscribe":
		return p.subscribe()
	case "unsubscribe":
		if !p.has(mSub) {
			p.missing(mSub, "give the id of the subscription")
		}
		return Unsubscribe{ID: p.id, Sub: p.ascii(mSub, MaxIDBytes)}
	case "auth":
		return Auth{ID: p.id, Token: p.need(mToken, "give the new token")}
	case "ping":
		return Ping{ID: p.id}
	}
	p.fail("op", "op %q is unknown: use hello, command, get, query, subscribe, unsubscribe, auth or ping", clip(op))
	return nil
}

func (p *parts) hello() Hello {
	f := Hello{ID: p.id, Token: p.text(mToken), Client: p.text(mClient), Log: p.text(mLog)}
	if f.Token != "" && f.Client != "" {
		p.fail("client", "token and client are both given: give one of them")
	}
	if f.Client != "" {
		if err := eventstore.ValidateID(f.Client); err != nil {
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
		p.fail("subscriptions", "subscriptions has %d elements, and a session may have %d subscriptions: ask for fewer", given, p.subscriptions)
		p.err.Code = command.RateLimited
	}
	if p.err != nil {
		return f
	}
	for element := range array(raw) {
		var sub parts
		if sub.take(element); sub.err == nil {
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
		TimeoutMS: p.millis(mTimeoutMS),
		Trace:     p.ascii(mTrace, 128), // a traceparent has 55 today; later versions may append
	}
	if p.has(mTimeoutMS) && (f.TimeoutMS < 1 || f.TimeoutMS > MaxTimeout.Milliseconds()) {
		p.fail("timeout_ms", "timeout_ms must be 1 to %d", MaxTimeout.Milliseconds())
	}
	return f
}

func (p *parts) subscribe() Subscribe {
	f := Subscribe{
		ID:       p.id,
		Category: p.text(mCategory),
		Query:    p.text(mQuery),
		After:    p.version(mAfter),
		Cursor:   p.ascii(mCursor, 64),
		Last:     p.uint(mLast),
		State:    p.bool(mState),
	}
	if p.has(mStream) {
		f.Stream = p.stream(mStream)
	}
	switch count(p.has(mStream), p.has(mCategory), p.has(mQuery)) {
	case 0:
		p.fail("stream", "say what to subscribe to: stream (\"auction/42\") or category (\"auction\")")
	case 1:
	default:
		p.fail("stream", "stream, category and query exclude each other: give one of them")
	}
	if p.has(mCategory) {
		if err := eventstore.ValidateType(f.Category); err != nil {
			p.fail("category", "category: %s", err)
		}
	}
	if p.has(mLast) && f.Last == 0 {
		p.fail("last", "last must be 1 or more")
	}
	if count(p.has(mAfter), p.has(mCursor), p.has(mLast), f.State) > 1 {
		p.fail("cursor", "after, cursor, last and state exclude each other: give at most one of them")
	}
	if !p.has(mStream) {
		for _, m := range []member{mAfter, mLast, mState} {
			if p.has(m) && (m != mState || f.State) {
				p.fail(names[m], "%s is for streams only: a category begins at a cursor (\"0\" is the beginning) or now", names[m])
			}
		}
	}
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

func clip(s string) string {
	const most = 64
	if len(s) <= most {
		return s
	}
	return string(bytes.ToValidUTF8([]byte(s[:most]), nil)) + "…"
}

// ParseAnswer reads a frame that a gateway sent. The error is ErrNotJSON, or
// an *Error; one with the code Unsupported tells of an op that this package
// does not know, which a client ignores.
func ParseAnswer(line []byte) (Frame, error) {
	if !valid(line) {
		return nil, ErrNotJSON
	}
	var p parts
	p.take(line)
	p.id = p.ascii(mID, MaxIDBytes)
	op := p.need(mOp, "every frame has one")
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
			Sub: p.text(mSub), Stream: p.stream(mStream), Version: version, Position: position, Event: p.need(mEvent, "it is named"),
			Data: p.raw[mData], Time: p.time(mTime), Cause: p.text(mCause), By: p.text(mBy),
		}
	case "result":
		return Result{ID: p.id, Key: p.text(mKey), Version: version, Position: position, Replayed: p.bool(mReplayed), Data: p.raw[mData]}
	case "error":
		return Fault{
			ID: p.id, Key: p.text(mKey), Code: command.Code(p.need(mCode, "it has one")), Reason: p.text(mReason), Message: p.text(mMessage),
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
		return State{Sub: p.text(mSub), Version: version, Position: position, Data: p.raw[mData]}
	case "live":
		return Live{Sub: p.text(mSub), Version: p.version(mVersion), Cursor: p.text(mCursor)}
	case "unsubscribed":
		return Unsubscribed{ID: p.id, Sub: p.text(mSub), Code: command.Code(p.text(mCode)), Message: p.text(mMessage), Cursor: p.text(mCursor)}
	case "pong":
		return Pong{ID: p.id}
	case "expiring":
		return Expiring{InMS: p.millis(mInMS)}
	case "goodbye":
		return Goodbye{Reason: p.text(mReason), ReconnectInMS: p.millis(mReconnectInMS)}
	}
	p.fail("op", "op %q is unknown to this client: ignore the frame", clip(op))
	p.err.Code = command.Unsupported
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
		b.take(element)
		f.Behind = append(f.Behind, Behind{Sub: b.need(mSub, "it is named"), Cursor: b.need(mCursor, "it has one")})
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
