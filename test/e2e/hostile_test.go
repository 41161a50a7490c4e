//go:build hostile

package e2e

import (
	"bytes"
	"context"
	wire "encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/test/harness"
)

// hostileMemory is what all that one kind of hostile client does may add to a
// node's heap, garbage included.
const hostileMemory = 96 << 20

// TestHostileClients lets clients loose on a node that mean it harm, one kind
// after another. Each gets the stated answer; meanwhile the commands and events
// of another session go on, and the memory of the node stays within its bound.
func TestHostileClients(t *testing.T) {
	t.Parallel()
	node := harness.Start(t, binary, 1, "node", "--name", "n", "--store", t.TempDir(), "--max-hello-time", "4s", "--log-level", "warn",
		"--max-sessions", "1000", "--max-anonymous-sessions", "300", "--max-connections", "400", "--max-outbound-bytes", "16777216",
		"--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0")
	url := node.URLs[0]
	other := newBystander(t, url)
	before := heap(t, url)

	for _, attack := range []struct {
		name string
		run  func(t *testing.T, url string, held func())
	}{
		{"slow handshakes", slowHandshakes},
		{"no hello", noHello},
		{"a million pings", aMillionPings},
		{"never reading", neverReading},
		{"garbage after the upgrade", garbage},
		{"compression bombs", compressionBombs},
		{"a flood of subscriptions", subscriptionFlood},
		{"one id again and again", oneID},
		{"a header of a gigabyte", endlessHeader},
		{"hello with 31,000 subscriptions", longHello},
		{"states that nobody reads", unreadStates},
		{"a crowd of anonymous sessions", anonymousCrowd},
		{"a crowd of idle connections", idleConnections},
		{"a flood of renewals", renewals},
		{"a flood of listings", listings},
	} {
		t.Run(attack.name, func(t *testing.T) {
			// held is called while the attack is at its height.
			attack.run(t, url, func() {
				t.Helper()
				other.goesOn(t)
				newcomer(t, url)
				if now := heap(t, url); now > before+hostileMemory {
					t.Errorf("the heap grew from %d to %d MB", before>>20, now>>20)
				}
			})
			other.goesOn(t)
		})
	}
	harness.Eventually(t, "the sessions of hostile clients end", func() error {
		if open := gauge(t, url, "ganglion_sessions"); open != 1 {
			return fmt.Errorf("%v sessions are open", open)
		}
		return nil
	})
}

// bystander is a client like any other: it adds to a counter, waits for the
// event, and adds again.
type bystander struct {
	rounds atomic.Int64
	failed chan error
}

func newBystander(t *testing.T, url string) *bystander {
	b := &bystander{failed: make(chan error, 1)}
	s, err := harness.Dial(t.Context(), harness.WS(url), "bystander", nil)
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan uint64, 1)
	if _, err := s.Subscribe(t.Context(), "s", map[string]any{"stream": "counter/bystander"}, func(f harness.Frame) {
		if f.Op == "event" {
			events <- f.Version
		}
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { b.failed <- b.run(ctx, s, events) })
	t.Cleanup(func() {
		cancel()
		s.Close()
		running.Wait()
	})
	return b
}

func (b *bystander) run(ctx context.Context, s *harness.Session, events <-chan uint64) error {
	for want := uint64(1); ; want++ {
		f, err := s.Call(ctx, map[string]any{"op": "command", "aggregate": "counter/bystander", "command": "add", "data": map[string]int{"by": 1}})
		if err != nil {
			return err
		}
		if f.Op != "result" {
			return fmt.Errorf("the command %d was answered by %s %s", want, f.Code, f.Message)
		}
		select {
		case got := <-events:
			if got != want {
				return fmt.Errorf("the event %d came, and %d was next", got, want)
			}
		case <-s.Done():
			return s.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
		b.rounds.Add(1)
	}
}

// goesOn waits for some rounds of the bystander.
func (b *bystander) goesOn(t *testing.T) {
	t.Helper()
	target := b.rounds.Load() + 10
	harness.Eventually(t, "the bystander goes on", func() error {
		select {
		case err := <-b.failed:
			t.Fatalf("the bystander: %v", err)
		default:
		}
		if b.rounds.Load() < target {
			return errors.New("it has not had its rounds")
		}
		return nil
	})
}

func heap(t *testing.T, url string) int {
	t.Helper()
	return int(gauge(t, url, "go_memstats_heap_alloc_bytes"))
}

// connect opens a bare connection, which the test closes.
func connect(t *testing.T, url string) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return conn
}

const upgradeRequest = "GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n" +
	"Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// upgrade opens a WebSocket without a library.
