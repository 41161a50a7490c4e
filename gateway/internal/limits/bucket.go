package limits

import (
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Bucket bounds commands per second. It holds one second's worth of commands and
// refills at that rate. A nil Bucket never refuses. It is not safe for
// concurrent use.
type Bucket struct {
	tokens    *rate.Limiter
	shutUntil time.Time // refuses everything until then
}

// shutFor is how long an empty bucket refuses all commands. It is longer than
// most round trips, so that commands which a client sent before it learned of
// the refusal are refused, too. The client's commands then keep their order.
const shutFor = 500 * time.Millisecond

// NewBucket returns a full bucket, or nil if perSecond is 0.
func NewBucket(perSecond int) *Bucket {
	if perSecond == 0 {
		return nil
	}
	return &Bucket{tokens: rate.NewLimiter(rate.Limit(perSecond), perSecond)}
}

// Take takes one command from the bucket and returns 0. If the bucket refuses
// the command, Take returns the time to wait before the next one.
func (b *Bucket) Take(now time.Time) (after time.Duration) {
	if b == nil {
		return 0
	}
	if now.Before(b.shutUntil) {
		return b.shutUntil.Sub(now)
	}
	if b.tokens.AllowN(now, 1) {
		return 0
	}
	b.shutUntil = now.Add(shutFor)
	return shutFor
}

// isFull reports whether the bucket is like a new one.
func (b *Bucket) isFull(now time.Time) bool {
	return !now.Before(b.shutUntil) && b.tokens.TokensAt(now) >= float64(b.tokens.Burst())
}

// Buckets has a bucket for each client that sends commands over HTTP, without a
// session. It drops full buckets, so its size is about the number of clients
// that sent a command in the last second. It is not an LRU cache, which would
// also drop buckets that are not full, and so raise the limits of their clients.
// Buckets is safe for concurrent use.
type Buckets struct {
	perSecond int

	mu       sync.Mutex
	byClient map[string]*Bucket
	sweepAt  int // the number of buckets at which full ones are dropped
}

// sweepLeast is the number of buckets below which full ones are not dropped.
const sweepLeast = 1024

// NewBuckets returns buckets for perSecond commands; 0 means no limit.
func NewBuckets(perSecond int) *Buckets {
	return &Buckets{perSecond: perSecond, byClient: make(map[string]*Bucket)}
}

// Take takes from a client's bucket as [Bucket.Take] does.
func (b *Buckets) Take(client string, now time.Time) (after time.Duration) {
	if b.perSecond == 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	own := b.byClient[client]
	if own == nil {
		if len(b.byClient) >= max(b.sweepAt, sweepLeast) {
			for client, idle := range b.byClient {
				if idle.isFull(now) {
					delete(b.byClient, client)
				}
			}
			b.sweepAt = 2 * len(b.byClient)
		}
		own = NewBucket(b.perSecond)
		b.byClient[client] = own
	}
	return own.Take(now)
}
