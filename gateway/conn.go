package gateway

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

// socket is a session's network connection below the WebSocket. The library
// reads from it; the session writes to it by itself, whole frames. It notes
// when something was last read, and gives each piece of a write that blocks
// the whole grace period, so that only a peer that takes nothing at all runs
// into it.
type socket struct {
	net.Conn
	session  *session
	grace    time.Duration
	lastRead atomic.Int64              // nanoseconds since began
	stalled  bool                      // a write ran into the grace period, or was given up
	ending   atomic.Pointer[[]byte]    // what is written last, once a write was given up
	tryWrite func([]byte) (int, error) // nil if every write may block, as with TLS
}

// began is what sockets count time from. It is the monotonic clock's, so that
// setting the machine's clock forward makes nobody look silent.
var began = time.Now()

// heard notes that there was a sign of life.
func (s *socket) heard() { s.lastRead.Store(int64(time.Since(began))) }

// silent is how long there was none.
func (s *socket) silent() time.Duration {
	return time.Since(began) - time.Duration(s.lastRead.Load())
}

// pieceBytes is how much a peer must take within the grace period.
const pieceBytes = 4 << 10

func (s *socket) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p)
	if n > 0 {
		s.heard()
	}
	return n, err
}

// Write takes what the library writes, in one piece since it fits into the
// library's buffer: a close frame. It goes out between two frames.
func (s *socket) Write(p []byte) (int, error) {
	s.session.closeWith(bytes.Clone(p))
	return len(p), nil
}

// try writes as much as the kernel takes at once.
func (s *socket) try(p []byte) (int, error) {
	if s.tryWrite == nil {
		return 0, nil
	}
	return s.tryWrite(p)
}

// write writes all of p.
func (s *socket) write(p []byte) error {
	written := 0
	for {
		piece := p[written:min(len(p), written+pieceBytes)]
		if err := s.SetWriteDeadline(time.Now().Add(s.grace)); err != nil {
			return err
		}
		if s.ending.Load() != nil {
			s.stalled = true
			return s.lastWords(p[written:])
		}
		n, err := s.Conn.Write(piece)
		written += n
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				if n > 0 && s.ending.Load() == nil { // it took something: a slow reader, but a reader
					continue
				}
				s.stalled = true
				return s.lastWords(p[written:])
			}
			return err
		}
		if written == len(p) {
			return s.SetWriteDeadline(time.Time{}) // one that has passed fails try
		}
	}
}

// giveUp ends the write that is under way: its rest and the ending are written
// as far as the kernel takes them at once.
func (s *socket) giveUp(ending []byte) {
	s.ending.Store(&ending)
	_ = s.SetWriteDeadline(time.Now()) // write looks at ending after it has set its own
}

// finish says that nothing more is written, and leaves the peer so long to
// answer the close frame, or to go.
func (s *socket) finish(grace time.Duration) {
	_ = s.SetReadDeadline(time.Now().Add(grace))
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

// lastWords makes room in the kernel for the rest of a message and a close
// frame, so that a client that wakes up learns why it was closed.
func (s *socket) lastWords(rest []byte) error {
	limitSendBuffer(s.Conn, 4<<20)
	if err := s.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err := s.Conn.Write(rest)
	return err
}

// hijacker hands the WebSocket library a socket instead of the bare
// connection, with buffers that suit many idle connections.
type hijacker struct {
	http.ResponseWriter
	session *session // Hijack sets its socket
}

// Buffers of one connection. Most frames are small, and what is larger passes
// the read buffer by. The library writes nothing but control frames, which
// have at most 127 bytes.
const (
	readBuffer  = 512
	writeBuffer = 128
)

// Hijack implements http.Hijacker.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	cfg := &h.session.g.cfg
	limitSendBuffer(conn, cfg.SendBuffer)
	sock := &socket{Conn: conn, session: h.session, grace: cfg.ReadGrace, tryWrite: nonblocking(conn)}
	sock.heard()
	h.session.socket = sock

	// What arrived together with the handshake is still in the old buffer.
	// The library carries it over by Peek and Reset, which loses nothing as
	// long as it is in the buffer that it is given.
	early := rw.Reader.Buffered()
	reader := bufio.NewReaderSize(sock, readBuffer)
	if early > 0 {
		b, _ := rw.Reader.Peek(early)
		reader = bufio.NewReaderSize(&prefixed{bytes.Clone(b), sock}, max(readBuffer, early))
		_, _ = reader.Peek(early)
	}
	if err := rw.Writer.Flush(); err != nil { // the handshake's answer
		_ = conn.Close()
		return nil, nil, err
	}
	h.session.input = reader
	return sock, bufio.NewReadWriter(reader, bufio.NewWriterSize(sock, writeBuffer)), nil
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
// The session writes them itself, between messages: the library's own give up
// after 5 seconds and take the connection with them, which would end slow
// readers.
func pingFrame() []byte { return []byte{0x89, 0} }

func pongFrame(payload []byte) []byte {
	return append([]byte{0x8a, byte(len(payload))}, payload...)
}

// closeFrame returns a close frame. The reason has at most 123 bytes.
func closeFrame(code int, reason string) []byte {
	b := []byte{0x88, byte(2 + len(reason))}
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return append(b, reason...)
}
