package load

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// session is one client: a socket and the state of its parser. To make 10,000
// sessions cheap, it keeps no messages and parses only versions of events.
type session struct {
	loop  *loop
	fd    int
	index int // in its group
	group *group

	open    bool   // after the handshake
	hello   []byte // the first message, sent after the handshake
	waiting int    // expected messages that contain Subscribed

	// The message that is being read.
	left uint64 // unread bytes of the frame
	kept []byte // read and not yet parsed

	slot           int       // of the measured subscription
	seen           [2]uint64 // the newest version of each slot
	pendingReplies int       // pending replies of a publisher
	out            []byte    // unsent bytes of a publisher
}

// dial opens a connection from one of many addresses of this machine, since
// each has its own ports. buffer is the size of the kernel's receive buffer in
// bytes; 0 leaves it to the kernel.
func dial(to unix.SockaddrInet4, from, buffer int) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("socket: %w", err)
	}
	defer func() {
		if err != nil {
			_ = unix.Close(fd)
		}
	}()
	source := unix.SockaddrInet4{Addr: [4]byte{127, 0, byte(1 + from/200%200), byte(1 + from%200)}}
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		// A cut session frees its port immediately.
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.Bind(fd, &source),
	); err != nil {
		return -1, fmt.Errorf("bind: %w", err)
	}
	if buffer > 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer); err != nil {
			return -1, fmt.Errorf("receive buffer: %w", err)
		}
	}
	if err := unix.Connect(fd, &to); err != nil {
		return -1, fmt.Errorf("connect: %w", err)
	}
	return fd, unix.SetNonblock(fd, true)
}

const handshake = "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// connect opens a session. The first messages follow the handshake.
func (l *loop) connect(g *group, index int, first ...string) (*session, error) {
	buffer := 0
	if g.trickles {
		buffer = 2 * slowReadBytes
	}
	fd, err := dial(l.server, l.dialled, buffer)
	if err != nil {
		return nil, err
	}
	l.dialled++
	s := &session{loop: l, fd: fd, group: g, index: index}
	if len(first) > 0 {
		s.hello = appendText(nil, []byte(strings.Join(first, "\n")))
	}
	if err := l.add(s); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return s, s.write(fmt.Appendf(nil, handshake, l.dialect.Path, l.server.Port))
}

// appendText appends a text message of a client. Its mask is zero, which leaves
// the payload as it is and costs neither side time.
func appendText(dst, payload []byte) []byte { return appendFrame(dst, 0x81, payload) }

func appendFrame(dst []byte, first byte, payload []byte) []byte {
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, first, 0x80|byte(n))
	case n < 1<<16:
		dst = append(dst, first, 0x80|126)
		dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	default:
		dst = append(dst, first, 0x80|127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	dst = append(dst, 0, 0, 0, 0)
	return append(dst, payload...)
}

// write sends b, and keeps the rest if the socket has no room.
func (s *session) write(b []byte) error {
	if len(s.out) == 0 {
		n, err := unix.Write(s.fd, b)
		if err != nil && err != unix.EAGAIN {
			return fmt.Errorf("session %d of %s: write: %w", s.index, s.group.name, err)
		}
		if n == len(b) {
			return nil
		}
		b = b[max(n, 0):]
	}
	s.out = append(s.out, b...)
	return s.loop.watch(s, true)
}

// flush sends the kept bytes now that the socket has room.
func (s *session) flush() error {
	b := s.out
	s.out = nil
	if err := s.loop.watch(s, false); err != nil {
		return err
	}
	return s.write(b)
}

func (s *session) say(text string) error { return s.write(appendText(nil, []byte(text))) }

// read reads once, up to the size of the buffer.
func (s *session) read() error { return s.readUpTo(len(s.loop.buf)) }

// readUpTo reads at most the given number of bytes and parses them.
func (s *session) readUpTo(most int) error {
	buf := s.loop.buf
	kept := copy(buf, s.kept)
	n, err := unix.Read(s.fd, buf[kept:min(kept+most, len(buf))])
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
		return nil
	case err != nil:
		return fmt.Errorf("session %d of %s was cut: %w", s.index, s.group.name, err)
	case n == 0:
		return fmt.Errorf("session %d of %s was cut by the server", s.index, s.group.name)
	}
	s.group.bytes += n
	used, err := s.parse(buf[:kept+n])
	if err != nil {
		return fmt.Errorf("session %d of %s: %w", s.index, s.group.name, err)
	}
	s.kept = append(s.kept[:0], buf[used:kept+n]...)
	if len(s.kept) == 0 && cap(s.kept) > 1<<10 {
		s.kept = nil
	}
	return nil
}

