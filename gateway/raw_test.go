package gateway_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/ganglion-es/ganglion/proto/frame"
)

// raw is a client without a WebSocket library: it sends any bytes, and checks
// that every frame of the server is one that a server may send.
type raw struct {
	t    testing.TB
	conn *net.TCPConn
	r    *bufio.Reader
	got  []string // lines of messages that were read and not yet looked at
}

// connectRaw opens a connection and sends nothing.
func (n *node) connectRaw() *raw {
	n.w.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		n.w.t.Fatal(err)
	}
	n.w.t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		n.w.t.Fatal(err)
	}
	return &raw{t: n.w.t, conn: conn.(*net.TCPConn), r: bufio.NewReader(conn)}
}

// request is a handshake, with some lines of its header replaced or added, or
// left out when they end with a colon.
func request(lines ...string) []byte {
	header := []string{
		"GET /v1/ws HTTP/1.1", "Host: gateway.example", "Upgrade: websocket", "Connection: Upgrade",
		"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
	}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ":")
		i := slices.IndexFunc(header, func(h string) bool { return strings.HasPrefix(h, name+":") })
		switch {
		case strings.Contains(line, " HTTP/"):
			header[0] = line
		case i < 0:
			header = append(header, line)
		case value == "":
			header = slices.Delete(header, i, i+1)
		default:
			header[i] = line
		}
	}
	return []byte(strings.Join(header, "\r\n") + "\r\n\r\n")
}

// openRaw opens a connection, and a WebSocket on it.
func (n *node) openRaw() *raw {
	n.w.t.Helper()
	c := n.connectRaw()
	c.send(request())
	c.wantUpgrade()
	return c
}

// wantUpgrade reads the answer to a handshake.
func (c *raw) wantUpgrade() *http.Response {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	// The example of RFC 6455, 1.3.
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		c.t.Fatalf("the handshake was answered with %s %v", resp.Status, resp.Header)
	}
	return resp
}

// send sends each part by itself. That the server has closed the connection
// meanwhile is seen when reading.
func (c *raw) send(parts ...[]byte) {
	c.t.Helper()
	for _, p := range parts {
		if _, err := c.conn.Write(p); err != nil {
			c.t.Logf("send: %v", err)
			return
		}
	}
}

// Opcodes, and the bits of a frame's first byte (RFC 6455, 5.2).
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa

	fin                    = 0x80
	rsv1, rsv2, rsv3, mask = 0x40, 0x20, 0x10, 0x80
)

// masked makes a frame as a client has to send it. first is the opcode and the
// bits beside it.
func masked[P string | []byte](first byte, payload P) []byte {
	header := []byte{first}
	switch n := len(payload); {
	case n < 126:
		header = append(header, mask|byte(n))
	case n < 1<<16:
		header = binary.BigEndian.AppendUint16(append(header, mask|126), uint16(n))
	default:
		header = binary.BigEndian.AppendUint64(append(header, mask|127), uint64(n))
	}
	return maskedWith(header, payload)
}

// maskedWith adds a mask and the masked payload to a header.
func maskedWith[P string | []byte](header []byte, payload P) []byte {
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	b := append(bytes.Clone(header), key[:]...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i%4])
	}
	return b
}

func text(payload string) []byte { return masked(fin|opText, payload) }

// closing is a close frame with a code and a reason.
func closing(code int, reason string) []byte {
	return masked(fin|opClose, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

// next returns the next line of a message, or "ping …", "pong …", "close CODE …"
// and at the end "end".
func (c *raw) next() string {
	c.t.Helper()
	for len(c.got) == 0 {
		opcode, payload, err := c.frame()
		switch {
		case errors.Is(err, io.EOF), err != nil && strings.Contains(err.Error(), "connection reset"):
			return "end"
		case err != nil:
			c.t.Fatal(err)
		case opcode == opText:
			c.got = strings.Split(string(payload), "\n")
		case opcode == opPing:
			return "ping " + string(payload)
		case opcode == opPong:
			return "pong " + string(payload)
		case len(payload) == 0:
			return "close"
		default:
			return fmt.Sprintf("close %d %s", binary.BigEndian.Uint16(payload), payload[2:])
		}
	}
	line := c.got[0]
	c.got = c.got[1:]
	return line
}

// answer returns the next line of a message as a frame of the protocol.
func (c *raw) answer() frame.Frame {
	c.t.Helper()
	line := c.next()
	f, err := frame.ParseAnswer([]byte(line))
	if err != nil {
		c.t.Fatalf("%.200s: %v", line, err)
	}
	return f
}

// frame reads a frame.
func (c *raw) frame() (opcode byte, payload []byte, err error) {
	var header [10]byte
	if _, err := io.ReadFull(c.r, header[:2]); err != nil {
		return 0, nil, err
	}
	opcode = header[0] & 0xf
	size, least := uint64(header[1]), uint64(0)
	switch size {
	case 126:
		_, err = io.ReadFull(c.r, header[2:4])
		size, least = uint64(binary.BigEndian.Uint16(header[2:])), 126
	case 127:
		_, err = io.ReadFull(c.r, header[2:10])
		size, least = binary.BigEndian.Uint64(header[2:]), 1<<16
	}
	if err != nil {
		return 0, nil, err
	}
	switch {
	case header[0]&0xf0 != fin:
		return 0, nil, fmt.Errorf("the server sent a frame that begins with %#x: reserved bits, or a fragment", header[0])
	case header[1]&mask != 0:
		return 0, nil, errors.New("the server masked a frame")
	case size < least:
		return 0, nil, fmt.Errorf("the server wrote a length of %d in too many bytes", size)
	case opcode >= opClose && size > 125, opcode == opClose && size == 1:
		return 0, nil, fmt.Errorf("the server sent a control frame of %d bytes", size)
	case !slices.Contains([]byte{opText, opClose, opPing, opPong}, opcode):
		return 0, nil, fmt.Errorf("the server sent the opcode %#x", opcode)
	}
	payload = make([]byte, size)
	if _, err := io.ReadFull(c.r, payload); err != nil {
		return 0, nil, err
	}
	if opcode == opText && !utf8.Valid(payload) {
		return 0, nil, fmt.Errorf("the server sent text that is not UTF-8: %q", payload)
	}
	return opcode, payload, nil
}

// want reads until all these lines have come, in any order, and nothing else.
func (c *raw) want(lines ...string) {
	c.t.Helper()
	var got []string
	for range lines {
		got = append(got, c.next())
	}
	slices.Sort(got)
	slices.Sort(lines)
	if !slices.Equal(got, lines) {
		c.t.Errorf("got %q, want %q", got, lines)
	}
}

// wantEnd reads a close frame with the code, unless it is 0, and then the end
// of the connection.
func (c *raw) wantEnd(code int) {
	c.t.Helper()
	closed := c.next()
	if code == 0 && closed == "end" {
		return
	}
	if !strings.HasPrefix(closed, strings.TrimSpace("close "+strings.TrimPrefix(fmt.Sprint(code), "0"))) {
		c.t.Errorf("got %q, want a close frame with the code %d", closed, code)
	}
	if end := c.next(); end != "end" {
		c.t.Errorf("after the close frame came %q", end)
	}
}
