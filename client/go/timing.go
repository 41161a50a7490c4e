package ganglion

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"
)

// maxBackoff bounds the pause between attempts.
const maxBackoff = 20 * time.Second

// backoff returns a pause with full jitter: a random time below a bound that
// doubles with each attempt, from first to most
// (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
func (c *Client) backoff(attempt int, first, most time.Duration) time.Duration {
	if attempt < 16 {
		most = min(most, first<<attempt)
	}
	return time.Duration(c.options.Random() * float64(most))
}

// timer calls a function later, under the client's lock, unless it is stopped.
// Close waits for it.
type timer struct {
	c       *Client
	timer   *time.Timer
	stopped bool
}

// after calls f after d, under the client's lock. The caller must hold the lock.
// If the client is closed, after returns nil, a timer that never fires.
func (c *Client) after(d time.Duration, f func()) *timer {
	if c.status == Closed {
		return nil
	}
	t := &timer{c: c}
	c.tasks.Add(1)
	t.timer = time.AfterFunc(d, func() {
		defer c.tasks.Done()
		c.mu.Lock()
		defer c.unlock()
		if !t.stopped {
			t.stopped = true
			f()
		}
	})
	return t
}

// stop prevents a timer that has not fired from firing. t may be nil.
func (t *timer) stop() {
	if t == nil || t.stopped {
		return
	}
	t.stopped = true
	if t.timer.Stop() {
		t.c.tasks.Done()
	}
}

// NewKey returns a new key for a command: a UUIDv7 (RFC 9562). Such keys ascend
// with time, so the server adds them at the end of its index.
func NewKey() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], uint64(time.Now().UnixMilli())<<16)
	_, _ = rand.Read(b[6:]) // never fails
	b[6] = 0x70 | b[6]&0x0f
	b[8] = 0x80 | b[8]&0x3f
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// afterContext calls f once ctx has ended, unless stop is called before. Close
// waits for f.
func (c *Client) afterContext(ctx context.Context, f func()) (stop func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	c.tasks.Add(1)
	cancel := context.AfterFunc(ctx, func() {
		defer c.tasks.Done()
		f()
	})
	return func() {
		if cancel() {
			c.tasks.Done()
		}
	}
}
