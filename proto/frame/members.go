package frame

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// member is the name of a frame's member. One pass splits a frame into an array of
// members, so that their order does not matter and no memory is allocated for them.
type member uint8

const (
	mOp member = iota
	mID
	mKey
	mAckWithinMS
	mAcks
	mAfter
	mAfterMS
	mAggregate
	mAtLeast
	mBehind
	mBlocked
	mBy
	mCategory
	mCause
	mClient
	mCode
	mCommand
	mCursor
	mData
	mEpoch
	mEvent
	mEvents
	mExpect
	mField
	mGone
	mGroup
	mHeartbeatMS
	mInMS
	mKeys
	mLast
	mLimits
	mLog
	mMax
	mMember
	mMessage
	mMore
	mNext
	mNode
	mParks
	mPosition
	mQuery
	mRank
	mReason
	mReconnectInMS
	mReplayed
	mRetry
	mRevoked
	mRevoking
	mRows
	mSegment
	mSegments
	mServer
	mSession
	mState
	mStream
	mStrong
	mSub
	mSubscriptions
	mTime
	mTimeoutMS
	mToken
	mTrace
	mVersion
	mWaitMS
	mWindow
	members
)

var names = [members]string{
	mOp: "op", mID: "id", mKey: "key", mAckWithinMS: "ack_within_ms", mAcks: "acks", mAfter: "after", mAfterMS: "after_ms", mAggregate: "aggregate", mAtLeast: "at_least",
	mBehind: "behind", mBlocked: "blocked", mBy: "by", mCategory: "category", mCause: "cause", mClient: "client", mCode: "code", mCommand: "command",
	mCursor: "cursor", mData: "data", mEpoch: "epoch", mEvent: "event", mEvents: "events", mExpect: "expect", mField: "field", mGone: "gone", mGroup: "group", mHeartbeatMS: "heartbeat_ms",
	mInMS: "in_ms", mKeys: "keys", mLast: "last", mLimits: "limits", mLog: "log", mMax: "max", mMember: "member", mMessage: "message", mMore: "more", mNext: "next", mNode: "node", mParks: "parks", mPosition: "position",
	mQuery: "query", mRank: "rank", mReason: "reason", mReconnectInMS: "reconnect_in_ms", mReplayed: "replayed", mRetry: "retry", mRevoked: "revoked", mRevoking: "revoking", mRows: "rows",
	mSegment: "segment", mSegments: "segments", mServer: "server", mSession: "session", mState: "state", mStream: "stream", mStrong: "strong", mSub: "sub",
	mSubscriptions: "subscriptions", mTime: "time", mTimeoutMS: "timeout_ms", mToken: "token", mTrace: "trace", mVersion: "version", mWaitMS: "wait_ms", mWindow: "window",
}

var byName = func() map[string]member {
	m := make(map[string]member, members)
	for i, name := range names {
		m[name] = member(i)
	}
	return m
}()

// parts is a frame split into members. err is the first problem found.
type parts struct {
	raw  [members][]byte
	id   string
	key  string
	line []byte // what was split
	err  *Error

	subscriptions int // limit on the subscriptions in hello
}

// split splits a valid JSON document into members.
func (p *parts) split(line []byte) {
	p.line = line
	if line = bytes.TrimLeft(line, " \t\r\n"); line[0] != '{' {
		p.fail("", "a frame must be a JSON object, such as {\"op\":\"ping\",\"id\":\"1\"}")
		return
	}
	var repeated member // plus 1, so that 0 means none
	for name, value := range walk(line) {
		m, known := byName[string(name)]
		if !known {
			continue
		}
		if p.raw[m] != nil && repeated == 0 {
			repeated = m + 1
		}
		p.raw[m] = value
	}
	for m, raw := range p.raw {
		if string(raw) == "null" { // null means absent
			p.raw[m] = nil
		}
	}
	if repeated == 0 {
		return
	}
	if m := repeated - 1; m != mID {
		p.id, _ = printable(p.raw[mID], MaxIDBytes)
		p.fail(names[m], "%s is given twice: give it once", names[m])
	} else {
		p.fail("id", "id is given twice: give it once")
	}
}

// fail records a problem, unless there is an earlier one.
func (p *parts) fail(field, format string, args ...any) {
	if p.err == nil {
		p.err = &Error{Code: command.CodeBadRequest, Field: field, Message: fmt.Sprintf(format, args...)}
	}
}

