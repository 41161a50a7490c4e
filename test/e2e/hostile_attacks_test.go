//go:build hostile

package e2e

import (
	"bytes"
	wire "encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/test/harness"
)

// slowHandshakes sends a header byte by byte and never completes it.
func slowHandshakes(t *testing.T, url string, held func()) {
	var sending sync.WaitGroup
	for i := range 200 {
		conn := connect(t, url)
		sending.Go(func() {
			for n := 0; i%2 == 0; n++ { // the other connections send nothing
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

// noHello opens WebSocket connections and sends nothing.
func noHello(t *testing.T, url string, held func()) {
	var conns []net.Conn
	for range 200 {
		conns = append(conns, upgrade(t, url))
	}
	held()
	for _, conn := range conns {
		if last := ended(t, conn); !bytes.Contains(last, wire.BigEndian.AppendUint16(nil, 4003)) {
			t.Fatalf("the session was closed with %q, want 4003", last)
		}
	}
}

// aMillionPings sends a million pings on one connection, and reads the pongs.
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
		t.Errorf("after a million pings the session does not reply: %v", err)
	}
}

// neverReading sends requests without reading the replies, until the node stops
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
			return fmt.Errorf("it stopped for %v sessions", n)
		}
		return nil
	})
	held()
	for _, conn := range conns {
		_ = conn.Close()
	}
	sending.Wait()
}

// garbage sends random bytes.
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

// compressionBombs sends compressed messages, although the handshake agreed on no
// compression.
func compressionBombs(t *testing.T, url string, held func()) {
	bomb := clientFrame(0x80|0x40|0x1, "\xec\xc1\x01"+strings.Repeat("\x00", 64<<10))
	for range 20 {
		conn := upgrade(t, url)
		_, _ = conn.Write(bomb)
		if last := ended(t, conn); !bytes.Contains(last, wire.BigEndian.AppendUint16(nil, 1002)) {
			t.Errorf("the session was closed with %q, want 1002", last)
		}
	}
	held()
}

// answersTo sends requests, 500 per message, and calls count for each reply.
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
			t.Errorf("after %d replies: %v", answered, err)
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

// subscriptionFlood subscribes to 20 times as many streams as a session may.
func subscriptionFlood(t *testing.T, url string, held func()) {
	requests := make([]string, 20_000)
	for i := range requests {
		requests[i] = fmt.Sprintf(`{"op":"subscribe","id":"%d","stream":"auction/%d"}`, i, i)
	}
	answers := map[string]int{}
	answersTo(t, url, requests, func(f harness.Frame) { answers[f.Op+f.Code]++ })
	if answers["subscribed"] != 1000 || answers["errorrate_limited"] != len(requests)-1000 {
		t.Errorf("got %v, want 1,000 subscriptions and all others refused", answers)
	}
	held()
}

// oneID uses the id of a subscription for 10,000 other requests.
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

// endlessHeader tries to send a header of a gigabyte.
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
	// The kernel's buffers accept a part.
	if sent > 64<<20 {
		t.Errorf("the node accepted %d MB of a header", sent>>20)
	}
	held()
}

// longHello sends hello with as many wrong subscriptions as fit into a message.
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
			t.Fatalf("the session was closed with %q, want 4101", last)
		}
	}
}

// unreadStates requests large states on anonymous sessions, and reads none.
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
			return fmt.Errorf("%v bytes are pending", n)
		}
		return nil
	})
	for _, conn := range conns {
		_ = conn.Close()
	}
}

// anonymousCrowd opens more anonymous sessions than the node allows, and 500 more
// without hello.
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

// idleConnections opens connections and sends nothing.
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

// renewals renews the token of one session 5,000 times.
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

// listings requests the history of a category on 300 connections, and reads no
// reply.
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
