package gateway_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/gateway/internal/sockettest"
)

// The cases below are those of the Autobahn test suite, with its numbers, for a
// server that accepts only text and no extensions, and some that the suite lacks.
// Instead of an echo, they expect the reply to a ping of ganglion.v1.

const pong1, pong2 = `{"op":"pong","id":"1"}`, `{"op":"pong","id":"2"}`

// ping is a request of the given size, whose reply is pong1.
func ping(size int) string {
	const head, tail = `{"op":"ping","id":"1","x":"`, `"}`
	return head + strings.Repeat("x", size-len(head)-len(tail)) + tail
}

const smallPing, otherPing = `{"op":"ping","id":"1"}`, `{"op":"ping","id":"2"}`

func TestConformanceAcceptedFrames(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	frames := func(list ...[]byte) [][]byte { return list }
	bytewise := func(b []byte) (list [][]byte) {
		for i := range b {
			list = append(list, b[i:i+1])
		}
		return list
	}
	together := func(list ...[]byte) [][]byte { return [][]byte{bytes.Join(list, nil)} }
	const greek = `{"op":"ping","id":"1","x":"κόσμε 𝄞"}`
	inRune := strings.Index(greek, "𝄞") + 2

	cases := map[string]struct {
		send [][]byte
		want []string
	}{
		"1.1 two messages in one segment":                      {together(sockettest.Text(smallPing), sockettest.Text(otherPing)), []string{pong1, pong2}},
		"1.1 two frames of the protocol in one message":        {frames(sockettest.Text(smallPing + "\n" + otherPing)), []string{pong1, pong2}},
		"1.1.8 byte after byte":                                {bytewise(sockettest.Text(smallPing)), []string{pong1}},
		"2.1 an empty ping":                                    {frames(sockettest.Masked(sockettest.Fin|sockettest.OpPing, "")), []string{"pong "}},
		"2.3 a ping of bytes that are no text":                 {frames(sockettest.Masked(sockettest.Fin|sockettest.OpPing, "\x00\xff\xfe\x80")), []string{"pong \x00\xff\xfe\x80"}},
		"2.4 a ping of 125 bytes":                              {frames(sockettest.Masked(sockettest.Fin|sockettest.OpPing, strings.Repeat("p", 125))), []string{"pong " + strings.Repeat("p", 125)}},
		"2.6 a ping byte after byte":                           {bytewise(sockettest.Masked(sockettest.Fin|sockettest.OpPing, "hello")), []string{"pong hello"}},
		"2.7 an unsolicited pong":                              {frames(sockettest.Masked(sockettest.Fin|sockettest.OpPong, ""), sockettest.Masked(sockettest.Fin|sockettest.OpPong, "hello"), sockettest.Text(smallPing)), []string{pong1}},
		"5.3 two fragments":                                    {frames(sockettest.Masked(sockettest.OpText, smallPing[:5]), sockettest.Masked(sockettest.Fin|sockettest.Continuation, smallPing[5:])), []string{pong1}},
		"5.4 two fragments in one segment":                     {together(sockettest.Masked(sockettest.OpText, smallPing[:5]), sockettest.Masked(sockettest.Fin|sockettest.Continuation, smallPing[5:])), []string{pong1}},
		"5.5 two fragments byte after byte":                    {bytewise(bytes.Join(frames(sockettest.Masked(sockettest.OpText, smallPing[:5]), sockettest.Masked(sockettest.Fin|sockettest.Continuation, smallPing[5:])), nil)), []string{pong1}},
		"5.6 a ping between fragments":                         {frames(sockettest.Masked(sockettest.OpText, smallPing[:5]), sockettest.Masked(sockettest.Fin|sockettest.OpPing, "mid"), sockettest.Masked(sockettest.Fin|sockettest.Continuation, smallPing[5:])), []string{"pong mid", pong1}},
		"5.6 a pong between fragments":                         {frames(sockettest.Masked(sockettest.OpText, smallPing[:5]), sockettest.Masked(sockettest.Fin|sockettest.OpPong, "mid"), sockettest.Masked(sockettest.Fin|sockettest.Continuation, smallPing[5:])), []string{pong1}},
		"5.15 fragments of one message after those of another": {together(sockettest.Masked(sockettest.OpText, smallPing[:5]), sockettest.Masked(sockettest.Fin|sockettest.Continuation, smallPing[5:]), sockettest.Masked(sockettest.OpText, otherPing[:7]), sockettest.Masked(sockettest.Fin|sockettest.Continuation, otherPing[7:])), []string{pong1, pong2}},
		"6.1 empty fragments":                                  {frames(sockettest.Masked(sockettest.OpText, ""), sockettest.Masked(sockettest.Continuation, ""), sockettest.Masked(sockettest.Continuation, smallPing), sockettest.Masked(sockettest.Fin|sockettest.Continuation, "")), []string{pong1}},
		"6.2 text beyond ASCII":                                {frames(sockettest.Text(greek)), []string{pong1}},
		"6.2 a character in two fragments":                     {frames(sockettest.Masked(sockettest.OpText, greek[:inRune]), sockettest.Masked(sockettest.Fin|sockettest.Continuation, greek[inRune:])), []string{pong1}},
		"6.2 a character in two segments":                      {frames(sockettest.Text(greek)[:8+inRune], sockettest.Text(greek)[8+inRune:]), []string{pong1}},
		"9.3 a fragment for each byte":                         {together(sockettest.Fragments(smallPing)...), []string{pong1}},
		"a payload that is masked with zeros":                  {frames(append([]byte{sockettest.Fin | sockettest.OpText, sockettest.Mask | byte(len(smallPing)), 0, 0, 0, 0}, smallPing...)), []string{pong1}},
		"a length in two bytes that fits into one":             {frames(sockettest.MaskedWith([]byte{sockettest.Fin | sockettest.OpText, sockettest.Mask | 126, 0, byte(len(smallPing))}, smallPing)), []string{pong1}},
		"a length in eight bytes that fits into one":           {frames(sockettest.MaskedWith([]byte{sockettest.Fin | sockettest.OpText, sockettest.Mask | 127, 0, 0, 0, 0, 0, 0, 0, byte(len(smallPing))}, smallPing)), []string{pong1}},
	}
	for _, size := range []int{len(ping(30)), 125, 126, 127, 128, 1<<16 - 1, 1 << 16, 1<<16 + 1, 96 << 10} {
		cases[fmt.Sprintf("1.1 a message of %d bytes", size)] = struct {
			send [][]byte
			want []string
		}{frames(sockettest.Text(ping(size))), []string{pong1}}
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cl := n.openRaw()
			cl.t = t
			cl.send(c.send...)
			cl.want(c.want...)
			cl.send(sockettest.Text(`{"op":"ping","id":"after"}`))
			cl.want(`{"op":"pong","id":"after"}`)
			cl.send(sockettest.Close(1000, ""))
			cl.wantEnd(1000)
		})
	}
}

