package limits

import (
	"context"
	"log/slog"
	"sort"
	"sync/atomic"
	"time"
)

// Holder is a session or an HTTP response: it holds bytes until a socket takes
// them.
type Holder interface {
	// Held returns the number of bytes, whether the client is anonymous, and
	// whether the connection is closing, so that the bytes are freed without
	// an eviction.
	Held() (bytes int, anonymous, closing bool)
	// Evict closes the connection. The close code of a session is 4100.
	Evict()
}

// Budget bounds the outbound buffers of all sockets together. It is safe for
// concurrent use.
type Budget struct {
	limit    int64
	counters *Counters
	log      *slog.Logger
	used     atomic.Int64
	exceeded chan struct{} // capacity 1
}

// NewBudget returns a budget of limit bytes.
func NewBudget(limit int, counters *Counters, log *slog.Logger) *Budget {
	return &Budget{limit: int64(limit), counters: counters, log: log, exceeded: make(chan struct{}, 1)}
}

// Add adds bytes that wait for a socket. A negative number removes them.
func (b *Budget) Add(bytes int) {
	if b.used.Add(int64(bytes)) > b.limit && bytes > 0 {
		select {
		case b.exceeded <- struct{}{}:
		default:
		}
	}
}

// Used returns the number of bytes that wait for sockets.
func (b *Budget) Used() int { return int(b.used.Load()) }

// IsCrowded reports whether more than half of the budget is used. Messages are
// then smaller, and the gateway does not read from clients with a full socket.
func (b *Budget) IsCrowded() bool { return b.used.Load() > b.limit/2 }

// evictionPause is the least time between two evictions. In that time, the
// evicted holders free their bytes.
const evictionPause = 20 * time.Millisecond

// Run evicts holders while the budget is exceeded, until ctx ends.
func (b *Budget) Run(ctx context.Context, holders func() []Holder) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-b.exceeded:
		case <-ctx.Done():
			return
		}
		b.evict(holders())
		pause.Reset(evictionPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
	}
}

// evict does nothing if the budget is not exceeded. Otherwise it evicts holders
// until three quarters of the budget are used: first the anonymous holders with
// at least the average of bytes, then the others, in each group the largest
// first.
func (b *Budget) evict(holders []Holder) {
	target, used := b.limit, b.used.Load()
	if used <= target {
		return
	}
	type held struct {
		Holder
		bytes int
		first bool
	}
	var candidates []held
	total := 0
	for _, h := range holders {
		switch bytes, anonymous, closing := h.Held(); {
		case closing:
			used -= int64(bytes)
		case bytes > 0:
			candidates = append(candidates, held{h, bytes, anonymous})
			total += bytes
		}
	}
	for i := range candidates {
		candidates[i].first = candidates[i].first && candidates[i].bytes >= total/len(candidates)
	}
	sort.Slice(candidates, func(i, j int) bool {
		a, b := candidates[i], candidates[j]
		if a.first != b.first {
			return a.first
		}
		return a.bytes > b.bytes
	})
	evicted := 0
	for _, h := range candidates {
		if used <= target {
			break
		}
		if evicted == 0 {
			target = target / 4 * 3
		}
		h.Evict()
		b.counters.Reached(OutboundBytes)
		used -= int64(h.bytes)
		evicted++
	}
	if evicted > 0 {
		b.log.Warn("outbound buffers are full; closed the connections with the most bytes", "closed", evicted, "waiting", used, "limit", b.limit)
	}
}