// error returns the problem, with the id and key if they were read.
func (p *parts) error() error {
	if p.err == nil {
		return nil
	}
	p.err.ID, p.err.Key = p.id, p.key
	return p.err
}

func (p *parts) has(m member) bool { return p.raw[m] != nil }

func (p *parts) missing(m member, hint string) {
	p.fail(names[m], "%s is missing: %s", names[m], hint)
}

// text reads an optional string.
func (p *parts) text(m member) string {
	if !p.has(m) {
		return ""
	}
	s, err := unquote(p.raw[m])
	if err != nil {
		p.fail(names[m], "%s %s", names[m], err)
	}
	return s
}

// need reads a required string that may not be empty.
func (p *parts) need(m member, hint string) string {
	s := p.text(m)
	if s == "" {
		p.missing(m, hint)
	}
	return s
}

// ascii reads an optional string of 1 to most printable ASCII bytes.
func (p *parts) ascii(m member, most int) string {
	if !p.has(m) {
		return ""
	}
	s, ok := printable(p.raw[m], most)
	if !ok {
		p.fail(names[m], "%s must be a string of 1 to %d printable ASCII characters", names[m], most)
	}
	return s
}

// readID reads the frame's id.
func (p *parts) readID() {
	if !p.has(mID) {
		p.missing(mID, "give each frame a string that its answer repeats, such as \"id\":\"1\"")
		return
	}
	p.id = p.ascii(mID, MaxIDBytes)
}

// MaxNumber is the largest whole number in a frame or a query parameter. A larger
// number may have been rounded, since JavaScript and others read JSON's numbers as
// doubles.
const MaxNumber = 1<<53 - 1

// uint reads an optional whole number.
func (p *parts) uint(m member) uint64 {
	if !p.has(m) {
		return 0
	}
	n, err := strconv.ParseUint(string(p.raw[m]), 10, 64)
	if err != nil {
		p.fail(names[m], "%s must be a whole number of 0 or more, without quotes", names[m])
	}
	if n > MaxNumber {
		p.fail(names[m], "%s is %d: whole numbers from 2^53 on are refused, since they may have been rounded", names[m], n)
	}
	return n
}

// millis reads an optional number of milliseconds.
func (p *parts) millis(m member) int64 {
	return int64(p.uint(m))
}

func (p *parts) version(m member) *eventstore.Version {
	if !p.has(m) {
		return nil
	}
	v := eventstore.Version(p.uint(m))
	return &v
}

func (p *parts) bool(m member) bool {
	switch string(p.raw[m]) {
	case "true":
		return true
	case "", "false":
	default:
		p.fail(names[m], "%s must be true or false, without quotes", names[m])
	}
	return false
}

// stateMode reads which states a subscription sends.
func (p *parts) stateMode() StateMode {
	switch string(p.raw[mState]) {
	case "", "false":
		return StateNone
	case "true":
		return StateFirst
	case `"each"`:
		return StateEach
	case `"only"`:
		return StateOnly
	}
	p.fail("state", "state must be true, false, \"each\" or \"only\"")
	return StateNone
}

func (p *parts) stream(m member) eventstore.StreamID {
	name := p.need(m, "name the aggregate as type/id, such as \"auction/42\"")
	if p.err != nil {
		return eventstore.StreamID{}
	}
	s, err := eventstore.ParseStreamID(name)
	if err != nil {
		p.fail(names[m], "%s: %s", names[m], err)
	}
	return s
}

// data reads a request's data.
func (p *parts) data() json.RawMessage {
	raw := p.raw[mData]
	switch {
	case raw == nil:
		p.missing(mData, "give {} if it has no members")
	case len(raw) > MaxDataBytes:
		p.fail("data", "data has %d bytes, at most %d are allowed", len(raw), MaxDataBytes)
		if p.err.Field == "data" {
			p.err.Code = command.CodeTooLarge
		}
	case hasNUL(raw):
		p.fail("data", "data has the character U+0000, which cannot be stored: leave it out")
	}
	return raw
}

func (p *parts) time(m member) time.Time {
	s := p.need(m, "the gateway must send an RFC 3339 time")
	if p.err != nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		p.fail(names[m], "%s is not an RFC 3339 time", names[m])
	}
	return t.UTC()
}

