package token

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// source is a source of keys with a settable result and delay. It counts its
// reads.
type source struct {
	mu    sync.Mutex
	set   string
	err   error
	after time.Duration // delay of a read
	loads atomic.Int64
	now   atomic.Int64 // reads in progress
	most  atomic.Int64 // highest value of now
}

func (s *source) setResult(set string, err error, after time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set, s.err, s.after = set, err, after
}

func (s *source) load(ctx context.Context) (*keySet, error) {
	s.loads.Add(1)
	s.most.Store(max(s.most.Load(), s.now.Add(1)))
	defer s.now.Add(-1)
	s.mu.Lock()
	set, err, after := s.set, s.err, s.after
	s.mu.Unlock()
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return &keySet{raw: []byte(set), keys: []key{{kid: set}}}, nil
}

// withKeeper runs test with a keeper that reads from a source, in a synctest
// bubble.
func withKeeper(t *testing.T, test func(t *testing.T, s *source, k *keeper)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &source{set: "one"}
		k := newKeeper(Config{
			JWKS: "unused", Refresh: 10 * time.Minute, Floor: 10 * time.Second, FetchTimeout: 5 * time.Second, Wait: 2 * time.Second,
			Logger: slog.New(slog.DiscardHandler),
		})
		k.load = s.load
		if err := k.read(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); k.run(ctx) }()
		synctest.Wait()
		test(t, s, k)
		cancel()
		<-done
	})
}

func (k *keeper) kid() string { return k.current.Load().keys[0].kid }

func TestKeysAreReadAgainAtIntervals(t *testing.T) {
	withKeeper(t, func(t *testing.T, s *source, k *keeper) {
		s.setResult("two", nil, 0)
		time.Sleep(10*time.Minute - time.Second)
		if synctest.Wait(); k.kid() != "one" {
			t.Error("the keys were read before the interval had passed")
		}
		time.Sleep(time.Second)
		if synctest.Wait(); k.kid() != "two" {
			t.Error("the keys were not read again")
		}
	})
}

func TestManyUnknownKeysCauseOneRead(t *testing.T) {
	withKeeper(t, func(t *testing.T, s *source, k *keeper) {
		s.setResult("two", nil, time.Second)
		old := k.current.Load()
		var waiting sync.WaitGroup
		for range 1000 {
			waiting.Go(func() {
				if newer := k.newer(t.Context(), old); newer.keys[0].kid != "two" {
					t.Error("a client waited and still got the old keys")
				}
			})
		}
		waiting.Wait()
		if n := s.loads.Load() - 1; n != 1 || s.most.Load() != 1 {
			t.Errorf("%d reads, %d concurrent; want 1", n, s.most.Load())
		}
	})
}

func TestUnknownKeysRespectTheFloor(t *testing.T) {
	withKeeper(t, func(t *testing.T, s *source, k *keeper) {
		begun := time.Now()
		for time.Since(begun) < 5*time.Minute { // a constant stream of tokens with unknown keys
			k.newer(t.Context(), k.current.Load())
			time.Sleep(10 * time.Millisecond)
		}
		if n := s.loads.Load() - 1; n < 29 || n > 31 {
			t.Errorf("%d reads in 5 minutes with a floor of 10 s", n)
		}
	})
}

func TestSlowSourceDelaysClientsForBoundedTime(t *testing.T) {
	withKeeper(t, func(t *testing.T, s *source, k *keeper) {
		s.setResult("two", nil, 4*time.Second) // longer than Wait, shorter than FetchTimeout
		begun, old := time.Now(), k.current.Load()
		if newer := k.newer(t.Context(), old); newer != old || time.Since(begun) != 2*time.Second {
			t.Errorf("after %v: %s", time.Since(begun), newer.raw)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if k.newer(ctx, old); time.Since(begun) != 3*time.Second {
			t.Errorf("a client whose context ended waited until %v", time.Since(begun))
		}
		if newer := k.newer(t.Context(), old); newer == old || time.Since(begun) != 4*time.Second {
			t.Errorf("the keys arrived after %v", time.Since(begun))
		}
	})
}

func TestFailedReadsKeepKeysAndBackOff(t *testing.T) {
	withKeeper(t, func(t *testing.T, s *source, k *keeper) {
		s.setResult("", errors.New("down"), 0)
		time.Sleep(10 * time.Minute) // the first failure
		synctest.Wait()
		time.Sleep(10 * time.Minute) // retries after pauses of 10, 20, 40, 80 and 160 s; the next pause is 320 s
		synctest.Wait()
		if n := s.loads.Load() - 1; n != 6 || k.kid() != "one" {
			t.Errorf("%d reads, keys %s", n, k.kid())
		}
		s.setResult("never", nil, time.Hour) // a server that hangs
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if k.kid() != "one" || s.most.Load() != 1 {
			t.Errorf("keys %s, %d concurrent reads", k.kid(), s.most.Load())
		}
		s.setResult("two", nil, 0)
		time.Sleep(11 * time.Minute)
		if synctest.Wait(); k.kid() != "two" {
			t.Error("no new keys after the source had recovered")
		}
	})
}

func TestClientDoesNotWaitWithoutRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		k := newKeeper(Config{JWKS: "unused", Wait: 2 * time.Second, Logger: slog.New(slog.DiscardHandler)})
		begun := time.Now()
		if k.newer(t.Context(), k.current.Load()); time.Since(begun) != 0 {
			t.Errorf("waited for %v", time.Since(begun))
		}
	})
}

func TestStoppedKeeperReleasesWaitingClients(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &source{set: "one", after: time.Hour}
		k := newKeeper(Config{
			JWKS: "unused", Refresh: time.Minute, Floor: time.Second, FetchTimeout: time.Hour, Wait: time.Hour, Logger: slog.New(slog.DiscardHandler),
		})
		k.load = s.load
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { k.run(ctx) })
		synctest.Wait()
		for range 10 {
			all.Go(func() { k.newer(t.Context(), k.current.Load()) })
		}
		synctest.Wait()
		begun := time.Now()
		cancel()
		if all.Wait(); time.Since(begun) != 0 {
			t.Errorf("clients were released after %v", time.Since(begun))
		}
	})
}

func TestHTTPIsAllowedForLoopbackOnly(t *testing.T) {
	t.Parallel()
	for i, c := range []struct {
		url   string
		allow bool
		valid bool
	}{
		{"https://example.com/k", false, true},
		{"http://example.com/k", false, false},
		{"http://example.com/k", true, true},
		{"http://127.0.0.1:1/k", false, true},
		{"http://[::1]/k", false, true},
		{"http://localhost/k", false, true},
		{"http://127.0.0.1.example.com/k", false, false},
		{"file:///etc/passwd", true, false},
	} {
		_, err := Config{JWKS: c.url, AllowHTTP: c.allow}.withDefaults()
		if (err == nil) != c.valid {
			t.Error(strconv.Itoa(i), c.url, c.allow, err)
		}
	}
}
