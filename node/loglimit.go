package node

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

const (
	// maxLines is how many lines with the same message a node writes per
	// lineInterval. Clients can cause most of its lines, at any rate.
	maxLines     = 20
	lineInterval = time.Minute
	// maxMessages bounds the messages that are counted separately. Further ones
	// share one count.
	maxMessages = 1_000
)

// lineLimit is a [slog.Handler] that limits the lines with the same message, so a
// client cannot fill a disk. The last line before a gap has the gap's duration
// (suppressed_for), the first one after it the number of omitted lines (suppressed).
// Lines below Info are not limited, since an operator asked for them.
type lineLimit struct {
	slog.Handler
	lines *lineCounts // shared with handlers made by With and WithGroup
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
	if nth > maxLines {
		return nil
	}
	r = r.Clone()
	if nth == 1 && before > 0 {
		r.AddAttrs(slog.Int("suppressed", before))
	}
	if nth == maxLines {
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

// count counts a line. It returns the line's number in the current interval of its
// message, how many lines were omitted in the interval before, and when the current
// one ends.
func (c *lineCounts) count(message string, now time.Time) (nth, before int, ends time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.byMessage[message]
	if one == nil && len(c.byMessage) >= maxMessages {
		for m, old := range c.byMessage {
			if now.Sub(old.began) >= lineInterval {
				delete(c.byMessage, m)
			}
		}
		if len(c.byMessage) >= maxMessages {
			message = ""
			one = c.byMessage[message]
		}
	}
	if one == nil {
		one = &lineCount{began: now}
		c.byMessage[message] = one
	}
	if now.Sub(one.began) >= lineInterval {
		before = max(0, one.lines-maxLines)
		*one = lineCount{began: now}
	}
	one.lines++
	return one.lines, before, one.began.Add(lineInterval)
}
