package stomp

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/proto/command"
)

// Version is a version of the protocol.
type Version uint8

// The versions differ in how headers are written. In 1.2, `\r`, `\n`, `\c` and
// `\\` stand for CR, LF, colon and backslash; 1.1 has them without `\r`; 1.0 has
// none, and its values may be padded with spaces, which do not belong to them.
const (
	V10 Version = iota
	V11
	V12
)

// String returns the version as in the headers accept-version and version.
func (v Version) String() string { return [...]string{"1.0", "1.1", "1.2"}[v] }

// Header is a header of a frame.
type Header struct{ Name, Value string }

// Frame is a client's frame.
type Frame struct {
	Command string
	Headers []Header // in the order of the frame; see Get for repeated ones
	Body    []byte
}

// Get returns the value of the first header with the name.
func (f *Frame) Get(name string) (value string, ok bool) {
	for i := range f.Headers {
		if f.Headers[i].Name == name {
			return f.Headers[i].Value, true
		}
	}
	return "", false
}

// Limits bound what a frame may have. A frame past a limit is refused before
// memory is taken for it.
type Limits struct {
	Headers     int // headers of a frame
	HeaderBytes int // bytes of the command and the header lines, with their ends
	BodyBytes   int // bytes of the body
}

// MaxCommandBytes is the longest command of a frame in bytes.
const MaxCommandBytes = 32

// Error reports a frame that cannot be read. No frame after it can be read
// either, since its end is unknown.
type Error struct {
	Message  string // a sentence for the client: what is wrong, what to do
	TooLarge bool   // a limit was exceeded
	Receipt  string // the frame's header receipt; "" if it has none or was not read
}

// Error implements error.
func (e *Error) Error() string { return "stomp: " + e.Message }

// Decoder cuts frames out of a stream of bytes. A frame may span calls of
// [Decoder.Decode], and the data of a call may hold several frames.
//
// A Decoder keeps the unfinished frame: at most twice the bytes of its limits,
// and the headers' strings. It must not be used concurrently.
type Decoder struct {
	Limits Limits
	// Version is how the headers of later frames are read. It is V10 until
	// CONNECTED was sent: frames that connect have no escapes in any version.
	Version Version

	state       state
	frame       *Frame // from its command line on
	headerBytes int    // of the frame, without part
	length      int    // of the body in bytes; -1 if NUL ends it
	part        []byte // an unfinished line or body
	err         error
}

type state uint8

const (
	inCommand state = iota
	inHeaders
	inBody
)

// Decode reads up to the end of the next frame, and returns the frame and the
// rest of data. The frame is nil if data ends before; then there is no rest, and
// the next call continues. Ends of line before a frame are heart-beats, and are
// skipped. The error is an *[Error], which all later calls return too.
//
// The frame's body may share memory with data. The Decoder does not use a frame
// after it was returned.
func (d *Decoder) Decode(data []byte) (f *Frame, rest []byte, err error) {
	for d.err == nil && f == nil && len(data) > 0 {
		if d.state == inBody {
			f, data, d.err = d.readBody(data)
		} else {
			data, d.err = d.readLine(data)
		}
	}
	if d.err != nil {
		return nil, nil, d.err
	}
	return f, data, nil
}

// readLine reads a line of the command and the headers, or keeps its beginning.
func (d *Decoder) readLine(data []byte) (rest []byte, err error) {
	most := d.mostLineBytes()
	room := most - len(d.part)
	near := data[:min(len(data), room+1)]
	end := bytes.IndexByte(near, '\n')
	switch nul := bytes.IndexByte(near, 0); {
	case nul >= 0 && (end < 0 || nul < end):
		return nil, d.unexpectedNUL()
	case end < 0 && len(data) > room, end >= room:
		return nil, d.lineTooLong()
	case end < 0:
		d.keep(data, most)
		return nil, nil
	}
	line := data[:end]
	if len(d.part) > 0 {
		d.keep(line, most)
		line, d.part = d.part, d.part[:0]
	}
	return data[end+1:], d.take(line)
}

// take handles a complete line.
func (d *Decoder) take(line []byte) error {
	bytesRead := len(line) + 1
	line = bytes.TrimSuffix(line, []byte{'\r'})
	switch {
	case d.state == inCommand && len(line) == 0: // a heart-beat
		return nil
	case d.state == inCommand:
		d.headerBytes = bytesRead
		return d.begin(line)
	case len(line) == 0:
		return d.endHeaders()
	default:
		d.headerBytes += bytesRead
		return d.addHeader(line)
	}
}

// mostLineBytes returns the bytes that the next line may have, with its end.
func (d *Decoder) mostLineBytes() int {
	if d.state == inCommand {
		return MaxCommandBytes + len("\r\n")
	}
	// The empty line that ends the headers does not count.
	return max(d.Limits.HeaderBytes-d.headerBytes, len("\r\n"))
}

func (d *Decoder) lineTooLong() error {
	if d.state == inCommand {
		return d.invalid("the command of a frame has more than %d bytes: begin a frame with a command on a line of its own, such as SEND", MaxCommandBytes)
	}
	return d.tooLarge("the headers of a frame have more than %d bytes: shorten them, or use the body", d.Limits.HeaderBytes)
}

