package socket

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// Conn is the connection of one client.
type Conn struct {
	net.Conn
	// Input is the reader for the protocol. It begins with the bytes that
	// arrived together with the handshake.
	Input *bufio.Reader

	onControl func(frame []byte)
	grace     time.Duration
	tryWrite  func([]byte) (int, error) // nil if every write may block, as with TLS
	lastRead  atomic.Int64              // nanoseconds since began
	stalled   bool                      // a write timed out or was given up
	ending    atomic.Pointer[[]byte]    // of GiveUp
}

// Options of a [Conn].
type Options struct {
	// Grace is how long the peer may take nothing while a write blocks.
	Grace time.Duration
	// SendBuffer is the size of the kernel's send buffer in bytes, unless it is
	// 0.
	SendBuffer int
	// OnControl is called with each control frame that the WebSocket library
	// writes: a close frame that answers the client's or refuses its input.
	OnControl func(frame []byte)
	// TryWrite replaces the kernel's write without blocking.
	TryWrite func([]byte) (int, error)
}

// New returns a Conn over a connection.
func New(conn net.Conn, o Options) *Conn {
	c := &Conn{Conn: conn, onControl: o.OnControl, grace: o.Grace, tryWrite: o.TryWrite}
	if o.TryWrite == nil {
		c.tryWrite = nonblocking(conn)
	}
	if o.SendBuffer > 0 {
		setSendBuffer(conn, o.SendBuffer)
	}
	c.Touch()
	return c
}

// began is the time from which lastRead counts. It has a monotonic clock, so no
// client looks silent after the machine's clock was set forward.
var began = time.Now()

// Touch records a sign of life.
func (c *Conn) Touch() { c.lastRead.Store(int64(time.Since(began))) }

// Silence returns the time since the last sign of life.
func (c *Conn) Silence() time.Duration {
	return time.Since(began) - time.Duration(c.lastRead.Load())
}

// SetGrace replaces [Options.Grace]. It must not be called during a write.
func (c *Conn) SetGrace(d time.Duration) { c.grace = d }

// errEnded reports that the client has ended its side of the connection.
var errEnded = errors.New("socket: the client has ended the connection")

// Read implements net.Conn. It never returns io.EOF, which the WebSocket library takes
// for the end of a message, so that a message that was cut off would seem whole.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.Touch()
	}
	if errors.Is(err, io.EOF) {
		err = errEnded
	}
	return n, err
}

// Write receives a control frame of the library. Each call has a whole frame,
// since it fits into the library's buffer.
func (c *Conn) Write(p []byte) (int, error) {
	c.onControl(bytes.Clone(p))
	return len(p), nil
}

// Try writes what the kernel takes without blocking: nothing if the socket is
// full, or if every write may block.
func (c *Conn) Try(p []byte) (int, error) {
	if c.tryWrite == nil {
		return 0, nil
	}
	return c.tryWrite(p)
}

// PieceBytes is the size of one write that may block. Each has a grace period.
const PieceBytes = 4 << 10

// WriteAll writes all of p. It blocks as long as the peer takes something
// within each grace period. If the peer takes nothing, WriteAll writes as much
// as the kernel takes, and [Conn.Stalled] then returns true.
func (c *Conn) WriteAll(p []byte) error {
	written := 0
	for {
		piece := p[written:min(len(p), written+PieceBytes)]
		if err := c.SetWriteDeadline(time.Now().Add(c.grace)); err != nil {
			return err
		}
		if c.ending.Load() != nil {
			c.stalled = true
			return c.flush(p[written:])
		}
		n, err := c.Conn.Write(piece)
		written += n
		if err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				if n > 0 && c.ending.Load() == nil { // slow, but it reads
					continue
				}
				c.stalled = true
				return c.flush(p[written:])
			}
			return err
		}
		if written == len(p) {
			return c.ClearWriteDeadline()
		}
	}
}

// flushTime bounds the last write to a peer that reads nothing.
const flushTime = time.Second

// flush writes the rest of a message into a larger buffer of the kernel, with
// room for a close frame. If the client wakes up, it reads why it was closed.
func (c *Conn) flush(rest []byte) error {
	setSendBuffer(c.Conn, 4<<20)
	if err := c.SetWriteDeadline(time.Now().Add(flushTime)); err != nil {
		return err
	}
	_, err := c.Conn.Write(rest)
	return err
}

// Stalled reports whether a WriteAll ended because the peer took nothing or
// because of GiveUp. Only the goroutine that called WriteAll may call it.
func (c *Conn) Stalled() bool { return c.stalled }

// WriteLast writes a close frame after a WriteAll that stalled.
func (c *Conn) WriteLast(ending []byte) { _, _ = c.Conn.Write(ending) }

// GiveUp interrupts a WriteAll in progress, which then writes as much of its
// message as the kernel takes. The caller of WriteAll must write the ending,
// which [Conn.Ending] returns.
func (c *Conn) GiveUp(ending []byte) {
	c.ending.Store(&ending)
	_ = c.SetWriteDeadline(time.Now()) // WriteAll reads ending after it has set its own deadline
}

// Ending returns the ending that was passed to [Conn.GiveUp], or nil.
func (c *Conn) Ending() []byte {
	if ending := c.ending.Load(); ending != nil {
		return *ending
	}
	return nil
}

// ClearWriteDeadline removes the deadline of an earlier write. A deadline that
// has passed would make Try fail.
func (c *Conn) ClearWriteDeadline() error { return c.SetWriteDeadline(time.Time{}) }

// Finish closes the writing side. The peer has the grace period to answer the
// close frame or to close the connection; then reads fail.
func (c *Conn) Finish(grace time.Duration) {
	_ = c.SetReadDeadline(time.Now().Add(grace))
	if c, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

// GiveUpAfter bounds how long the kernel sends to a peer that does not
// acknowledge. The kernel's default is about a quarter of an hour, and a session
// whose client never sends has no other way to notice that the client has gone.
// GiveUpAfter has an effect only on Linux.
func (c *Conn) GiveUpAfter(d time.Duration) { giveUpAfter(c.Conn, d) }

// netConn returns the connection below TLS.
func netConn(conn net.Conn) net.Conn {
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return conn
}

func setSendBuffer(conn net.Conn, bytes int) {
	if c, ok := netConn(conn).(interface{ SetWriteBuffer(int) error }); ok {
		_ = c.SetWriteBuffer(bytes) // an optimization: the session works without it
	}
}
