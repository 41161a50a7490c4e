package socket_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/ganglion-es/ganglion/gateway/internal/socket"
	"github.com/ganglion-es/ganglion/gateway/internal/sockettest"
	"github.com/ganglion-es/ganglion/test/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// patience bounds a wait that ends immediately if the code is right.
const patience = 20 * time.Second

// text makes a message of a server.
func text(payload string) []byte {
	return socket.Text(append(make([]byte, socket.HeaderRoom), payload...))
}

// RFC 6455, 5.2: the length of a payload has the fewest bytes possible.
func TestMessagesHaveTheShortestHeader(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ payload, header int }{
		{0, 2}, {1, 2}, {125, 2}, {126, 4}, {127, 4}, {1<<16 - 1, 4}, {1 << 16, 10}, {1<<16 + 1, 10},
	} {
		payload := strings.Repeat("x", c.payload)
		message := text(payload)
		if got := len(message) - c.payload; got != c.header {
			t.Errorf("%d bytes have a header of %d, want %d", c.payload, got, c.header)
		}
		opcode, got, err := sockettest.Read(bufio.NewReader(bytes.NewReader(message)))
		if err != nil || opcode != sockettest.OpText || string(got) != payload {
			t.Errorf("%d bytes: read opcode %d, %d bytes, %v", c.payload, opcode, len(got), err)
		}
	}
}

// RFC 6455, 5.5: control frames are one fragment of at most 125 bytes.
func TestControlFramesAreSingleFragments(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		frame   []byte
		opcode  byte
		payload string
	}{
		"ping":                {socket.Ping(), sockettest.OpPing, ""},
		"empty pong":          {socket.Pong(nil), sockettest.OpPong, ""},
		"pong":                {socket.Pong([]byte("\x00\xff")), sockettest.OpPong, "\x00\xff"},
		"longest pong":        {socket.Pong(bytes.Repeat([]byte("p"), 125)), sockettest.OpPong, strings.Repeat("p", 125)},
		"close":               {socket.Close(4200, ""), sockettest.OpClose, "\x10\x68"},
		"close with a reason": {socket.Close(1001, "bye"), sockettest.OpClose, "\x03\xe9bye"},
		"longest close":       {socket.Close(1001, strings.Repeat("r", 123)), sockettest.OpClose, "\x03\xe9" + strings.Repeat("r", 123)},
	} {
		opcode, payload, err := sockettest.Read(bufio.NewReader(bytes.NewReader(c.frame)))
		if err != nil || opcode != c.opcode || string(payload) != c.payload {
			t.Errorf("%s: read opcode %d, %q, %v", name, opcode, payload, err)
		}
	}
}

