package node

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// linesOfMessage is how many lines with one message a node writes within
	// linesWithin. Clients can repeat most of what makes a node write a line,
	// as fast as they like.
	linesOfMessage = 20
	linesWithin    = time.Minute
	// messagesMost bounds the messages that are told apart. Further ones share
	// one count.
	messagesMost = 1_000
)

// lineLimit is a [slog.Handler] that bounds the lines of each message, so a
// client that repeats something can't fill a disk. The last line that is
// written says for how long others are left out (suppressed_for), the next
// one how many were (suppressed). Lines below Info are not bounded: an operator
// asks for them.
type lineLimit struct {
	slog.Handler
	lines *lineCounts // shared by all that With and WithGroup made
}

func limitLines(h slog.Handler) slog.Handler {
	return lineLimit{h, &lineCounts{byMessage: map[string]*lineCount{}}}
}

func (l lineLimit) WithAttrs(attrs []slog.Attr) slog.Handler {
	return lineLimit{l.Handler.WithAttrs(attrs), l.lines}
}

func (l lineLimit) WithGroup(name string) slog.Handler {
	return lineLimit{l.Handler.WithGroup(name), l.lines}
}

func (l lineLimit) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelInfo {
		return l.Handler.Handle(ctx, r)
	}
	now := r.Time
	if now.IsZero() {
		now = time.Now()
	}
	nth, before, ends := l.lines.count(r.Message, now)
	if nth > linesOfMessage {
		return nil
	}
	r = r.Clone()
	if nth == 1 && before > 0 {
		r.AddAttrs(slog.Int("suppressed", before))
	}
	if nth == linesOfMessage {
		r.AddAttrs(slog.Duration("suppressed_for", ends.Sub(now).Round(time.Second)))
	}
	return l.Handler.Handle(ctx, r)
}

type lineCounts struct {
	mu        sync.Mutex
	byMessage map[string]*lineCount
}

type lineCount struct {
	began time.Time
	lines int
}

// count counts a line: which of its message it is in the present interval,
// how many were left out in the one before, and when the interval ends.
func (c *lineCounts) count(message string, now time.Time) (nth, before int, ends time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.byMessage[message]
	if one == nil && len(c.byMessage) >= messagesMost {
		for m, old := range c.byMessage {
			if now.Sub(old.began) >= linesWithin {
				delete(c.byMessage, m)
			}
		}
		if len(c.byMessage) >= messagesMost {
			message = ""
			one = c.byMessage[message]
		}
	}
	if one == nil {
		one = &lineCount{began: now}
		c.byMessage[message] = one
	}
	if now.Sub(one.began) >= linesWithin {
		before = max(0, one.lines-linesOfMessage)
		*one = lineCount{began: now}
	}
	one.lines++
	return one.lines, before, one.began.Add(linesWithin)
}
