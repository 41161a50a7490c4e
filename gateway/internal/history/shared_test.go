package history

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// stateReader counts the calls of Refresh.
type stateReader struct {
	refreshed atomic.Int64
	isGone    atomic.Bool
}

func (r *stateReader) IsWaiting() bool { return !r.isGone.Load() }
func (r *stateReader) Refresh()        { r.refreshed.Add(1) }

// sharedStates returns SharedStates that read the version *version.
func sharedStates(t *testing.T, version *atomic.Uint64, bytes int) *SharedStates {
	ctx, cancel := context.WithCancel(context.Background())
	data := []byte(`"` + strings.Repeat("x", bytes) + `"`)
	ss := NewSharedStates(ctx, func(context.Context, command.Get) (command.State, error) {
		if version.Load() == 0 {
			return command.State{}, command.Unavailable("the owner is away")
		}
		return command.State{Version: eventstore.Version(version.Load()), Data: data}, nil
	}, slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		cancel()
		ss.Stop()
	})
	return ss
}

func TestSharedStatesKeepBoundedMemory(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var version atomic.Uint64
		version.Store(1)
		const size = 1 << 20
		ss := sharedStates(t, &version, size)
		r := &stateReader{}
		for i := range 3 * stateMemory / size {
			ss.Get(r, "ada", eventstore.StreamID{Type: "auction", ID: fmt.Sprint(i)}, Place{Version: 1})
			synctest.Wait()
		}
		ss.mu.Lock()
		defer ss.mu.Unlock()
		if ss.bytes > stateMemory || ss.kept.Len() != stateMemory/size-1 || len(ss.streams) != ss.kept.Len() {
			t.Errorf("%d states of %d streams with %d bytes are kept", ss.kept.Len(), len(ss.streams), ss.bytes)
		}
		if got := r.refreshed.Load(); got != 3*stateMemory/size {
			t.Errorf("got %d refreshes", got)
		}
	})
}

func TestSharedStatesPaceTheReadsOfAStream(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var version atomic.Uint64
		version.Store(1)
		ss := sharedStates(t, &version, 10)
		stream, r := eventstore.StreamID{Type: "auction", ID: "1"}, &stateReader{}
		for v := range eventstore.Version(1000) { // an event each millisecond
			version.Store(uint64(v) + 1)
			ss.Get(r, "ada", stream, Place{Version: v + 1})
			time.Sleep(time.Millisecond)
		}
		time.Sleep(stateEvery)
		synctest.Wait()
		if got := ss.Reads(); got < 40 || got > 52 {
			t.Errorf("1,000 events in a second caused %d reads, want about 50", got)
		}
		if state, isNewest := ss.Get(r, "ada", stream, Place{Version: 1000}); !isNewest || state.Version != 1000 {
			t.Errorf("the newest state is not known")
		}
	})
}

func TestSharedStateIsReadAgainForLaterReaders(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var version atomic.Uint64
		version.Store(1)
		ss := sharedStates(t, &version, 10)
		stream, r := eventstore.StreamID{Type: "auction", ID: "1"}, &stateReader{}
		for range 5 {
			ss.Get(r, "ada", stream, Place{Version: 1})
			synctest.Wait()
			time.Sleep(stateAge / 2)
		}
		if got := ss.Reads(); got != 3 { // at 0, 10 and 20 s
			t.Errorf("got %d reads, want 3", got)
		}
	})
}

func TestSharedStatesRetryWhileAReaderWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var version atomic.Uint64
		ss := sharedStates(t, &version, 10)
		stream, first, second := eventstore.StreamID{Type: "auction", ID: "1"}, &stateReader{}, &stateReader{}
		ss.Get(first, "ada", stream, Place{Version: 1})
		ss.Get(second, "bob", stream, Place{Version: 1})
		first.isGone.Store(true)
		time.Sleep(time.Minute)
		version.Store(1)
		time.Sleep(stateRetry)
		synctest.Wait()
		if first.refreshed.Load() != 0 || second.refreshed.Load() != 1 {
			t.Errorf("got %d and %d refreshes, want 0 and 1", first.refreshed.Load(), second.refreshed.Load())
		}
		before := ss.Reads()
		if before > 40 {
			t.Errorf("%d reads in a minute", before)
		}
		version.Store(0)
		ss.Get(second, "bob", stream, Place{Version: 2})
		second.isGone.Store(true)
		time.Sleep(time.Minute)
		ss.mu.Lock()
		defer ss.mu.Unlock()
		if got := ss.Reads() - before; got > 1 || len(ss.pending) > 0 {
			t.Errorf("%d reads of %d streams without a reader", got, len(ss.pending))
		}
	})
}