func upgrade(t *testing.T, url string) net.Conn {
	t.Helper()
	conn := connect(t, url)
	if _, err := io.WriteString(conn, upgradeRequest); err != nil {
		t.Fatal(err)
	}
	var answer []byte
	for one := make([]byte, 1); !bytes.HasSuffix(answer, []byte("\r\n\r\n")); answer = append(answer, one[0]) {
		if _, err := conn.Read(one); err != nil {
			t.Fatalf("%q: %v", answer, err)
		}
	}
	if !bytes.HasPrefix(answer, []byte("HTTP/1.1 101 ")) {
		t.Fatalf("the handshake was answered with %q", answer)
	}
	if bytes.Contains(answer, []byte("Extensions")) {
		t.Errorf("an extension was agreed on: %q", answer)
	}
	return conn
}

// clientFrame is a frame with a mask of zeros.
func clientFrame(first byte, payload string) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = wire.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = wire.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), payload...)
}

// ended reads until the server has closed the connection, and returns the last
// of what came.
func ended(t *testing.T, conn net.Conn) []byte {
	t.Helper()
	var last []byte
	for buf := make([]byte, 4096); ; {
		n, err := conn.Read(buf)
		last = append(last, buf[:n]...)
		last = last[max(0, len(last)-256):]
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("the server has not closed the connection")
		}
		if err != nil {
			return last
		}
	}
}

// slowHandshakes sends a header byte by byte, for ever.
func slowHandshakes(t *testing.T, url string, held func()) {
	var sending sync.WaitGroup
	for i := range 200 {
		conn := connect(t, url)
		sending.Go(func() {
			for n := 0; i%2 == 0; n++ { // the others say nothing at all
				if _, err := conn.Write([]byte{upgradeRequest[:40][n%20]}); err != nil {
					break
				}
				time.Sleep(50 * time.Millisecond)
			}
			ended(t, conn)
		})
	}
	held()
	sending.Wait()
}

// noHello opens WebSockets and says nothing on them.
func noHello(t *testing.T, url string, held func()) {
	var conns []net.Conn
	for range 200 {
		conns = append(conns, upgrade(t, url))
	}
	held()
	for _, conn := range conns {
		if last := ended(t, conn); !bytes.Contains(last, wire.BigEndian.AppendUint16(nil, 4003)) {
			t.Fatalf("the session ended with %q, want 4003", last)
		}
	}
}

// aMillionPings sends a million pings on one connection, and reads the answers.
func aMillionPings(t *testing.T, url string, held func()) {
	conn := upgrade(t, url)
	if _, err := conn.Write(clientFrame(0x81, `{"op":"hello","id":"1","client":"mallory"}`)); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(10 * time.Minute)) // the race detector makes a node slow
	block := bytes.Repeat(clientFrame(0x89, "ping"), 10_000)
	var sending sync.WaitGroup
	sending.Go(func() {
		for range 100 {
			if _, err := conn.Write(block); err != nil {
				t.Error(err)
				return
			}
		}
		_, _ = conn.Write(clientFrame(0x81, `{"op":"ping","id":"last"}`))
	})
	answered := make(chan error, 1)
	go func() {
		var last []byte
		for buf := make([]byte, 64<<10); !bytes.Contains(last, []byte(`{"op":"pong","id":"last"}`)); {
			n, err := conn.Read(buf)
			if err != nil {
				answered <- err
				return
			}
			last = append(last[max(0, len(last)-64):], buf[:n]...)
		}
		answered <- nil
	}()
	held()
	sending.Wait()
	if err := <-answered; err != nil {
		t.Errorf("after a million pings the session does not answer: %v", err)
	}
}

// neverReading asks and asks, and does not take the answers: the node stops
// reading the requests.
func neverReading(t *testing.T, url string, held func()) {
	const sessions = 50
	limited := gauge(t, url, `ganglion_limited_total{limit="open_requests"}`)
	request := clientFrame(0x81, `{"op":"get","id":"`+strings.Repeat("i", 60)+`","aggregate":"nothing/`+strings.Repeat("n", 200)+`"}`)
	block := bytes.Repeat(request, 100)
	var sending sync.WaitGroup
	var conns []net.Conn
	for range sessions {
		conn := upgrade(t, url)
		conns = append(conns, conn)
		sending.Go(func() {
			_, _ = conn.Write(clientFrame(0x81, `{"op":"hello","id":"h","client":"eve"}`))
			for {
				if _, err := conn.Write(block); err != nil {
					return // the test has closed it
				}
			}
		})
	}
	harness.Eventually(t, "the node stops reading", func() error {
		if n := gauge(t, url, `ganglion_limited_total{limit="open_requests"}`) - limited; n < sessions {
			return fmt.Errorf("it did %v times", n)
		}
		return nil
	})
	held()
	for _, conn := range conns {
		_ = conn.Close()
	}
	sending.Wait()
}

