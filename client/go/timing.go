package ganglion

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"time"
)

// longestWait is the longest pause between attempts.
const longestWait = 20 * time.Second

// backoff is full jitter: anything from nothing up to a bound that doubles
// with each attempt, from first to most
// (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
func (c *Client) backoff(attempt int, first, most time.Duration) time.Duration {
	if attempt < 16 {
		most = min(most, first<<attempt)
	}
	return time.Duration(c.options.Random() * float64(most))
}

// timer is something that happens later under the client's lock, unless it is
// stopped. Close waits for it.
type timer struct {
	c       *Client
	timer   *time.Timer
	stopped bool
}

// after calls f, under the client's lock, once d has passed. It returns nil,
// which never happens, if the client is closed.
func (c *Client) after(d time.Duration, f func()) *timer {
	if c.status == Closed {
		return nil
	}
	t := &timer{c: c}
	c.work.Add(1)
	t.timer = time.AfterFunc(d, func() {
		defer c.work.Done()
		c.mu.Lock()
		defer c.unlock()
		if !t.stopped {
			t.stopped = true
			f()
		}
	})
	return t
}

// stop makes a timer never happen, if it has not. It may be nil.
func (t *timer) stop() {
	if t == nil || t.stopped {
		return
	}
	t.stopped = true
	if t.timer.Stop() {
		t.c.work.Done()
	}
}

// NewKey returns a new key for a command: a UUIDv7 (RFC 9562), which is
// ordered by time and so kind to the server's index.
func NewKey() string {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], uint64(time.Now().UnixMilli())<<16)
	_, _ = rand.Read(b[6:]) // never fails
	b[6] = 0x70 | b[6]&0x0f
	b[8] = 0x80 | b[8]&0x3f
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// when calls f once ctx has ended, unless stop is called before. Close waits
// for it.
func (c *Client) when(ctx context.Context, f func()) (stop func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	c.work.Add(1)
	cancel := context.AfterFunc(ctx, func() {
		defer c.work.Done()
		f()
	})
	return func() {
		if cancel() {
			c.work.Done()
		}
	}
}