// TestConformanceManyPings sends pings without waiting for pongs. Only the newest
// needs an answer (RFC 6455, 5.5.3).
func TestConformanceManyPings(t *testing.T) {
	t.Parallel()
	c := newWorld(t).node().openRaw()
	for i := range 10 {
		c.send(sockettest.Masked(sockettest.Fin|sockettest.OpPing, fmt.Sprint(i)))
	}
	for last := ""; last != "pong 9"; {
		if last = c.next(); !strings.HasPrefix(last, "pong ") {
			t.Fatalf("got %q", last)
		}
	}
}

func TestConformanceFramesThatCloseTheSession(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	const protocolError, badFrame, binaryMessage, tooLarge = 1002, 4000, 4002, 1009
	long := func(header []byte, size int) []byte { return sockettest.MaskedWith(header, strings.Repeat("x", size)) }
	cases := map[string]struct {
		send []byte
		code int // 0: the connection ends, with any code or none
	}{
		"2.5 a ping of 126 bytes":                      {sockettest.Masked(sockettest.Fin|sockettest.OpPing, strings.Repeat("p", 126)), protocolError},
		"3 a reserved bit 1: compressed":               {sockettest.Masked(sockettest.Fin|sockettest.RSV1|sockettest.OpText, "\xaa\x56\x4a\x01\x00"), protocolError},
		"3 a reserved bit 2":                           {sockettest.Masked(sockettest.Fin|sockettest.RSV2|sockettest.OpText, smallPing), protocolError},
		"3 a reserved bit 3":                           {sockettest.Masked(sockettest.Fin|sockettest.RSV3|sockettest.OpText, smallPing), protocolError},
		"3 all reserved bits":                          {sockettest.Masked(sockettest.Fin|sockettest.RSV1|sockettest.RSV2|sockettest.RSV3|sockettest.OpText, smallPing), protocolError},
		"3 a reserved bit of a ping":                   {sockettest.Masked(sockettest.Fin|sockettest.RSV1|sockettest.OpPing, ""), protocolError},
		"3 a reserved bit of a close":                  {sockettest.Masked(sockettest.Fin|sockettest.RSV1|sockettest.OpClose, ""), protocolError},
		"3 a reserved bit of a continuation":           {append(sockettest.Masked(sockettest.OpText, "{"), sockettest.Masked(sockettest.Fin|sockettest.RSV1|sockettest.Continuation, "}")...), protocolError},
		"5.1 a ping in fragments":                      {append(sockettest.Masked(sockettest.OpPing, "a"), sockettest.Masked(sockettest.Fin|sockettest.Continuation, "b")...), protocolError},
		"5.2 a pong in fragments":                      {append(sockettest.Masked(sockettest.OpPong, "a"), sockettest.Masked(sockettest.Fin|sockettest.Continuation, "b")...), protocolError},
		"5.9 a continuation of nothing":                {sockettest.Masked(sockettest.Fin|sockettest.Continuation, smallPing), protocolError},
		"5.11 a continuation of nothing, not the last": {sockettest.Masked(sockettest.Continuation, smallPing), protocolError},
		"5.18 a message within another":                {append(sockettest.Masked(sockettest.OpText, smallPing[:5]), sockettest.Text(smallPing)...), protocolError},
		"5.19 a continuation after the last":           {append(append(sockettest.Masked(sockettest.OpText, smallPing[:5]), sockettest.Masked(sockettest.Fin|sockettest.Continuation, smallPing[5:])...), sockettest.Masked(sockettest.Fin|sockettest.Continuation, "x")...), protocolError},
		"7.3.2 a close of one byte":                    {sockettest.Masked(sockettest.Fin|sockettest.OpClose, "\x03"), protocolError},
		"7.3.6 a close of 126 bytes":                   {sockettest.Masked(sockettest.Fin|sockettest.OpClose, "\x03\xe8"+strings.Repeat("r", 124)), protocolError},
		"a close in fragments":                         {append(sockettest.Masked(sockettest.OpClose, "\x03"), sockettest.Masked(sockettest.Fin|sockettest.Continuation, "\xe8")...), protocolError},
		"a binary message":                             {sockettest.Masked(sockettest.Fin|sockettest.OpBinary, smallPing), binaryMessage},
		"a frame that is not masked":                   {append([]byte{sockettest.Fin | sockettest.OpText, byte(len(smallPing))}, smallPing...), 0},
		"a ping that is not masked":                    {[]byte{sockettest.Fin | sockettest.OpPing, 0}, 0},
		"a negative length":                            {long([]byte{sockettest.Fin | sockettest.OpText, sockettest.Mask | 127, 0x80, 0, 0, 0, 0, 0, 0, 1}, 1), 0},
		"a length of 2^62":                             {long([]byte{sockettest.Fin | sockettest.OpText, sockettest.Mask | 127, 0x40, 0, 0, 0, 0, 0, 0, 0}, 100<<10), tooLarge},
		"9.1 a message over the limit":                 {sockettest.Text(ping(96<<10 + 1)), tooLarge},
		"9.3 fragments over the limit":                 {bytes.Join([][]byte{sockettest.Masked(sockettest.OpText, strings.Repeat(" ", 64<<10)), sockettest.Masked(sockettest.Continuation, strings.Repeat(" ", 64<<10))}, nil), tooLarge},
	}
	for _, opcode := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		cases[fmt.Sprintf("4 the reserved opcode %d", opcode)] = struct {
			send []byte
			code int
		}{sockettest.Masked(sockettest.Fin|opcode, "x"), protocolError}
	}
	// Text that is not UTF-8 (6.3 to 6.21) is not a frame of the protocol. Each
	// of these is in the middle of an otherwise valid message.
	for name, bad := range map[string]string{
		"an overlong null":         "\xc0\x80",
		"an overlong slash":        "\xe0\x80\xaf",
		"an overlong in four":      "\xf0\x80\x80\xaf",
		"half of a pair":           "\xed\xa0\x80",
		"a pair of halves":         "\xed\xa0\x80\xed\xb0\x80",
		"past the last character":  "\xf4\x90\x80\x80",
		"a lone continuation":      "\x80",
		"a lone start":             "\xe2\x82",
		"a byte that never occurs": "\xff",
		"five bytes":               "\xf8\x88\x80\x80\x80",
	} {
		message := `{"op":"ping","id":"1","x":"` + bad + `"}`
		cut := strings.Index(message, bad) + 1
		for form, send := range map[string][]byte{
			"":              sockettest.Text(message),
			" in fragments": append(sockettest.Masked(sockettest.OpText, message[:cut]), sockettest.Masked(sockettest.Fin|sockettest.Continuation, message[cut:])...),
		} {
			cases["6 not UTF-8: "+name+form] = struct {
				send []byte
				code int
			}{send, badFrame}
		}
	}
	cases["6 not UTF-8: ends within a character"] = struct {
		send []byte
		code int
	}{sockettest.Text(smallPing + "\xe2\x82"), badFrame}

	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			cl := n.openRaw()
			cl.t = t
			// The gateway ignores later input and still sends the close frame.
			cl.send(append(c.send, sockettest.Text(otherPing)...))
			if strings.HasPrefix(name, "5.19") {
				cl.want(pong1)
			}
			cl.wantEnd(c.code)
		})
	}
	n.join("ada") // the node continues
}