// garbage sends anything but frames.
func garbage(t *testing.T, url string, held func()) {
	random := rand.New(rand.NewPCG(1, 2))
	var sending sync.WaitGroup
	for range 50 {
		conn := upgrade(t, url)
		junk := make([]byte, 256<<10)
		for i := range junk {
			junk[i] = byte(random.Uint32())
		}
		sending.Go(func() {
			_, _ = conn.Write(junk)
			_ = conn.(*net.TCPConn).CloseWrite()
			ended(t, conn)
		})
	}
	held()
	sending.Wait()
}

// compressionBombs sends compressed messages, though upgrade made sure that
// nothing of the kind was agreed on.
func compressionBombs(t *testing.T, url string, held func()) {
	bomb := clientFrame(0x80|0x40|0x1, "\xec\xc1\x01"+strings.Repeat("\x00", 64<<10))
	for range 20 {
		conn := upgrade(t, url)
		_, _ = conn.Write(bomb)
		if last := ended(t, conn); !bytes.Contains(last, wire.BigEndian.AppendUint16(nil, 1002)) {
			t.Errorf("the session ended with %q, want 1002", last)
		}
	}
	held()
}

// answersTo sends requests, many in a message, and counts the answers by their
// op and id.
func answersTo(t *testing.T, url string, requests []string, count func(harness.Frame)) {
	t.Helper()
	c := dial(t, url)
	c.send(`{"op":"hello","id":"h","client":"eve"}`)
	c.until("welcome")
	var sending sync.WaitGroup
	sending.Go(func() {
		for i := 0; i < len(requests); i += 500 {
			if err := c.conn.Write(t.Context(), 1, []byte(strings.Join(requests[i:min(i+500, len(requests))], "\n"))); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for answered := 0; answered < len(requests); {
		_, message, err := c.conn.Read(t.Context())
		if err != nil {
			t.Errorf("after %d answers: %v", answered, err)
			break
		}
		for line := range bytes.SplitSeq(message, []byte("\n")) {
			var f harness.Frame
			if err := json.Unmarshal(line, &f); err != nil {
				t.Fatal(err)
			}
			if f.Op == "error" || f.Op == "subscribed" || f.Op == "result" {
				answered++
				count(f)
			}
		}
	}
	sending.Wait()
}

// subscriptionFlood subscribes to twenty times as much as a session may.
func subscriptionFlood(t *testing.T, url string, held func()) {
	requests := make([]string, 20_000)
	for i := range requests {
		requests[i] = fmt.Sprintf(`{"op":"subscribe","id":"%d","stream":"auction/%d"}`, i, i)
	}
	answers := map[string]int{}
	answersTo(t, url, requests, func(f harness.Frame) { answers[f.Op+f.Code]++ })
	if answers["subscribed"] != 1000 || answers["errorrate_limited"] != len(requests)-1000 {
		t.Errorf("got %v, want 1,000 subscriptions and the rest refused", answers)
	}
	held()
}

// oneID uses the id of a subscription for everything else.
func oneID(t *testing.T, url string, held func()) {
	requests := make([]string, 10_001)
	for i := range requests {
		requests[i] = `{"op":"get","id":"s","aggregate":"auction/1"}`
	}
	requests[0] = `{"op":"subscribe","id":"s","stream":"auction/1"}`
	subscribed, refused := 0, 0
	answersTo(t, url, requests, func(f harness.Frame) {
		switch {
		case f.Op == "subscribed":
			subscribed++
		case f.ID == "" && f.Field == "id" && strings.Contains(f.Message, `"s"`):
			refused++
		default:
			t.Errorf("got %+v", f)
		}
	})
	if subscribed != 1 || refused != 10_000 {
		t.Errorf("%d were subscribed and %d refused", subscribed, refused)
	}
	held()
}

// endlessHeader would send a gigabyte of header.
func endlessHeader(t *testing.T, url string, held func()) {
	conn := connect(t, url)
	_, _ = io.WriteString(conn, "GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nX-Endless: ")
	block, sent := bytes.Repeat([]byte("x"), 64<<10), 0
	for sent < 1<<30 {
		n, err := conn.Write(block)
		sent += n
		if err != nil {
			break
		}
	}
	// What was taken is what the kernel's buffers hold.
	if sent > 64<<20 {
		t.Errorf("the node took %d MB of a header", sent>>20)
	}
	held()
}

// newcomer is a client that comes during an attack: the node admits it, and it
// gets an event from the log.
func newcomer(t *testing.T, url string) {
	t.Helper()
	s, err := harness.Dial(t.Context(), harness.WS(url), "newcomer", nil)
	if err != nil {
		t.Fatalf("a newcomer is refused: %v", err)
	}
	defer s.Close()
	got := make(chan struct{}, 1)
	if _, err := s.Subscribe(t.Context(), "s", map[string]any{"stream": "counter/bystander", "after": 0}, func(f harness.Frame) {
		if f.Op == "event" {
			select {
			case got <- struct{}{}:
			default:
			}
		}
	}); err != nil {
		t.Fatalf("a newcomer can't subscribe: %v", err)
	}
	select {
	case <-got:
	case <-s.Done():
		t.Fatalf("the newcomer's session ended: %v", s.Err())
	case <-time.After(time.Minute):
		t.Fatal("the newcomer gets no event")
	}
}

// longHello sends hello with as many wrong subscriptions as a message takes.
func longHello(t *testing.T, url string, held func()) {
	hello := clientFrame(0x81, `{"op":"hello","id":"1","subscriptions":[`+strings.Repeat("{},", 31_000)+`{}]}`)
	var conns []net.Conn
	for range 57 {
		conn := upgrade(t, url)
		_, _ = conn.Write(hello)
		conns = append(conns, conn)
	}
	held()
	for _, conn := range conns {
		if last := ended(t, conn); !bytes.Contains(last, wire.BigEndian.AppendUint16(nil, 4101)) {
			t.Fatalf("the session ended with %q, want 4101", last)
		}
	}
}

// unreadStates asks for large states on anonymous sessions, and reads none.
func unreadStates(t *testing.T, url string, held func()) {
	post(t, url, "seller", `{"aggregate":"auction/large","command":"open","data":{"item":"`+strings.Repeat("x", 4<<10)+`","reserve":1,"closes_at":"2099-01-01T00:00:00Z"}}`, 200)
	request := clientFrame(0x81, `{"op":"hello","id":"h"}`)
	for i := range 256 {
		request = append(request, clientFrame(0x81, fmt.Sprintf(`{"op":"get","id":"%d","aggregate":"auction/large"}`, i))...)
	}
	var conns []net.Conn
	for range 100 {
		conn := upgrade(t, url)
		_, _ = conn.Write(request)
		conns = append(conns, conn)
	}
	held()
	harness.Eventually(t, "the outbound bytes stay within their bound", func() error {
		if n := gauge(t, url, "ganglion_outbound_bytes"); n > 16<<20 {
			return fmt.Errorf("%v bytes wait", n)
		}
		return nil
	})
	for _, conn := range conns {
		_ = conn.Close()
	}
}

// anonymousCrowd opens more anonymous sessions than the node takes, and more
// that say no hello.
func anonymousCrowd(t *testing.T, url string, held func()) {
	var conns []net.Conn
	for range 500 {
		conn := upgrade(t, url)
		_, _ = conn.Write(clientFrame(0x81, `{"op":"hello","id":"h"}`))
		conns = append(conns, conn)
	}
	for range 500 {
		conns = append(conns, upgrade(t, url))
	}
	held()
	if n := gauge(t, url, `ganglion_limited_total{limit="anonymous_sessions"}`); n < 300 {
		t.Errorf("anonymous sessions were refused %v times", n)
	}
	for _, conn := range conns {
		_ = conn.Close()
	}
}

// idleConnections opens connections and asks for nothing.
func idleConnections(t *testing.T, url string, held func()) {
	var conns []net.Conn
	for range 1000 {
		conns = append(conns, connect(t, url))
	}
	held()
	for _, conn := range conns {
		_ = conn.Close()
	}
}

// renewals renews the token of one session again and again.
func renewals(t *testing.T, url string, held func()) {
	requests := make([]string, 5_000)
	for i := range requests {
		requests[i] = fmt.Sprintf(`{"op":"auth","id":"%d","token":"dev:eve"}`, i)
	}
	answers := map[string]int{}
	answersTo(t, url, requests, func(f harness.Frame) { answers[f.Op+f.Code]++ })
	if answers["errorrate_limited"] < len(requests)/2 {
		t.Errorf("got %v, want most renewals refused", answers)
	}
	held()
}

// listings asks for the history of a category, on many connections, and reads
// none of the answers.
func listings(t *testing.T, url string, held func()) {
	var conns []net.Conn
	for range 300 {
		conn := connect(t, url)
		_, _ = io.WriteString(conn, "GET /v1/categories/counter/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer dev:eve\r\n\r\n")
		conns = append(conns, conn)
	}
	held()
	for _, conn := range conns {
		_ = conn.Close()
	}
}
