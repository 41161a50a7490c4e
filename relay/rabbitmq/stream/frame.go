package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Keys of commands. That of a response has the bit isResponse too.
const (
	declarePublisher uint16 = 0x01
	publish          uint16 = 0x02
	publishConfirm   uint16 = 0x03
	publishError     uint16 = 0x04
	querySequence    uint16 = 0x05
	createStream     uint16 = 0x0d
	metadata         uint16 = 0x0f
	metadataUpdate   uint16 = 0x10
	peerProperties   uint16 = 0x11
	saslHandshake    uint16 = 0x12
	saslAuthenticate uint16 = 0x13
	tune             uint16 = 0x14
	open             uint16 = 0x15
	closing          uint16 = 0x16
	heartbeat        uint16 = 0x17

	isResponse uint16 = 0x8000
	version    uint16 = 1
)

// Codes of responses that are told apart.
const (
	codeOK             uint16 = 0x01
	codeNoStream       uint16 = 0x02
	codeStreamExists   uint16 = 0x05
	codeNotAvailable   uint16 = 0x06
	codeAuthentication uint16 = 0x08
	codeLoopback       uint16 = 0x0b
	codeVirtualHost    uint16 = 0x0c
	codeRefused        uint16 = 0x10
	codePrecondition   uint16 = 0x11
)

// reasons are the meanings of codes.
var reasons = map[uint16]string{
	codeNoStream: "the stream does not exist", codeStreamExists: "the stream exists", codeNotAvailable: "the stream has no leader at the moment",
	0x07: "it does not accept passwords (SASL PLAIN)", codeAuthentication: "wrong user or password", 0x09: "SASL error",
	codeLoopback: "the user may connect from the broker's own machine only", codeVirtualHost: "the virtual host does not exist, or the user may not use it",
	0x0d: "unknown frame", 0x0e: "the frame is too large", 0x0f: "internal error", codeRefused: "the user may not do this",
	codePrecondition: "a precondition failed", 0x12: "the publisher does not exist",
}

// A codeError is a response other than OK.
type codeError struct {
	key, code uint16
}

func (e *codeError) Error() string {
	return fmt.Sprintf("%s (code %d in answer to command %d)", reason(e.code), e.code, e.key)
}

func reason(code uint16) string {
	if text := reasons[code]; text != "" {
		return text
	}
	return "unknown reason"
}

// hasCode reports whether an error is a response with a code.
func hasCode(err error, code uint16) bool {
	var e *codeError
	return errors.As(err, &e) && e.code == code
}

// A frame is a command that is written: its length, its key and version, its content.
type frame []byte

func newFrame(key uint16) frame {
	return frame(make([]byte, 4, 64)).u16(key).u16(version)
}

func (f frame) u8(v uint8) frame   { return append(f, v) }
func (f frame) u16(v uint16) frame { return binary.BigEndian.AppendUint16(f, v) }
func (f frame) u32(v uint32) frame { return binary.BigEndian.AppendUint32(f, v) }
func (f frame) u64(v uint64) frame { return binary.BigEndian.AppendUint64(f, v) }

func (f frame) text(s string) frame { return append(f.u16(uint16(len(s))), s...) }

// pairs appends a map, given as names and values in turn.
func (f frame) pairs(list ...string) frame {
	f = f.u32(uint32(len(list) / 2))
	for _, s := range list {
		f = f.text(s)
	}
	return f
}

// done sets the length.
func (f frame) done() []byte {
	binary.BigEndian.PutUint32(f, uint32(len(f)-4))
	return f
}

// errShort reports a frame that ends before its content does.
var errShort = errors.New("it sent a frame that ends too early: is this the port of streams?")

// content is what remains to be read of a frame. After the end, values are zero and short
// is true.
type content struct {
	rest  []byte
	short bool
}

func (c *content) next(n int) []byte {
	if n > len(c.rest) {
		c.rest, c.short = nil, true
		return make([]byte, min(n, 8))
	}
	b := c.rest[:n]
	c.rest = c.rest[n:]
	return b
}

func (c *content) u8() uint8   { return c.next(1)[0] }
func (c *content) u16() uint16 { return binary.BigEndian.Uint16(c.next(2)) }
func (c *content) u32() uint32 { return binary.BigEndian.Uint32(c.next(4)) }
func (c *content) u64() uint64 { return binary.BigEndian.Uint64(c.next(8)) }

// text reads a string. The length -1 means none.
func (c *content) text() string {
	n := c.u16()
	if n == 0xffff || int(n) > len(c.rest) {
		c.short = c.short || n != 0xffff
		return ""
	}
	return string(c.next(int(n)))
}

// list calls one for each element of a list, until the frame ends.
func (c *content) list(one func()) {
	for n := c.u32(); n > 0 && !c.short; n-- {
		one()
	}
}