// protocol: close 1000
func TestConformanceCloseFrames(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	try := func(name string, code int, frames ...[]byte) {
		t.Run(name, func(t *testing.T) {
			c := n.openRaw()
			c.t = t
			c.send(frames...)
			c.wantEnd(code)
		})
	}
	c := n.openRaw()
	c.send(sockettest.Masked(sockettest.Fin|sockettest.OpClose, ""))
	if got := c.next(); got != "close" {
		t.Errorf("7.3.1 an empty close was answered by %q", got)
	}
	try("7.1.2 two closes", 1000, sockettest.Close(1000, ""), sockettest.Close(1000, ""))
	try("7.1.3 a ping after the close", 1000, sockettest.Close(1000, ""), sockettest.Masked(sockettest.Fin|sockettest.OpPing, ""))
	try("7.1.4 a message after the close", 1000, sockettest.Close(1000, ""), sockettest.Text(smallPing))
	try("7.1.5 the rest of a message after the close", 1000, sockettest.Masked(sockettest.OpText, smallPing[:5]), sockettest.Close(1000, ""), sockettest.Masked(sockettest.Fin|sockettest.Continuation, smallPing[5:]))
	try("7.3.5 the longest reason", 1000, sockettest.Close(1000, strings.Repeat("*", 123)))
	// The library does not check the reason. A server may also refuse it.
	try("7.5.1 a reason that is not UTF-8", 1000, sockettest.Close(1000, "\xce\xba\xe1\xbd\xed\xa0\x80"))
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999} {
		try(fmt.Sprintf("7.7 the code %d", code), code, sockettest.Close(code, "bye"))
	}
	for _, code := range []int{0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		try(fmt.Sprintf("7.9 the code %d", code), 1002, sockettest.Close(code, ""))
	}
	waitFor(t, func() bool { return n.Stats().Sessions <= 1 })
}

