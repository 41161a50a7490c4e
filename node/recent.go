package node

import (
	"bytes"
	"context"
	"log/slog"
	"math"
	"sync"
)

const (
	// recentBytes is the minimum size of the newest log lines that a node keeps. They
	// use up to twice as much memory.
	recentBytes = 1 << 20
	// recentLineBytes bounds one line.
	recentLineBytes = 8 << 10
)

// recentLines are a node's newest log lines. It is safe for concurrent use.
type recentLines struct {
	mu   sync.Mutex
	text []byte // whole lines
}

// Write adds one line, with its newline.
func (l *recentLines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(line) > recentLineBytes {
		l.text = append(l.text, line[:recentLineBytes-1]...)
		l.text = append(l.text, '\n')
	} else {
		l.text = append(l.text, line...)
	}
	if len(l.text) > 2*recentBytes {
		cut := len(l.text) - recentBytes
		cut += bytes.IndexByte(l.text[cut-1:], '\n')
		l.text = append(l.text[:0], l.text[cut:]...)
	}
	return len(line), nil
}

// bytes returns a copy of all lines.
func (l *recentLines) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.text)
}

// recording is a [slog.Handler] that also writes each line to recentLines.
type recording struct {
	slog.Handler // decides about levels
	recent       *recentLines
	lines        slog.Handler // writes to recent
}

// Record returns a logger for [Config].Logger and for parts that run alongside the
// node, such as an Authenticator. 'ganglion debug' then collects the newest lines of
// both. With any other Logger it collects only the node's.
func Record(log *slog.Logger) *slog.Logger { return slog.New(record(log.Handler())) }

// record returns a handler that also records lines. If h already does, it returns h.
func record(h slog.Handler) recording {
	if r, ok := h.(recording); ok {
		return r
	}
	recent := new(recentLines)
	return recording{h, recent, slog.NewTextHandler(recent, &slog.HandlerOptions{Level: slog.Level(math.MinInt)})}
}

func (r recording) WithAttrs(attrs []slog.Attr) slog.Handler {
	return recording{r.Handler.WithAttrs(attrs), r.recent, r.lines.WithAttrs(attrs)}
}

func (r recording) WithGroup(name string) slog.Handler {
	return recording{r.Handler.WithGroup(name), r.recent, r.lines.WithGroup(name)}
}

func (r recording) Handle(ctx context.Context, line slog.Record) error {
	_ = r.lines.Handle(ctx, line.Clone()) // a write into memory does not fail
	return r.Handler.Handle(ctx, line)
}
