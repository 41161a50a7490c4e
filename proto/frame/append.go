package frame

import (
	"bytes"
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/eventstore"
)

// object appends the members of one JSON object. Methods whose name begins with opt
// leave an empty member out.
type object struct{ b []byte }

func open(dst []byte, op string) object {
	dst = append(dst, `{"op":"`...)
	dst = append(dst, op...)
	return object{append(dst, '"')}
}

func (o *object) name(name string) {
	o.b = append(o.b, ',', '"')
	o.b = append(o.b, name...)
	o.b = append(o.b, '"', ':')
}

func (o *object) str(name, v string) {
	o.name(name)
	o.b = AppendString(o.b, v)
}

func (o *object) optStr(name, v string) {
	if v != "" {
		o.str(name, v)
	}
}

func (o *object) uint(name string, v uint64) {
	o.name(name)
	o.b = strconv.AppendUint(o.b, v, 10)
}

func (o *object) optUint(name string, v uint64) {
	if v != 0 {
		o.uint(name, v)
	}
}

func (o *object) int(name string, v int64) {
	o.name(name)
	o.b = strconv.AppendInt(o.b, v, 10)
}

func (o *object) optInt(name string, v int64) {
	if v != 0 {
		o.int(name, v)
	}
}

func (o *object) optVersion(name string, v *eventstore.Version) {
	if v != nil {
		o.uint(name, uint64(*v))
	}
}

func (o *object) optTrue(name string, v bool) {
	if v {
		o.name(name)
		o.b = append(o.b, "true"...)
	}
}

func (o *object) optData(name string, v json.RawMessage) {
	if v != nil {
		o.name(name)
		o.b = appendRaw(o.b, v)
	}
}

func (o *object) close() []byte { return append(o.b, '}') }

// AppendString appends s as a JSON string. Invalid UTF-8 becomes U+FFFD.
func AppendString(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				dst = append(dst, s[start:i]...)
				dst = append(dst, `\ufffd`...)
				start = i + n
			}
			i += n
			continue
		}
		if c >= ' ' && c != '"' && c != '\\' {
			i++
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// appendRaw appends a JSON document on one line. A raw line feed or carriage return
// can only be white space between tokens, so a blank may replace it.
func appendRaw(dst []byte, raw json.RawMessage) []byte {
	if len(raw) == 0 {
		return append(dst, "null"...)
	}
	from := len(dst)
	dst = append(dst, raw...)
	for _, end := range []byte("\n\r") {
		for rest := dst[from:]; ; {
			i := bytes.IndexByte(rest, end)
			if i < 0 {
				break
			}
			rest[i] = ' '
			rest = rest[i+1:]
		}
	}
	return dst
}

func appendStream(dst []byte, s eventstore.StreamID) []byte {
	dst = append(dst, '"')
	dst = append(dst, s.Type...) // lower-case letters, digits, - and _
	dst = append(dst, '/')
	from := len(dst)
	dst = AppendString(dst, s.ID)
	copy(dst[from:], dst[from+1:]) // the opening quote is before the type
	return dst[:len(dst)-1]
}

// Append appends the frame.
func (f Hello) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("id", f.ID)
	o.optStr("token", f.Token)
	o.optStr("client", f.Client)
	o.optStr("log", f.Log)
	if len(f.Subscriptions) > 0 {
		o.name("subscriptions")
		o.b = append(o.b, '[')
		for i, s := range f.Subscriptions {
			if i > 0 {
				o.b = append(o.b, ',')
			}
			o.b = s.Append(o.b)
		}
		o.b = append(o.b, ']')
	}
	return o.close()
}

// Append appends the frame.
func (f Command) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("id", f.ID)
	o.name("aggregate")
	o.b = appendStream(o.b, f.Aggregate)
	o.str("command", f.Command)
	o.name("data")
	o.b = appendRaw(o.b, f.Data)
	o.optStr("key", f.Key)
	o.optVersion("expect", f.Expect)
	o.optInt("timeout_ms", f.TimeoutMS)
	o.optStr("trace", f.Trace)
	return o.close()
}

// Append appends the frame.
func (f Get) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("id", f.ID)
	o.name("aggregate")
	o.b = appendStream(o.b, f.Aggregate)
	o.optUint("at_least", uint64(f.AtLeast))
	o.optTrue("strong", f.Strong)
	return o.close()
}

// Append appends the frame.
func (f Subscribe) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("id", f.ID)
	if f.Stream.Type != "" {
		o.name("stream")
		o.b = appendStream(o.b, f.Stream)
	}
	o.optStr("category", f.Category)
	o.optStr("query", f.Query)
	o.optData("data", f.Data)
	o.optUint("at_least", uint64(f.AtLeast))
	o.optVersion("after", f.After)
	o.optStr("cursor", f.Cursor)
	o.optUint("last", f.Last)
	switch f.State {
	case StateFirst:
		o.optTrue("state", true)
	case StateEach, StateOnly:
		o.str("state", string(f.State))
	}
	return o.close()
}

// Append appends the frame.
func (f Unsubscribe) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("id", f.ID)
	o.str("sub", f.Sub)
	return o.close()
}

// Append appends the frame.
func (f Auth) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("id", f.ID)
	o.str("token", f.Token)
	return o.close()
}

// Append appends the frame.
func (f Ping) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("id", f.ID)
	return o.close()
}

