// Package sockettest makes and reads WebSocket frames for tests of RFC 6455,
// which need invalid bits, lengths and fragments, too.
package sockettest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"
)

// Opcodes, and the bits of a frame's first two bytes (RFC 6455, 5.2).
const (
	Continuation = 0x0
	OpText       = 0x1
	OpBinary     = 0x2
	OpClose      = 0x8
	OpPing       = 0x9
	OpPong       = 0xa

	Fin                    = 0x80
	RSV1, RSV2, RSV3, Mask = 0x40, 0x20, 0x10, 0x80
)

// Masked makes a frame as a client must send it. first is the frame's first
// byte: its opcode, and the bits Fin and RSV1 to RSV3.
func Masked[P string | []byte](first byte, payload P) []byte {
	header := []byte{first}
	switch n := len(payload); {
	case n < 126:
		header = append(header, Mask|byte(n))
	case n < 1<<16:
		header = binary.BigEndian.AppendUint16(append(header, Mask|126), uint16(n))
	default:
		header = binary.BigEndian.AppendUint64(append(header, Mask|127), uint64(n))
	}
	return MaskedWith(header, payload)
}

// MaskedWith adds a mask and the masked payload to a header.
func MaskedWith[P string | []byte](header []byte, payload P) []byte {
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	b := append(bytes.Clone(header), key[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i%4])
	}
	return b
}

// Text makes a text message in one frame.
func Text(payload string) []byte { return Masked(Fin|OpText, payload) }

// Fragments makes a text message with one frame for each byte.
func Fragments(message string) (frames [][]byte) {
	for i := range len(message) {
		first := byte(Continuation)
		if i == 0 {
			first = OpText
		}
		if i == len(message)-1 {
			first |= Fin
		}
		frames = append(frames, Masked(first, message[i:i+1]))
	}
	return frames
}

// Close makes a close frame with a code and a reason.
func Close(code int, reason string) []byte {
	return Masked(Fin|OpClose, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

// Read reads a frame of a server. It returns an error for a frame that no server
// may send, and for a fragment or a binary message, which this server never
// sends.
func Read(r *bufio.Reader) (opcode byte, payload []byte, err error) {
	var header [10]byte
	if _, err := io.ReadFull(r, header[:2]); err != nil {
		return 0, nil, err
	}
	opcode = header[0] & 0xf
	size, least := uint64(header[1]), uint64(0)
	switch size {
	case 126:
		_, err = io.ReadFull(r, header[2:4])
		size, least = uint64(binary.BigEndian.Uint16(header[2:])), 126
	case 127:
		_, err = io.ReadFull(r, header[2:10])
		size, least = binary.BigEndian.Uint64(header[2:]), 1<<16
	}
	if err != nil {
		return 0, nil, err
	}
	switch {
	case header[0]&0xf0 != Fin:
		return 0, nil, fmt.Errorf("the server sent a frame that begins with %#x: reserved bits, or a fragment", header[0])
	case header[1]&Mask != 0:
		return 0, nil, errors.New("the server masked a frame")
	case size < least:
		return 0, nil, fmt.Errorf("the server wrote a length of %d in too many bytes", size)
	case opcode >= OpClose && size > 125, opcode == OpClose && size == 1:
		return 0, nil, fmt.Errorf("the server sent a control frame of %d bytes", size)
	case !slices.Contains([]byte{OpText, OpClose, OpPing, OpPong}, opcode):
		return 0, nil, fmt.Errorf("the server sent the opcode %#x", opcode)
	}
	payload = make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, err
	}
	if opcode == OpText && !utf8.Valid(payload) {
		return 0, nil, fmt.Errorf("the server sent text that is not UTF-8: %q", payload)
	}
	return opcode, payload, nil
}
