package socket

import "encoding/binary"

// The first byte of a server's frames (RFC 6455, 5.2): the bit Fin and an
// opcode.
const (
	firstText   = 0x81
	firstBinary = 0x82
	firstClose  = 0x88
	firstPing   = 0x89
	firstPong   = 0x8a
)

// HeaderRoom is the largest header of a server's frame (RFC 6455, 5.2; servers
// do not mask).
const HeaderRoom = 10

// Text makes a text message of b, whose first HeaderRoom bytes are free for the
// header. The message shares b's memory.
func Text(b []byte) []byte { return message(b, firstText) }

// Binary is Text for a binary message.
func Binary(b []byte) []byte { return message(b, firstBinary) }

func message(b []byte, first byte) []byte {
	header := make([]byte, 0, HeaderRoom)
	header = append(header, first)
	switch payload := len(b) - HeaderRoom; {
	case payload <= 125:
		header = append(header, byte(payload))
	case payload <= 1<<16-1:
		header = binary.BigEndian.AppendUint16(append(header, 126), uint16(payload))
	default:
		header = binary.BigEndian.AppendUint64(append(header, 127), uint64(payload))
	}
	message := b[HeaderRoom-len(header):]
	copy(message, header)
	return message
}

// Ping returns an empty ping. The session writes pings and pongs itself, between
// messages: those of the library time out after 5 seconds and close the
// connection, which would disconnect slow readers.
func Ping() []byte { return []byte{firstPing, 0} }

// Pong returns the answer to a ping, whose payload has at most 125 bytes.
func Pong(payload []byte) []byte {
	return append([]byte{firstPong, byte(len(payload))}, payload...)
}

// Close returns a close frame. The reason has at most 123 bytes.
func Close(code int, reason string) []byte {
	b := []byte{firstClose, byte(2 + len(reason))}
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return append(b, reason...)
}