// lookahead is longer than the text from the start of an event's mark to the
// end of its version.
const lookahead = 160

// parse parses b as far as possible and returns the number of parsed bytes.
func (s *session) parse(b []byte) (used int, err error) {
	if !s.open {
		if s.group.raw {
			s.pendingReplies -= bytes.Count(b, []byte("\n"))
			return len(b), nil
		}
		end := bytes.Index(b, []byte("\r\n\r\n"))
		if end < 0 {
			return 0, nil
		}
		if !bytes.HasPrefix(b, []byte("HTTP/1.1 101")) {
			return 0, fmt.Errorf("the handshake was refused: %.300s", b)
		}
		s.open = true
		used = end + 4
		if s.hello != nil {
			if err := s.write(s.hello); err != nil {
				return used, err
			}
			s.hello = nil
		}
	}
	for {
		rest := b[used:]
		if s.left == 0 {
			n, err := s.header(rest)
			if err != nil || n == 0 {
				return used, err
			}
			used += n
			continue
		}
		part := rest[:min(uint64(len(rest)), s.left)]
		whole := uint64(len(part)) == s.left
		n, err := s.events(part, whole)
		if err != nil {
			return used, err
		}
		s.left -= uint64(n)
		used += n
		if !whole {
			return used, nil
		}
	}
}

// header parses the header of a frame, or a whole control frame. It returns 0
// if b is too short.
func (s *session) header(b []byte) (n int, err error) {
	if len(b) < 2 {
		return 0, nil
	}
	opcode, size := b[0]&0x0f, uint64(b[1]&0x7f)
	n = 2
	switch size {
	case 126:
		if n = 4; len(b) < n {
			return 0, nil
		}
		size = uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		if n = 10; len(b) < n {
			return 0, nil
		}
		size = binary.BigEndian.Uint64(b[2:])
	}
	if opcode < 8 {
		s.group.messages++
		s.left = size
		return n, nil
	}
	if uint64(len(b)-n) < size {
		return 0, nil
	}
	payload := b[n : n+int(size)]
	n += int(size)
	switch opcode {
	case 8:
		if size < 2 {
			return n, errors.New("the server closed the session without a code")
		}
		return n, fmt.Errorf("the server closed the session with %d %s", binary.BigEndian.Uint16(payload), payload[2:])
	case 9:
		return n, s.write(appendFrame(nil, 0x8a, payload))
	}
	return n, nil
}

// events finds the events in a part of a message.
func (s *session) events(b []byte, whole bool) (used int, err error) {
	d := s.loop.dialect
	if (s.waiting > 0 || s.group.publishes) && !whole {
		return 0, nil // replies are short: wait for the whole message
	}
	if whole && len(b) < 1<<10 && bytes.Contains(b, d.Refused) {
		return 0, fmt.Errorf("refused: %s", b)
	}
	if s.group.publishes {
		s.pendingReplies -= bytes.Count(b, d.Replied)
		return len(b), nil
	}
	if s.waiting > 0 && bytes.Contains(b, d.Subscribed) {
		s.waiting--
		s.group.subscribed++
	}
	for {
		version, n := d.next(b[used:])
		if n == 0 {
			break
		}
		used += n
		if err := s.event(version); err != nil {
			return used, err
		}
	}
	if whole {
		return len(b), nil
	}
	return max(used, len(b)-lookahead), nil
}

// event checks that a version follows the previous one, and records the time
// since its publication, and since that of the versions that it replaces.
func (s *session) event(version uint64) error {
	g := s.group
	last := s.seen[s.slot]
	if version != last+1 && (!s.loop.dialect.Skips || version <= last) {
		return fmt.Errorf("version %d follows %d", version, last)
	}
	s.seen[s.slot] = version
	g.delivered += int(version - last)
	g.skipped += int(version - last - 1)
	if !g.timing && !g.resuming {
		return nil
	}
	t := g.topics[s.index%len(g.topics)]
	if g.resuming {
		if version == t.published {
			g.done = append(g.done, time.Now())
		}
		return nil
	}
	for v := max(last, t.first) + 1; v <= version; v++ {
		if i := int(v-t.first) - 1; i < len(t.at) {
			g.latency = append(g.latency, s.loop.now.Sub(t.at[i]))
		}
	}
	return nil
}
