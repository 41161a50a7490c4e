package stomp

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion/test/harness"
)

// hostile has streams of a hostile client: begin, and then up to 64 MB of repeat in
// one message.
var hostile = []struct{ name, begin, repeat, code string }{
	{"Body", "SEND\ndestination:/topic/x\n\n", "x", "too_large"},
	{"ContentLength", "SEND\ndestination:/topic/x\ncontent-length:2000000000\n\n", "x", "too_large"},
	{"Headers", "SEND\n", "a:b\n", "too_large"},
	{"Header", "SEND\na:", "x", "too_large"},
	{"Command", "", "x", "bad_request"},
	{"NULs", "", "\x00", "bad_request"},
	{"UndefinedEscapes", "SEND\n", "a:\\t\n", "bad_request"},
	{"Transaction", "BEGIN\ntransaction:t\n\n\x00", "SEND\ndestination:/topic/x\ntransaction:t\n\n\x00", "too_large"},
	{"Transactions", "", "BEGIN\ntransaction:%d\n\n\x00", "rate_limited"},
	{"Subscriptions", "", "SUBSCRIBE\nid:%d\ndestination:/topic/x\n\n\x00", "rate_limited"},
}

// TestHostileStreamsEndWithAnError also checks that no stream costs a gateway much
// memory.
func TestHostileStreamsEndWithAnError(t *testing.T) {
	t.Parallel()
	s := gateway(t)
	before := memory(t, s)
	t.Run("streams", func(t *testing.T) {
		for _, h := range hostile {
			t.Run(h.name, func(t *testing.T) {
				t.Parallel()
				c := connect(t, s)
				stop := c.flood(h.begin, h.repeat)
				f := c.take("ERROR")
				if f.Header.Get("code") != h.code || len(f.Body) == 0 {
					t.Errorf("got\n%s, want code:%s", text(f), h.code)
				}
				c.end()
				stop()
			})
		}
	})
	const most = 128 << 20 // with the race detector it takes up to 48 MiB of 640 that the clients may send
	if grown := memory(t, s) - before; grown > most {
		t.Errorf("the gateway has taken %d MiB, want at most %d", grown>>20, most>>20)
	}
}

// flood sends a message on another goroutine, until the connection ends. Each %d in
// repeat is another number. Call stop after that.
func (c *conn) flood(begin, repeat string) (stop func()) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w, err := c.ws.Writer(ctx, websocket.MessageText)
		if err != nil {
			return
		}
		_, err = io.WriteString(w, begin)
		for i := 0; err == nil && i < 64<<20; i += 64 << 10 {
			var piece strings.Builder
			for n := 0; piece.Len() < 64<<10; n++ {
				piece.WriteString(strings.Replace(repeat, "%d", fmt.Sprint(i+n), 1))
			}
			_, err = io.WriteString(w, piece.String()) // fails when the gateway has closed the connection
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

var resident = regexp.MustCompile(`(?m)^process_resident_memory_bytes (.*)$`)

// memory returns the memory of a gateway's process in bytes.
func memory(t *testing.T, s server) int64 {
	t.Helper()
	resp, err := harness.HTTP.Get(strings.Replace(strings.TrimSuffix(s.url, "/v1/stomp"), "ws", "http", 1) + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	m := resident.FindSubmatch(body)
	if err != nil || resp.StatusCode != http.StatusOK || m == nil {
		t.Fatalf("the metrics have no memory: %v %s", err, resp.Status)
	}
	n, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return int64(n)
}
