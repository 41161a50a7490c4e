package gateway

import (
	"bufio"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// socket is a session's network connection below the WebSocket. It notes when
// something was last read, and gives each piece of a write the whole grace
// period, so that only a peer that takes nothing at all runs into it.
//
// Deadlines live here and not in contexts: an expired context makes
// coder/websocket close the connection.
type socket struct {
	net.Conn
	grace    time.Duration
	lastRead atomic.Int64 // Unix nanoseconds
	stalled  atomic.Bool  // a write ran into the grace period
}

// pieceBytes is how much a peer must take within the grace period.
const pieceBytes = 4 << 10

func (s *socket) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if n > 0 {
		s.lastRead.Store(time.Now().UnixNano())
	}
	return n, err
}

func (s *socket) Write(p []byte) (int, error) {
	written := 0
	for {
		piece := p[written:min(len(p), written+pieceBytes)]
		if err := s.SetWriteDeadline(time.Now().Add(s.grace)); err != nil {
			return written, err
		}
		n, err := s.Conn.Write(piece)
		written += n
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				if n > 0 { // it took something: a slow reader, but a reader
					continue
				}
				s.stalled.Store(true)
				return s.lastWords(p, written)
			}
			return written, err
		}
		if written == len(p) {
			return written, nil
		}
	}
}

// lastWords makes room in the kernel for the rest of a message and a close
// frame, so that a client that wakes up learns why it was closed.
func (s *socket) lastWords(p []byte, written int) (int, error) {
	limitSendBuffer(s.Conn, 4<<20)
	s.grace = time.Second
	if err := s.SetWriteDeadline(time.Now().Add(s.grace)); err != nil {
		return written, err
	}
	n, err := s.Conn.Write(p[written:])
	return written + n, err
}

// hijacker hands the WebSocket library a socket instead of the bare
// connection, with buffers that suit many idle connections.
type hijacker struct {
	http.ResponseWriter
	grace      time.Duration
	sendBuffer int
	socket     *socket // set by Hijack
}

// Buffers of one connection. Most frames are small; what is larger passes the
// buffers by.
const (
	readBuffer  = 1 << 10
	writeBuffer = 256
)

// Hijack implements http.Hijacker.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	limitSendBuffer(conn, h.sendBuffer)
	h.socket = &socket{Conn: conn, grace: h.grace}
	h.socket.lastRead.Store(time.Now().UnixNano())

	// What arrived together with the handshake is still in the old buffer.
	// The library carries it over by Peek and Reset, which loses nothing as
	// long as it is in the buffer that it is given.
	early := rw.Reader.Buffered()
	reader := bufio.NewReaderSize(h.socket, readBuffer)
	if early > 0 {
		b, _ := rw.Reader.Peek(early)
		reader = bufio.NewReaderSize(&prefixed{append([]byte(nil), b...), h.socket}, max(readBuffer, early))
		_, _ = reader.Peek(early)
	}
	if err := rw.Writer.Flush(); err != nil { // the handshake's answer
		_ = conn.Close()
		return nil, nil, err
	}
	return h.socket, bufio.NewReadWriter(reader, bufio.NewWriterSize(h.socket, writeBuffer)), nil
}

// prefixed reads what arrived early, then the connection.
type prefixed struct {
	early []byte
	conn  net.Conn
}

func (p *prefixed) Read(b []byte) (int, error) {
	if len(p.early) == 0 {
		return p.conn.Read(b)
	}
	n := copy(b, p.early)
	p.early = p.early[n:]
	return n, nil
}

func limitSendBuffer(conn net.Conn, bytes int) {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = t.NetConn()
	}
	if c, ok := conn.(interface{ SetWriteBuffer(int) error }); ok {
		_ = c.SetWriteBuffer(bytes) // an optimization: the session works without
	}
}

// pingFrame and pongFrame return control frames of a server (RFC 6455, 5.5).
// The session's writer writes them itself, between messages: the library's
// own give up after 5 seconds and take the connection with them, which would
// end slow readers.
func pingFrame() []byte { return []byte{0x89, 0} }

func pongFrame(payload []byte) []byte {
	return append([]byte{0x8a, byte(len(payload))}, payload...)
}

// closeFrame is a close that waits for no answer.
func closeFrame(code int, reason string) []byte {
	b := []byte{0x88, byte(2 + len(reason))}
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return append(b, reason...)
}
