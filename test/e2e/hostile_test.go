//go:build hostile

package e2e

import (
	"bytes"
	"context"
	wire "encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/test/harness"
)

// hostileMemory bounds the growth of a node's heap, garbage included, during one
// kind of attack.
const hostileMemory = 96 << 20

// TestHostileClients attacks a node in several ways. Each attack gets its expected
// reply. Meanwhile another session continues to send commands and receive events,
// and the memory of the node stays within its bound.
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
		{"one id for all requests", oneID},
		{"a header of a gigabyte", endlessHeader},
		{"hello with 31,000 subscriptions", longHello},
		{"unread states", unreadStates},
		{"a crowd of anonymous sessions", anonymousCrowd},
		{"a crowd of idle connections", idleConnections},
		{"a flood of renewals", renewals},
		{"a flood of listings", listings},
	} {
		t.Run(attack.name, func(t *testing.T) {
			// The attack calls held at its peak.
			attack.run(t, url, func() {
				t.Helper()
				other.makesProgress(t)
				newcomer(t, url)
				if now := heap(t, url); now > before+hostileMemory {
					t.Errorf("the heap grew from %d to %d MB", before>>20, now>>20)
				}
			})
			other.makesProgress(t)
		})
	}
	harness.Eventually(t, "the sessions of hostile clients end", func() error {
		if open := gauge(t, url, "ganglion_sessions"); open != 1 {
			return fmt.Errorf("%v sessions are open", open)
		}
		return nil
	})
}

// bystander is a normal client: in each round it adds to a counter and waits for
// the event.
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
			return fmt.Errorf("command %d got %s %s", want, f.Code, f.Message)
		}
		select {
		case got := <-events:
			if got != want {
				return fmt.Errorf("got event %d, want %d", got, want)
			}
		case <-s.Done():
			return s.Err()
		case <-ctx.Done():
			return ctx.Err()
		}
		b.rounds.Add(1)
	}
}

// makesProgress waits for 10 rounds of the bystander.
func (b *bystander) makesProgress(t *testing.T) {
	t.Helper()
	target := b.rounds.Load() + 10
	harness.Eventually(t, "the bystander makes progress", func() error {
		select {
		case err := <-b.failed:
			t.Fatalf("the bystander: %v", err)
		default:
		}
		if b.rounds.Load() < target {
			return errors.New("it has too few rounds")
		}
		return nil
	})
}

func heap(t *testing.T, url string) int {
	t.Helper()
	return int(gauge(t, url, "go_memstats_heap_alloc_bytes"))
}

// connect opens a TCP connection, which the end of the test closes.
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

// upgrade opens a WebSocket connection without a library.
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
		t.Fatalf("the reply to the handshake is %q", answer)
	}
	if bytes.Contains(answer, []byte("Extensions")) {
		t.Errorf("the reply has an extension: %q", answer)
	}
	return conn
}

// clientFrame returns a frame with a mask of zeros.
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

// ended reads until the server has closed the connection, and returns the last 256
// bytes.
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

// newcomer connects during an attack: the node admits it, and it receives an event
// from the log.
func newcomer(t *testing.T, url string) {
	t.Helper()
	s, err := harness.Dial(t.Context(), harness.WS(url), "newcomer", nil)
	if err != nil {
		t.Fatalf("a newcomer is rejected: %v", err)
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