// echo serves WebSockets over a Conn: it answers each text message with the
// same text, each ping with a pong, and writes the library's close frames.
func echo(t *testing.T) (dial func() *peer) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var mu sync.Mutex // of the writing side
		h := &socket.Hijacker{ResponseWriter: w}
		write := func(b []byte) {
			mu.Lock()
			defer mu.Unlock()
			n, err := h.Conn.Try(b)
			if err == nil && n < len(b) {
				err = h.Conn.WriteAll(b[n:])
			}
			if err != nil {
				t.Logf("write: %v", err)
			}
		}
		h.Options = socket.Options{Grace: patience, SendBuffer: 64 << 10, OnControl: func(frame []byte) {
			write(frame)
			h.Conn.Finish(patience)
		}}
		conn, err := websocket.Accept(h, r, &websocket.AcceptOptions{OnPingReceived: func(_ context.Context, p []byte) bool {
			write(socket.Pong(p))
			return false
		}})
		if err != nil {
			return
		}
		defer conn.CloseNow()
		conn.SetReadLimit(-1)
		for {
			_, message, err := conn.Read(context.Background())
			if err != nil {
				return
			}
			write(text(string(message)))
		}
	}))
	t.Cleanup(srv.Close)
	return func() *peer {
		t.Helper()
		conn, err := net.Dial("tcp", strings.TrimPrefix(srv.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		return &peer{t: t, conn: conn, r: bufio.NewReader(conn)}
	}
}

const handshake = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// peer is a client without a WebSocket library.
type peer struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func (p *peer) send(b []byte) {
	p.t.Helper()
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) upgrade() {
	p.t.Helper()
	resp, err := http.ReadResponse(p.r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		p.t.Fatalf("the handshake was answered with %v, %v", resp, err)
	}
}

func (p *peer) want(opcode byte, payload string) {
	p.t.Helper()
	got, b, err := sockettest.Read(p.r)
	if err != nil || got != opcode || string(b) != payload {
		p.t.Fatalf("read opcode %d, %.80q, %v, want opcode %d, %.80q", got, b, err, opcode, payload)
	}
}

// RFC 6455, 5.4 and 5.5: messages in fragments, with control frames between
// them, and with the lengths at which a header grows.
func TestEchoedMessagesAndPingsArriveWhole(t *testing.T) {
	t.Parallel()
	p := echo(t)()
	p.send([]byte(handshake))
	p.upgrade()
	for _, size := range []int{0, 1, 125, 126, 1<<16 - 1, 1 << 16, 1 << 20} {
		payload := strings.Repeat("x", size)
		p.send(sockettest.Text(payload))
		p.want(sockettest.OpText, payload)
	}
	p.send(bytes.Join(sockettest.Fragments("κόσμε"), sockettest.Masked(sockettest.Fin|sockettest.OpPong, "unsolicited")))
	p.want(sockettest.OpText, "κόσμε")
	p.send(sockettest.Masked(sockettest.OpText, "be"))
	p.send(sockettest.Masked(sockettest.Fin|sockettest.OpPing, "mid"))
	p.want(sockettest.OpPong, "mid")
	p.send(sockettest.Masked(sockettest.Fin|sockettest.Continuation, "fore"))
	p.want(sockettest.OpText, "before")
}

// RFC 6455, 5.5.1 and 7: the library's close frame follows whole messages, and
// then the connection ends.
func TestCloseFramesOfTheLibraryAreWrittenBetweenMessages(t *testing.T) {
	t.Parallel()
	dial := echo(t)
	for name, c := range map[string]struct {
		send []byte
		code int
	}{
		"a close":                     {sockettest.Close(1000, "bye"), 1000},
		"a close with a private code": {sockettest.Close(4321, ""), 4321},
		"a reserved code":             {sockettest.Close(1005, ""), 1002},
		"a reserved bit":              {sockettest.Masked(sockettest.Fin|sockettest.RSV1|sockettest.OpText, "x"), 1002},
		"a reserved opcode":           {sockettest.Masked(sockettest.Fin|3, "x"), 1002},
		"a fragmented ping":           {sockettest.Masked(sockettest.OpPing, "x"), 1002},
		"a long ping":                 {sockettest.Masked(sockettest.Fin|sockettest.OpPing, strings.Repeat("p", 126)), 1002},
		"a lone continuation":         {sockettest.Masked(sockettest.Fin|sockettest.Continuation, "x"), 1002},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := dial()
			p.send([]byte(handshake))
			p.upgrade()
			payload := strings.Repeat("y", 100_000)
			p.send(append(sockettest.Text(payload), c.send...))
			p.want(sockettest.OpText, payload)
			opcode, got, err := sockettest.Read(p.r)
			if err != nil || opcode != sockettest.OpClose || int(binary.BigEndian.Uint16(got)) != c.code {
				t.Fatalf("read opcode %d, %q, %v, want a close frame with %d", opcode, got, err, c.code)
			}
			if _, err := p.r.ReadByte(); err != io.EOF {
				t.Errorf("after the close frame: %v, want EOF", err)
			}
		})
	}
}

// RFC 6455, 4.1: a client may send frames before it has read the response.
func TestBytesAfterTheHandshakeAreNotLost(t *testing.T) {
	t.Parallel()
	dial := echo(t)
	frames := append(sockettest.Text("one"), sockettest.Text("two")...)
	for cut := range len(frames) + 1 {
		p := dial()
		p.send(append([]byte(handshake), frames[:cut]...))
		p.send(frames[cut:])
		p.upgrade()
		p.want(sockettest.OpText, "one")
		p.want(sockettest.OpText, "two")
		_ = p.conn.Close()
	}
}

func TestGracePeriodRestartsWhenThePeerTakesBytes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe() // each write waits for its reader
		c := socket.New(server, socket.Options{Grace: time.Second})
		message := bytes.Repeat([]byte("0123456789abcdef"), 1024)
		read := make(chan []byte)
		go func() { // a piece takes longer than the grace period
			var got []byte
			for b := make([]byte, socket.PieceBytes/4); len(got) < len(message); time.Sleep(900 * time.Millisecond) {
				n, _ := client.Read(b)
				got = append(got, b[:n]...)
			}
			read <- got
		}()
		if err := c.WriteAll(message); err != nil || c.Stalled() {
			t.Errorf("got %v, stalled %v", err, c.Stalled())
		}
		if got := <-read; !bytes.Equal(got, message) {
			t.Errorf("read %d bytes, want the %d of the message", len(got), len(message))
		}
		if err := c.WriteAll(message); err == nil || !c.Stalled() {
			t.Errorf("a peer that takes nothing: got %v, stalled %v", err, c.Stalled())
		}
	})
}

func TestEndingFollowsAWriteThatWasGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		c := socket.New(server, socket.Options{Grace: time.Hour})
		message, ending := text(strings.Repeat("x", 100)), socket.Close(4100, "evicted")
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = c.WriteAll(message)
			c.WriteLast(c.Ending())
			_ = c.Close()
		}()
		synctest.Wait() // until the write blocks
		c.GiveUp(ending)
		got, err := io.ReadAll(client)
		if err != nil || !bytes.Equal(got, append(message, ending...)) {
			t.Errorf("read %q, %v, want the message and the close frame", got, err)
		}
		<-done
		if !c.Stalled() {
			t.Error("the write is not reported as stalled")
		}
	})
}
