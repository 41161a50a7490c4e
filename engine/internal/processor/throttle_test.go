package processor

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestProcessorsTakeTurnsAndRestWhileManyAppendsWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var pending atomic.Int64
		pending.Store(manyAppends)
		throttle := NewThrottle(func() int { return int(pending.Load()) })
		began := time.Now()
		running := 0
		batch := func() {
			if running++; running > 1 {
				t.Error("two batches run at the same time")
			}
			time.Sleep(10 * time.Millisecond)
			running--
		}
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				for range 3 {
					throttle.do(t.Context(), batch)
				}
			})
		}
		both.Wait()
		if took := time.Since(began); took != 6*50*time.Millisecond {
			t.Errorf("six batches of 10 ms took %s, want 300 ms", took)
		}
	})
}

func TestRestEndsWithTheBacklogOfAppends(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pending := manyAppends
		throttle := NewThrottle(func() int { return pending })
		began := time.Now()
		throttle.do(t.Context(), func() { time.Sleep(10 * time.Millisecond); pending = manyAppends - 1 })
		if took := time.Since(began); took != 10*time.Millisecond {
			t.Errorf("a batch of 10 ms took %s", took)
		}
	})
}

func TestBatchOfASegmentThatWaitsForItsTurnEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		throttle := NewThrottle(func() int { return manyAppends })
		ctx, cancel := context.WithCancel(t.Context())
		release := make(chan struct{})
		var first sync.WaitGroup
		first.Go(func() { throttle.do(ctx, func() { <-release }) })
		synctest.Wait()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			throttle.do(ctx, func() { t.Error("the batch ran out of turn") })
		}()
		cancel()
		<-ended
		close(release)
		first.Wait()
	})
}
