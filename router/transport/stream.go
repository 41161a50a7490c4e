package transport

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Sender is the sending half of a stream. One goroutine at a time may send.
type Sender[M any] interface {
	// Send sends a message. It blocks while the peer does not read and the kernel's
	// buffers are full. When it returns, the message can be changed. If it fails, the
	// stream is broken, and Recv returns why.
	Send(*M) error
	// Context ends with the stream, at the latest when Recv or Send fails.
	Context() context.Context
}

// Receiver is the receiving half of a stream. One goroutine at a time may receive.
type Receiver[M any] interface {
	// Recv returns the next message, which the caller owns. The error is io.EOF if the
	// server has ended the stream in order, and else an [Error] or that of a context.
	Recv() (*M, error)
	// Context ends with the stream.
	Context() context.Context
}

// Duplex is a stream in both directions.
type Duplex[Out, In any] interface {
	Sender[Out]
	Recv() (*In, error)
}

// message is a pointer to a message of proto/peer.
type message[M any] interface {
	*M
	SizeVT() int
	MarshalToSizedBufferVT([]byte) (int, error)
	UnmarshalVT([]byte) error
}

// The kinds of frames, and the bytes before a frame's content.
const (
	kindMessage = 0
	kindEnd     = 1
	frameHeader = 4
)

// keepBuffer is the largest buffer that a stream keeps between messages, in bytes.
const keepBuffer = 128 << 10

// lingers bounds how long a server waits until its client has read the end of a stream.
const lingers = time.Second

// stream is a connection after its upgrade.
type stream struct {
	conn   net.Conn
	r      *bufio.Reader
	ctx    context.Context
	cancel context.CancelCauseFunc
	out    []byte // the buffer of frames that are sent

	reading sync.Mutex
	in      []byte // the buffer of frames that are received
	ended   bool   // nothing is received any more
	ending  atomic.Bool
}

var errEnded = Errorf(Canceled, "the stream has ended")

func (s *stream) Context() context.Context { return s.ctx }

// buffer returns a buffer of n bytes, from an earlier one if that is large enough.
func buffer(earlier []byte, n int) []byte {
	if n <= cap(earlier) && cap(earlier) <= keepBuffer {
		return earlier[:n]
	}
	return make([]byte, n, max(n, 512))
}

func (s *stream) frame(kind byte, size int) []byte {
	s.out = buffer(s.out, frameHeader+size)
	binary.BigEndian.PutUint32(s.out, uint32(kind)<<24|uint32(size))
	return s.out
}

func (s *stream) write(frame []byte) error {
	if _, err := s.conn.Write(frame); err != nil {
		return s.broken(err)
	}
	return nil
}

// broken returns the error of a stream whose connection has failed, and ends its context.
func (s *stream) broken(err error) error {
	if s.ending.Load() {
		return errEnded // the connection stays, so that the client gets the end
	}
	defer s.cancel(errEnded)
	if cause := context.Cause(s.ctx); cause != nil {
		return cause
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Errorf(Unavailable, "the peer closed the connection within a stream")
	}
	return Errorf(Unavailable, "the connection to the peer broke: %w", err)
}

// read reads a frame. The content is valid until the next call.
func (s *stream) read() (kind byte, content []byte, err error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.ended {
		return 0, nil, errEnded
	}
	var header [frameHeader]byte
	if _, err := io.ReadFull(s.r, header[:]); err != nil {
		return 0, nil, s.broken(err)
	}
	head := binary.BigEndian.Uint32(header[:])
	size := int(head & 0xff_ffff)
	if size > MaxMessage {
		return 0, nil, Errorf(ResourceExhausted, "the peer sends a message of %d bytes, at most %d are allowed", size, MaxMessage)
	}
	s.in = buffer(s.in, size)
	if _, err := io.ReadFull(s.r, s.in); err != nil {
		return 0, nil, s.broken(err)
	}
	return byte(head >> 24), s.in, nil
}

// nextField is added to each message in builds for upgrade tests; see next.go.
var nextField []byte

func send[M any, P message[M]](s *stream, m P) error {
	size := m.SizeVT() + len(nextField)
	if size > MaxMessage {
		return Errorf(ResourceExhausted, "the message has %d bytes, at most %d are allowed", size, MaxMessage)
	}
	frame := s.frame(kindMessage, size)
	end := len(frame) - copy(frame[len(frame)-len(nextField):], nextField)
	if n, err := m.MarshalToSizedBufferVT(frame[frameHeader:end]); err != nil {
		return Errorf(Internal, "the message cannot be encoded: %w", err)
	} else if n != end-frameHeader { // a oneof with a nil message
		return Errorf(Internal, "the message cannot be encoded: it has %d bytes, not %d", n, size)
	}
	return s.write(frame)
}

func receive[M any, P message[M]](s *stream) (P, error) {
	kind, content, err := s.read()
	if err != nil {
		return nil, err
	}
	switch kind {
	case kindMessage:
		m := P(new(M))
		if err := m.UnmarshalVT(content); err != nil {
			return nil, Errorf(InvalidArgument, "the peer sent a message that cannot be decoded: %w", err)
		}
		return m, nil
	case kindEnd:
		if len(content) == 0 {
			return nil, io.EOF
		}
		e := new(Error)
		if err := json.Unmarshal(content, e); err != nil || e.Code == "" {
			return nil, Errorf(InvalidArgument, "the peer ended the stream with %.100q", content)
		}
		return nil, e
	}
	return nil, Errorf(InvalidArgument, "the peer sent a frame of the unknown kind %d", kind)
}

// typed is a stream of messages of two types.
type typed[Out, In any, PO message[Out], PI message[In]] struct{ *stream }

func (t typed[Out, In, PO, PI]) Send(m *Out) error { return send[Out](t.stream, PO(m)) }

func (t typed[Out, In, PO, PI]) Recv() (*In, error) {
	m, err := receive[In, PI](t.stream)
	return (*In)(m), err
}

// end tells the client that the stream has ended, and how, and waits until the client
// has closed the connection or a second has passed. The connection must not be closed
// earlier: if the client has sent something that was not read, its kernel would discard
// what it has received.
func (s *stream) end(failure error) {
	var content []byte
	if failure != nil {
		content, _ = json.Marshal(wire(failure))
	}
	s.ending.Store(true)
	deadline := time.Now().Add(lingers)
	_ = s.conn.SetWriteDeadline(deadline)
	_ = s.conn.SetReadDeadline(time.Now()) // ends a call of Recv
	frame := s.frame(kindEnd, len(content))
	copy(frame[frameHeader:], content)
	if _, err := s.conn.Write(frame); err != nil {
		return
	}
	if half, ok := s.conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() != nil {
		return
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	s.ended = true
	_ = s.conn.SetReadDeadline(deadline)
	_, _ = io.Copy(io.Discard, s.r)
}
