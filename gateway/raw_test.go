package gateway_test

import (
	"bufio"
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

	"github.com/ganglion-es/ganglion/gateway/internal/sockettest"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// raw is a client without a WebSocket library. It can send any bytes, and checks
// that a server may send every frame that it reads.
type raw struct {
	t    testing.TB
	conn *net.TCPConn
	r    *bufio.Reader
	got  []string // lines that were read but not yet checked
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

// request returns a handshake. The given lines replace lines of its header or
// are added to it; a line that ends with a colon is left out.
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

// wantUpgrade reads the response to a handshake.
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

// send writes the parts one after another. If the server has closed the
// connection, the next read reports it.
func (c *raw) send(parts ...[]byte) {
	c.t.Helper()
	for _, p := range parts {
		if _, err := c.conn.Write(p); err != nil {
			c.t.Logf("send: %v", err)
			return
		}
	}
}

// next returns the next line of a message, or "ping PAYLOAD", "pong PAYLOAD",
// "close", "close CODE REASON", and at the end of the connection "end".
func (c *raw) next() string {
	c.t.Helper()
	for len(c.got) == 0 {
		opcode, payload, err := sockettest.Read(c.r)
		switch {
		case errors.Is(err, io.EOF), err != nil && strings.Contains(err.Error(), "connection reset"):
			return "end"
		case err != nil:
			c.t.Fatal(err)
		case opcode == sockettest.OpText:
			c.got = strings.Split(string(payload), "\n")
		case opcode == sockettest.OpPing:
			return "ping " + string(payload)
		case opcode == sockettest.OpPong:
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

// answer returns the next line of a message as a frame.
func (c *raw) answer() frame.Frame {
	c.t.Helper()
	line := c.next()
	f, err := frame.ParseAnswer([]byte(line))
	if err != nil {
		c.t.Fatalf("%.200s: %v", line, err)
	}
	return f
}

// want reads the next lines, which must be the given ones in any order.
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
		c.t.Errorf("got %q after the close frame, want the end", end)
	}
}