// unexpectedNUL refuses a frame that ends before its body. A body that is longer
// than its content-length looks the same.
func (d *Decoder) unexpectedNUL() error {
	if d.state == inCommand {
		return d.invalid("a NUL stands in the command of a frame: end each frame with one NUL, and give content-length if its body contains NUL")
	}
	return d.invalid("a NUL stands in the headers of a frame: end the headers with an empty line")
}

// keep appends data to the unfinished line or body, which ends up with at most
// most bytes. Memory grows with the data that has arrived.
func (d *Decoder) keep(data []byte, most int) {
	if need := len(d.part) + len(data); need > cap(d.part) {
		grown := make([]byte, len(d.part), min(most, max(need, 2*cap(d.part), 64)))
		copy(grown, d.part)
		d.part = grown
	}
	d.part = append(d.part, data...)
}

func (d *Decoder) begin(line []byte) error {
	if len(line) > MaxCommandBytes {
		return d.lineTooLong()
	}
	if !utf8.Valid(line) {
		return d.invalid("the command of a frame is not UTF-8: begin a frame with a command such as SEND")
	}
	d.frame = &Frame{Command: string(line)}
	d.state = inHeaders
	return nil
}

func (d *Decoder) addHeader(line []byte) error {
	if d.headerBytes > d.Limits.HeaderBytes {
		return d.lineTooLong()
	}
	if len(d.frame.Headers) == d.Limits.Headers {
		return d.tooLarge("a frame has more than %d headers: send fewer, or use the body", d.Limits.Headers)
	}
	text := string(line)
	if !utf8.ValidString(text) {
		return d.invalid("the header line %s is not UTF-8: encode headers in UTF-8", command.Quote(text))
	}
	name, value, ok := strings.Cut(text, ":")
	if !ok || name == "" {
		return d.invalid("the header line %s is not name:value: end the headers with an empty line", command.Quote(text))
	}
	version := headerVersion(d.Version, d.frame.Command)
	h := Header{}
	var valid bool
	if h.Name, valid = unescape(version, name); valid {
		h.Value, valid = unescape(version, value)
	}
	if !valid {
		return d.invalid("the header line %s has an undefined escape: STOMP %s has %s", command.Quote(text), version, escapeList[version])
	}
	if d.Version == V10 {
		h.Value = strings.Trim(h.Value, " ")
	}
	if d.frame.Headers == nil {
		d.frame.Headers = make([]Header, 0, min(8, d.Limits.Headers))
	}
	d.frame.Headers = append(d.frame.Headers, h)
	return nil
}

// endHeaders begins the body.
func (d *Decoder) endHeaders() error {
	d.length = -1
	if text, ok := d.frame.Get("content-length"); ok {
		n, err := strconv.ParseUint(text, 10, 64)
		switch {
		case err != nil && !isNumber(text):
			return d.invalid("content-length is %s: give the length of the body in bytes", command.Quote(text))
		case err != nil || n > uint64(d.Limits.BodyBytes):
			return d.bodyTooLarge()
		}
		d.length = int(n)
	}
	d.state = inBody
	d.part = nil // of a header; a body must not share it
	return nil
}

// isNumber reports whether text consists of digits.
func isNumber(text string) bool { return text != "" && strings.Trim(text, "0123456789") == "" }

// readBody reads the body and its NUL, or keeps its beginning.
func (d *Decoder) readBody(data []byte) (f *Frame, rest []byte, err error) {
	if d.length >= 0 {
		return d.readLength(data)
	}
	most := d.Limits.BodyBytes - len(d.part)
	end := bytes.IndexByte(data[:min(len(data), most+1)], 0)
	switch {
	case end < 0 && len(data) > most:
		return nil, nil, d.bodyTooLarge()
	case end < 0:
		d.keep(data, d.Limits.BodyBytes)
		return nil, nil, nil
	}
	return d.finish(data[:end], d.Limits.BodyBytes), data[end+1:], nil
}

// readLength reads a body whose length is known.
func (d *Decoder) readLength(data []byte) (f *Frame, rest []byte, err error) {
	end := d.length - len(d.part)
	if len(data) <= end {
		d.keep(data, d.length)
		return nil, nil, nil
	}
	if data[end] != 0 {
		return nil, nil, d.invalid("no NUL follows the %d bytes of content-length: it counts the bytes of the body, not its characters, and a NUL ends the frame", d.length)
	}
	return d.finish(data[:end], d.length), data[end+1:], nil
}

// finish returns the frame with the last bytes of its body.
func (d *Decoder) finish(body []byte, most int) *Frame {
	f := d.frame
	f.Body = body[:len(body):len(body)]
	if len(d.part) > 0 {
		d.keep(body, most)
		f.Body = d.part
	}
	d.frame, d.part, d.state = nil, nil, inCommand
	return f
}

func (d *Decoder) bodyTooLarge() error {
	return d.tooLarge("the body of a frame has more than %d bytes: send smaller bodies", d.Limits.BodyBytes)
}

func (d *Decoder) invalid(format string, args ...any) error {
	e := &Error{Message: fmt.Sprintf(format, args...)}
	if d.frame != nil {
		e.Receipt, _ = d.frame.Get("receipt")
	}
	d.frame, d.part = nil, nil
	return e
}

func (d *Decoder) tooLarge(format string, args ...any) error {
	e := d.invalid(format, args...).(*Error)
	e.TooLarge = true
	return e
}