// Append appends the frame.
func (f Welcome) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("id", f.ID)
	o.str("session", f.Session)
	o.str("client", f.Client)
	o.str("node", f.Node)
	o.str("server", f.Server)
	o.str("log", f.Log)
	o.str("cursor", f.Cursor)
	o.int("heartbeat_ms", f.HeartbeatMS)
	o.name("limits")
	o.b = append(o.b, `{"frame_bytes":`...)
	o.b = strconv.AppendInt(o.b, int64(f.Limits.FrameBytes), 10)
	o.int("open_requests", int64(f.Limits.OpenRequests))
	o.int("subscriptions", int64(f.Limits.Subscriptions))
	o.int("commands_per_second", int64(f.Limits.CommandsPerSecond))
	o.b = append(o.b, '}')
	return o.close()
}

// Append appends the frame.
func (f Result) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.optStr("id", f.ID) // absent over HTTP
	o.optStr("key", f.Key)
	o.uint("version", uint64(f.Version))
	o.uint("position", uint64(f.Position))
	o.optTrue("replayed", f.Replayed)
	o.optData("data", f.Data)
	return o.close()
}

// Append appends the frame.
func (f Fault) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.optStr("id", f.ID)
	o.optStr("key", f.Key)
	o.str("code", string(f.Code))
	o.optStr("reason", f.Reason)
	o.str("message", f.Message)
	o.str("retry", string(f.Retry))
	o.optInt("after_ms", f.AfterMS)
	o.optVersion("version", f.Version)
	o.optStr("field", f.Field)
	o.optTrue("replayed", f.Replayed)
	return o.close()
}

// Append appends the frame.
func (f Subscribed) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("id", f.ID)
	o.str("cursor", f.Cursor)
	return o.close()
}

// Append appends the frame.
func (f State) Append(dst []byte) []byte {
	return f.AppendTail(AppendStateHead(dst, f.Sub))
}

// AppendStateHead appends the beginning of a state frame. The rest, which
// [State.AppendTail] appends, is the same for every subscription.
func AppendStateHead(dst []byte, sub string) []byte {
	dst = append(dst, `{"op":"state","sub":`...)
	dst = AppendString(dst, sub)
	return append(dst, ',')
}

// AppendTail appends a state frame without its head, with the closing brace.
func (f State) AppendTail(dst []byte) []byte {
	dst = append(dst, `"version":`...)
	dst = strconv.AppendUint(dst, uint64(f.Version), 10)
	dst = append(dst, `,"position":`...)
	dst = strconv.AppendUint(dst, uint64(f.Position), 10)
	dst = append(dst, `,"data":`...)
	return append(appendRaw(dst, f.Data), '}')
}

// AppendEventHead appends the beginning of an event frame. The rest, which
// [Event.AppendTail] appends, is the same for every subscription.
func AppendEventHead(dst []byte, sub string) []byte {
	dst = append(dst, `{"op":"event","sub":`...)
	dst = AppendString(dst, sub)
	return append(dst, ',')
}

// AppendTail appends an event frame without its head, with the closing brace. With an
// opening brace before it, it is an event without a subscription, as over HTTP.
func (f Event) AppendTail(dst []byte) []byte {
	dst = append(dst, `"stream":`...)
	dst = appendStream(dst, f.Stream)
	dst = append(dst, `,"version":`...)
	dst = strconv.AppendUint(dst, uint64(f.Version), 10)
	dst = append(dst, `,"position":`...)
	dst = strconv.AppendUint(dst, uint64(f.Position), 10)
	dst = append(dst, `,"event":`...)
	dst = AppendString(dst, f.Event)
	dst = append(dst, `,"data":`...)
	dst = appendRaw(dst, f.Data)
	dst = append(dst, `,"time":"`...)
	dst = f.Time.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, `","cause":`...)
	dst = AppendString(dst, f.Cause)
	if f.By != "" {
		dst = append(dst, `,"by":`...)
		dst = AppendString(dst, f.By)
	}
	return append(dst, '}')
}

// Append appends the frame.
func (f Event) Append(dst []byte) []byte {
	if f.Segment != "" {
		return f.AppendTail(AppendSegmentHead(dst, f.Sub, f.Segment))
	}
	return f.AppendTail(AppendEventHead(dst, f.Sub))
}

// Append appends the frame.
func (f Live) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("sub", f.Sub)
	o.optVersion("version", f.Version)
	o.str("cursor", f.Cursor)
	if f.Position != nil {
		o.uint("position", uint64(*f.Position))
	}
	o.optInt("blocked", int64(f.Blocked))
	return o.close()
}

// Append appends the frame.
func (f Heartbeat) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("cursor", f.Cursor)
	if len(f.Behind) > 0 {
		o.name("behind")
		for i, b := range f.Behind {
			sep := byte(',')
			if i == 0 {
				sep = '['
			}
			o.b = append(o.b, sep)
			o.b = append(o.b, `{"sub":`...)
			o.b = AppendString(o.b, b.Sub)
			o.str("cursor", b.Cursor)
			o.b = append(o.b, '}')
		}
		o.b = append(o.b, ']')
	}
	return o.close()
}

// Append appends the frame.
func (f Unsubscribed) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.optStr("id", f.ID)
	o.str("sub", f.Sub)
	o.optStr("code", string(f.Code))
	o.optStr("message", f.Message)
	o.optStr("cursor", f.Cursor)
	return o.close()
}

// Append appends the frame.
func (f Pong) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("id", f.ID)
	return o.close()
}

// Append appends the frame.
func (f Expiring) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.int("in_ms", f.InMS)
	return o.close()
}

// Append appends the frame.
func (f Goodbye) Append(dst []byte) []byte {
	o := open(dst, f.Op())
	o.str("reason", f.Reason)
	o.int("reconnect_in_ms", f.ReconnectInMS)
	return o.close()
}
