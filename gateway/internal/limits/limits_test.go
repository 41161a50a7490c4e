package limits_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/gateway/internal/limits"
)

func TestEmptyBucketStaysShutLongerThanARoundTrip(t *testing.T) {
	t.Parallel()
	b, now := limits.NewBucket(2), time.Now()
	for range 2 {
		if after := b.Take(now); after != 0 {
			t.Fatalf("a full bucket refused for %v", after)
		}
	}
	if after := b.Take(now); after != 500*time.Millisecond {
		t.Errorf("an empty bucket refused for %v, want 500ms", after)
	}
	if after := b.Take(now.Add(499 * time.Millisecond)); after != time.Millisecond {
		t.Errorf("a shut bucket refused for %v, want 1ms", after)
	}
	if after := b.Take(now.Add(500 * time.Millisecond)); after != 0 {
		t.Errorf("a bucket that has filled again refused for %v", after)
	}
}

// holder is a Holder that sends its name to evicted.
type holder struct {
	bytes     int
	anonymous bool
	evicted   chan<- string
	name      string
}

func (h *holder) Held() (int, bool, bool) { return h.bytes, h.anonymous, false }
func (h *holder) Evict()                  { h.evicted <- h.name }

func TestBudgetEvictsLargeAnonymousHoldersFirst(t *testing.T) {
	t.Parallel()
	counters := &limits.Counters{}
	b := limits.NewBudget(1000, counters, slog.New(slog.DiscardHandler))
	evicted := make(chan string, 4)
	holders := []limits.Holder{
		&holder{100, true, evicted, "small and anonymous"},
		&holder{500, false, evicted, "largest"},
		&holder{300, true, evicted, "large and anonymous"},
		&holder{200, false, evicted, "second"},
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Run(ctx, func() []limits.Holder { return holders })
	}()
	b.Add(1100)
	for _, want := range []string{"large and anonymous", "largest"} {
		if got := <-evicted; got != want {
			t.Errorf("evicted the holder that is %s, want the one that is %s", got, want)
		}
	}
	cancel()
	<-done
	if n := counters.ByName()["outbound_bytes"]; n != 2 || len(evicted) > 0 {
		t.Errorf("%d evictions were counted and %d more followed, want 2 and 0", n, len(evicted))
	}
}
