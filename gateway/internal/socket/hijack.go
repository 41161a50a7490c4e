package socket

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
)

// Hijacker hands the WebSocket library a [Conn] instead of the bare connection,
// with buffers that suit many idle connections.
type Hijacker struct {
	http.ResponseWriter
	Options Options
	Conn    *Conn // set by Hijack
}

// Sizes of a connection's buffers. Most frames are small, and larger ones
// bypass the read buffer. The library writes only control frames, which have at
// most 127 bytes.
const (
	readBuffer  = 512
	writeBuffer = 128
)

// Hijack implements http.Hijacker.
func (h *Hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	c := New(conn, h.Options)
	h.Conn = c

	// The bytes that arrived together with the handshake are still in the old
	// buffer. Move them to the buffer that the library gets, from which it
	// copies them with Peek and Reset.
	early := rw.Reader.Buffered()
	c.Input = bufio.NewReaderSize(c, readBuffer)
	if early > 0 {
		b, _ := rw.Reader.Peek(early)
		c.Input = bufio.NewReaderSize(&prefixed{bytes.Clone(b), c}, max(readBuffer, early))
		_, _ = c.Input.Peek(early)
	}
	if err := rw.Writer.Flush(); err != nil { // the response to the handshake
		_ = conn.Close()
		return nil, nil, err
	}
	return c, bufio.NewReadWriter(c.Input, bufio.NewWriterSize(c, writeBuffer)), nil
}

// prefixed reads the early bytes, and then from the connection.
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
