package node

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

func TestRepeatedLogLinesAreLimitedAndCounted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var text bytes.Buffer
		log := slog.New(limitLines(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug})))
		repeat := func(times int) []string {
			text.Reset()
			for i := range times {
				log.With("session", i).Info("session closed")
			}
			return strings.Split(strings.TrimSpace(text.String()), "\n")
		}
		lines := repeat(1_000)
		if len(lines) != maxLines || !strings.Contains(lines[len(lines)-1], "suppressed_for=1m0s") {
			t.Errorf("1,000 repeats wrote %d lines, the last %s", len(lines), lines[len(lines)-1])
		}
		log.Warn("something else")
		log.Debug("session closed")
		if n := strings.Count(text.String(), "\n"); n != maxLines+2 {
			t.Errorf("another message and a line for debugging: %d lines in all", n)
		}
		time.Sleep(lineInterval)
		if lines = repeat(1); !strings.Contains(lines[0], "suppressed=980") {
			t.Errorf("after %v: %s", lineInterval, lines[0])
		}
	})
}

func TestExcessLogMessagesShareOneCount(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	log := slog.New(limitLines(slog.NewTextHandler(&text, nil)))
	for i := range 5 * maxMessages {
		log.Info(fmt.Sprint("message ", i))
	}
	if n := strings.Count(text.String(), "\n"); n != maxMessages+maxLines {
		t.Errorf("%d messages wrote %d lines", 5*maxMessages, n)
	}
}

// fragile panics at each command.
type fragile struct{}

type drop struct{}

func (drop) Decide(aggregate.Call, fragile) (aggregate.Decision[fragile], error) { panic("it broke") }

type dropped struct{}

func (dropped) Apply(*fragile) {}

// syncBuffer is a buffer for concurrent use.
type syncBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

// TestClientCannotFillLogByRepeatingCommand runs an application that panics at each
// command.
func TestClientCannotFillLogByRepeatingCommand(t *testing.T) {
	t.Parallel()
	var catalog aggregate.Catalog
	aggregate.Define(&catalog, aggregate.Type[fragile]{
		Name:     "vase",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[fragile]{"drop": drop{}},
		Events:   aggregate.Events[fragile]{"dropped": dropped{}},
	})
	var text syncBuffer
	ctx, stop := context.WithCancel(t.Context())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() {
		done <- Run(ctx, Config{
			Catalog: &catalog, Name: "n1", Store: t.TempDir(), Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0",
			Logger: slog.New(slog.NewTextHandler(&text, nil)), Ready: func(url string) { ready <- url },
		})
	}()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	var url string
	select {
	case url = <-ready:
	case err := <-done:
		done <- nil
		t.Fatal(err)
	}
	began := time.Now()
	for range 3 * maxLines {
		resp, err := http.Post(url+"/v1/commands", "application/json", strings.NewReader(`{"id":"1","aggregate":"vase/1","command":"drop","data":{}}`))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode >= http.StatusServiceUnavailable { // a busy machine stopped the process for a while
			continue
		}
		if resp.StatusCode != http.StatusInternalServerError {
			t.Fatal(resp.Status)
		}
	}
	most := maxLines * (1 + int(time.Since(began)/lineInterval)) // a busy machine may need more than one interval
	if n := strings.Count(text.String(), "it broke"); n == 0 || n > most {
		t.Errorf("%d commands wrote %d lines", 3*maxLines, n)
	}
}