func TestConformanceHandshake(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	for name, c := range map[string]struct {
		request []byte
		status  int
	}{
		"as browsers do":                    {request("Connection: keep-alive, Upgrade", "Upgrade: WebSocket", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"), 101},
		"HTTP/1.0":                          {request("GET /v1/ws HTTP/1.0"), 426},
		"HTTP/3.0":                          {request("GET /v1/ws HTTP/3.0"), 505},
		"no upgrade":                        {request("Upgrade:"), 426},
		"an upgrade to something else":      {request("Upgrade: h2c"), 426},
		"no connection header":              {request("Connection:"), 426},
		"a connection that is kept":         {request("Connection: keep-alive"), 426},
		"another method":                    {request("PUT /v1/ws HTTP/1.1"), 404},
		"another version":                   {request("Sec-WebSocket-Version: 8"), 400},
		"no version":                        {request("Sec-WebSocket-Version:"), 400},
		"no key":                            {request("Sec-WebSocket-Key:"), 400},
		"a short key":                       {request("Sec-WebSocket-Key: c2hvcnQ="), 400},
		"a key that is not base64":          {request("Sec-WebSocket-Key: ????????????????????????"), 400},
		"two keys":                          {bytes.Replace(request(), []byte("Sec-WebSocket-Key"), []byte("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Key"), 1), 400},
		"no host":                           {request("Host:"), 400},
		"a header with a space in its name": {request("X y: z"), 400},
		"no HTTP at all":                    {[]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"), 400},
	} {
		cl := n.connectRaw()
		cl.send(c.request)
		resp, err := http.ReadResponse(cl.r, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		_ = resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s: got %s, want %d", name, resp.Status, c.status)
		}
		if got := resp.Header.Get("Sec-WebSocket-Extensions"); got != "" {
			t.Errorf("%s: the extension %q was agreed on", name, got)
		}
		if version := resp.Header.Get("Sec-WebSocket-Version"); strings.Contains(name, "version") && version != "13" {
			t.Errorf("%s: the answer names the version %q", name, version)
		}
	}
}

// TestConformanceEarlyBytes sends frames together with the handshake, without
// waiting for the response. The gateway loses none of them.
func TestConformanceEarlyBytes(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	frames := append(sockettest.Text(smallPing), sockettest.Text(otherPing)...)
	for cut := range len(frames) + 1 { // this number of bytes comes with the handshake
		c := n.connectRaw()
		c.send(append(request(), frames[:cut]...), frames[cut:])
		c.wantUpgrade()
		c.want(pong1, pong2)
		_ = c.conn.Close()
	}
	c := n.connectRaw() // more than fits into the buffers
	many := request()
	for range 20 {
		many = append(many, sockettest.Text(ping(3000))...)
	}
	c.send(many)
	c.wantUpgrade()
	for range 20 {
		c.want(pong1)
	}
}

// TestConformanceHalfClosedSockets closes the client's side of connections. A
// WebSocket can't be half closed: the session ends, and so does the connection.
func TestConformanceHalfClosedSockets(t *testing.T) {
	t.Parallel()
	n := newWorld(t).node()
	for name, send := range map[string][]byte{
		"before the handshake":   nil,
		"within the handshake":   request()[:40],
		"after the handshake":    request(),
		"within a frame":         append(request(), sockettest.Text(smallPing)[:9]...),
		"within a message":       append(request(), sockettest.Masked(sockettest.OpText, smallPing[:5])...),
		"within a whole request": append(request(), sockettest.Masked(sockettest.OpText, smallPing)...),
		"after a message":        append(request(), sockettest.Text(smallPing)...),
		"after its close":        append(request(), sockettest.Close(1000, "")...),
		"within a control frame": append(request(), sockettest.Masked(sockettest.Fin|sockettest.OpPing, "hello")[:7]...),
	} {
		c := n.connectRaw()
		c.send(send)
		if err := c.conn.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if len(send) > 0 && !bytes.HasSuffix(send[:min(len(send), len(request()))], []byte("\r\n\r\n")) {
			if resp, err := http.ReadResponse(c.r, nil); err == nil && resp.StatusCode != 400 {
				t.Errorf("%s: got %s", name, resp.Status)
			}
			continue
		} else if len(send) > 0 {
			c.wantUpgrade()
		}
		for got := c.next(); got != "end"; got = c.next() {
			if got != pong1 && !strings.HasPrefix(got, "close 1000") || name == "within a whole request" {
				t.Errorf("%s: got %q", name, got)
			}
		}
	}
	reset := n.openRaw()
	if err := reset.conn.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	_ = reset.conn.Close()
	waitFor(t, func() bool { return n.Stats().Sessions == 0 })
}