// hasNUL reports whether a string in a valid JSON document has U+0000, which JSON can
// only write as an escape.
func hasNUL(raw []byte) bool {
	const nul = `u0000`
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return false
		}
		raw = raw[i+1:]
		if bytes.HasPrefix(raw, []byte(nul)) {
			return true
		}
		raw = raw[1:] // skip the escaped character, which may be a backslash
	}
}

// printable reads a JSON string of 1 to most printable ASCII bytes.
func printable(raw []byte, most int) (string, bool) {
	s, err := unquote(raw)
	if err != nil || s == "" || len(s) > most {
		return "", false
	}
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return "", false
		}
	}
	return s, true
}

var (
	errNoString = errors.New("is not a string: write it in quotes")
	errHalfPair = errors.New("has half of a surrogate pair: write each character whole")
)

// unquote reads a JSON string of a valid document. It refuses half of a surrogate
// pair, which encoding/json replaces, so that two different strings would become one
// name.
func unquote(raw []byte) (string, error) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", errNoString
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil
	}
	if HasHalfPair(raw) {
		return "", errHalfPair
	}
	var s string
	err := json.Unmarshal(raw, &s)
	return s, err
}

// HasHalfPair reports whether a string in a valid JSON document has half of a
// surrogate pair, such as "\ud800".
func HasHalfPair(raw []byte) bool {
	for {
		i := bytes.IndexByte(raw, '\\')
		if i < 0 {
			return false
		}
		r, isUnicode := escaped(raw[i:])
		switch {
		case !isUnicode:
			raw = raw[i+2:]
		case !utf16.IsSurrogate(r):
			raw = raw[i+escapeBytes:]
		default:
			low, _ := escaped(raw[i+escapeBytes:])
			if utf16.DecodeRune(r, low) == unicode.ReplacementChar {
				return true
			}
			raw = raw[i+2*escapeBytes:]
		}
	}
}

const escapeBytes = len(`\u0000`)

// escaped reads the \uXXXX at the start of raw, if there is one.
func escaped(raw []byte) (r rune, ok bool) {
	if len(raw) < escapeBytes || !bytes.HasPrefix(raw, []byte(`\u`)) {
		return 0, false
	}
	n, err := strconv.ParseUint(string(raw[2:escapeBytes]), 16, 16)
	return rune(n), err == nil
}

// valid reports whether the line is JSON in UTF-8.
func valid(line []byte) bool { return utf8.Valid(line) && json.Valid(line) }

// walk yields the members of an object in a valid JSON document.
func walk(raw []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		i := skipSpace(raw, 1)
		for raw[i] != '}' {
			end := skipValue(raw, i)
			name := raw[i+1 : end-1]
			if bytes.IndexByte(name, '\\') >= 0 {
				s, _ := unquote(raw[i:end]) // no member is named ""
				name = []byte(s)
			}
			i = skipSpace(raw, end) // the colon
			i = skipSpace(raw, i+1)
			end = skipValue(raw, i)
			if !yield(name, raw[i:end:end]) {
				return
			}
			if i = skipSpace(raw, end); raw[i] == ',' {
				i = skipSpace(raw, i+1)
			}
		}
	}
}

// array yields the elements of an array in a valid JSON document.
func array(raw []byte) iter.Seq[[]byte] {
	return func(yield func(value []byte) bool) {
		i := skipSpace(raw, 1)
		for raw[i] != ']' {
			end := skipValue(raw, i)
			if !yield(raw[i:end:end]) {
				return
			}
			if i = skipSpace(raw, end); raw[i] == ',' {
				i = skipSpace(raw, i+1)
			}
		}
	}
}

func skipSpace(raw []byte, i int) int {
	for raw[i] == ' ' || raw[i] == '\t' || raw[i] == '\r' || raw[i] == '\n' {
		i++
	}
	return i
}

// skipValue returns the end of the value that begins at i.
func skipValue(raw []byte, i int) int {
	switch raw[i] {
	case '"':
		for i++; raw[i] != '"'; i++ {
			if raw[i] == '\\' {
				i++
			}
		}
		return i + 1
	case '{', '[':
		depth := 0
		for ; ; i++ {
			switch raw[i] {
			case '"':
				i = skipValue(raw, i) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	}
	for ; i < len(raw); i++ {
		switch raw[i] {
		case ',', '}', ']', ' ', '\t', '\r', '\n':
			return i
		}
	}
	return i
}
