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

// inLine is a database that answers at once, to somebody who has to wait in line
// for a processor for each of a few answers.
type inLine struct{}

func (inLine) Ready() error {
	for range 3 {
		runtime.Gosched()
	}
	return nil
}

func (inLine) Append(units []*stored.Unit, _ bool) (Result, error) {
	return Result{Verdicts: make([]Verdict, len(units))}, nil
}

// TestABusyProcessorIsNoDatabaseThatIsAway has so many goroutines take turns that
// a round of them takes longer than Patience.
func TestABusyProcessorIsNoDatabaseThatIsAway(t *testing.T) {
	const patience, turn = 20 * time.Millisecond, time.Millisecond
	c := New(Config{Backend: inLine{}, Saw: func(string, guard.Commit) error { return nil }, Patience: patience})
	defer c.Close()
	var (
		line sync.WaitGroup
		stop atomic.Bool
	)
	for range 4 * runtime.GOMAXPROCS(0) * int(patience/turn) {
		line.Go(func() {
			for !stop.Load() {
				for began := time.Now(); time.Since(began) < turn; {
				}
				runtime.Gosched()
			}
		})
	}
	defer line.Wait()
	defer stop.Store(true)
	_, err := c.Append(t.Context(), eventstore.Unit{
		Stream:   eventstore.StreamID{Type: "counter", ID: "a"},
		Commands: []eventstore.Command{{Key: "k", At: time.Now(), Events: []eventstore.Event{{Type: "added", Data: []byte(`{}`)}}}},
	})
	if err != nil {
		t.Error(err)
	}
}
