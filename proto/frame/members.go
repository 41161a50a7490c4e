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

// member is the name of a frame's member; a frame is taken apart into an
// array of them in one pass, so that the order of members does not matter and
// nothing is allocated for them.
type member uint8

const (
	mOp member = iota
	mID
	mKey
	mAfter
	mAfterMS
	mAggregate
	mAtLeast
	mBehind
	mBy
	mCategory
	mCause
	mClient
	mCode
	mCommand
	mCursor
	mData
	mEvent
	mExpect
	mField
	mHeartbeatMS
	mInMS
	mLast
	mLimits
	mLog
	mMessage
	mNode
	mPosition
	mQuery
	mReason
	mReconnectInMS
	mReplayed
	mRetry
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
	members
)

var names = [members]string{
	mOp: "op", mID: "id", mKey: "key", mAfter: "after", mAfterMS: "after_ms", mAggregate: "aggregate", mAtLeast: "at_least",
	mBehind: "behind", mBy: "by", mCategory: "category", mCause: "cause", mClient: "client", mCode: "code", mCommand: "command",
	mCursor: "cursor", mData: "data", mEvent: "event", mExpect: "expect", mField: "field", mHeartbeatMS: "heartbeat_ms",
	mInMS: "in_ms", mLast: "last", mLimits: "limits", mLog: "log", mMessage: "message", mNode: "node", mPosition: "position",
	mQuery: "query", mReason: "reason", mReconnectInMS: "reconnect_in_ms", mReplayed: "replayed", mRetry: "retry",
	mServer: "server", mSession: "session", mState: "state", mStream: "stream", mStrong: "strong", mSub: "sub",
	mSubscriptions: "subscriptions", mTime: "time", mTimeoutMS: "timeout_ms", mToken: "token", mTrace: "trace", mVersion: "version",
}

var byName = func() map[string]member {
	m := make(map[string]member, members)
	for i, name := range names {
		m[name] = member(i)
	}
	return m
}()

// parts is a frame taken apart. err is the first thing found wrong with it.
type parts struct {
	raw [members][]byte
	id  string
	key string
	err *Error

	subscriptions int // how many hello may ask for
}

// take takes a valid JSON document apart.
func (p *parts) take(line []byte) {
	if line = bytes.TrimLeft(line, " \t\r\n"); line[0] != '{' {
		p.fail("", "a frame is a JSON object, such as {\"op\":\"ping\",\"id\":\"1\"}")
		return
	}
	var twice member
	for name, value := range walk(line) {
		m, known := byName[string(name)]
		if !known {
			continue
		}
		if p.raw[m] != nil && twice == 0 {
			twice = m + 1
		}
		p.raw[m] = value
	}
	for m, raw := range p.raw {
		if string(raw) == "null" { // as good as absent
			p.raw[m] = nil
		}
	}
	if twice == 0 {
		return
	}
	if m := twice - 1; m != mID {
		p.id, _ = printable(p.raw[mID], MaxIDBytes)
		p.fail(names[m], "%s is given twice: give it once", names[m])
	} else {
		p.fail("id", "id is given twice: give it once")
	}
}

// fail notes the first thing that is wrong.
func (p *parts) fail(field, format string, args ...any) {
	if p.err == nil {
		p.err = &Error{Code: command.BadRequest, Field: field, Message: fmt.Sprintf(format, args...)}
	}
}

// error returns what is wrong, with the id and key as far as they were read.
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

// need reads a string that may not be missing or empty.
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
		p.missing(mID, "give each frame a string that names its answer, such as \"id\":\"1\"")
		return
	}
	p.id = p.ascii(mID, MaxIDBytes)
}

// MaxNumber is the largest whole number in a frame or a query parameter. Beyond
// it the number may be a neighbour of the one that was meant: JavaScript and
// others read JSON's numbers as doubles.
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
		p.fail(names[m], "%s is %d: whole numbers from 2^53 on may have been rounded on their way and are refused", names[m], n)
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
		p.missing(mData, "give {} where there is nothing to say")
	case len(raw) > MaxDataBytes:
		p.fail("data", "data has %d bytes, at most %d are allowed", len(raw), MaxDataBytes)
		if p.err.Field == "data" {
			p.err.Code = command.TooLarge
		}
	case hasNUL(raw):
		p.fail("data", "data has the character U+0000, which can't be stored: leave it out")
	}
	return raw
}

func (p *parts) time(m member) time.Time {
	s := p.need(m, "an RFC 3339 time")
	if p.err != nil {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		p.fail(names[m], "%s is no RFC 3339 time", names[m])
	}
	return t.UTC()
}

// hasNUL tells whether a string in a valid JSON document has U+0000, which
// JSON can only say with an escape.
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
		raw = raw[1:] // what is escaped, so that \\ is not taken for a beginning
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
	errNoString    = errors.New("is no string: write it in quotes")
	errHalfOfAPair = errors.New("has half of a surrogate pair: write each character whole")
)

// unquote reads a JSON string of a valid document. It refuses half of a
// surrogate pair, which encoding/json replaces: two strings that differ would
// become one name.
func unquote(raw []byte) (string, error) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", errNoString
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil
	}
	if HasHalfPair(raw) {
		return "", errHalfOfAPair
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

// escaped reads the \uXXXX that raw begins with, if it does.
func escaped(raw []byte) (r rune, ok bool) {
	if len(raw) < escapeBytes || !bytes.HasPrefix(raw, []byte(`\u`)) {
		return 0, false
	}
	n, err := strconv.ParseUint(string(raw[2:escapeBytes]), 16, 16)
	return rune(n), err == nil
}

// valid tells whether the line is JSON in UTF-8.
func valid(line []byte) bool { return utf8.Valid(line) && json.Valid(line) }

// walk walks the members of an object in a valid JSON document.
func walk(raw []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		i := skipSpace(raw, 1)
		for raw[i] != '}' {
			end := skipValue(raw, i)
			name := raw[i+1 : end-1]
			if bytes.IndexByte(name, '\\') >= 0 {
				s, _ := unquote(raw[i:end]) // "" is no member's name
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

// array walks the elements of an array in a valid JSON document.
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

// skipValue returns where the value that begins at i ends.
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
