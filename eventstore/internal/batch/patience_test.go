package batch

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/internal/guard"
	"github.com/ganglion-es/ganglion/eventstore/internal/stored"
)

// yielding is a database that answers immediately, but its caller yields the
// processor three times before it sees the answer.
type yielding struct{}

func (yielding) Ready() error {
	for range 3 {
		runtime.Gosched()
	}
	return nil
}

func (yielding) Append(units []*stored.Unit, _ bool) (Result, error) {
	return Result{Verdicts: make([]Verdict, len(units))}, nil
}

// TestBusyProcessorIsNotAnAwayDatabase keeps the processors so busy that one
// round of all goroutines takes longer than Patience.
func TestBusyProcessorIsNotAnAwayDatabase(t *testing.T) {
	const patience, turn = 20 * time.Millisecond, time.Millisecond
	c := New(Config{Backend: yielding{}, Saw: func(string, guard.Commit) error { return nil }, Patience: patience})
	defer c.Close()
	var (
		busy sync.WaitGroup
		stop atomic.Bool
	)
	for range 4 * runtime.GOMAXPROCS(0) * int(patience/turn) {
		busy.Go(func() {
			for !stop.Load() {
				for began := time.Now(); time.Since(began) < turn; {
				}
				runtime.Gosched()
			}
		})
	}
	defer busy.Wait()
	defer stop.Store(true)
	_, err := c.Append(t.Context(), eventstore.Unit{
		Stream:   eventstore.StreamID{Type: "counter", ID: "a"},
		Commands: []eventstore.Command{{Key: "k", At: time.Now(), Events: []eventstore.Event{{Type: "added", Data: []byte(`{}`)}}}},
	})
	if err != nil {
		t.Error(err)
	}
}
