package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// lots is the number of streams of a backlog. One event of each is being written
	// at any time.
	lots = 200
	// members is the number of members of a group, and partitions that of its
	// segments, of a rival's queues, or of its consumers.
	members, partitions = 3, 16
	// ackEvery is the number of events for which one acknowledgement is sent, and
	// ackDelay how long fewer events wait for it: the values of client/go.
	ackEvery, ackDelay = 100, 50 * time.Millisecond
	// window bounds the unacknowledged events of a partition.
	window = 2 * ackEvery
)

// bid is the event. With its note, it has about 250 bytes.
type bid struct {
	Lot    int    `json:"lot"`
	N      int    `json:"n"` // 0, 1, … within the lot
	Bidder string `json:"bidder"`
	Note   string `json:"note"`
}

var note = strings.Repeat("An oak table of 1780. ", 8)

func lotID(n int) string { return fmt.Sprintf("lot-%03d", n) }

// fill writes a backlog with a writer for each lot, which waits for the confirmation
// of an event before it writes the next. It returns the events per second.
func fill(ctx context.Context, events int, write func(ctx context.Context, lot, n int, data []byte) error) (rate float64, err error) {
	start := time.Now()
	writing, ctx := errgroup.WithContext(ctx)
	for lot := range lots {
		writing.Go(func() error {
			for n := range (events - lot + lots - 1) / lots {
				data, err := json.Marshal(bid{Lot: lot, N: n, Bidder: fmt.Sprintf("client-%04d", (lot+n)%10_000), Note: note})
				if err != nil {
					return err
				}
				if err := write(ctx, lot, n, data); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err = writing.Wait()
	return float64(events) / time.Since(start).Seconds(), err
}

// tally counts the events of one backlog that members receive, and checks their order.
// It is safe for concurrent use.
type tally struct {
	all chan struct{} // closed when every event has arrived

	mu          sync.Mutex
	missing     int
	next        [lots]int // the expected event of each lot
	repeated    int       // events that arrived before
	misplaced   int       // events that arrived before an earlier one of their lot
	first, last time.Time // arrivals
}

func newTally(events int) *tally { return &tally{all: make(chan struct{}), missing: events} }

// observe counts an event.
func (t *tally) observe(data []byte) error {
	var b bid
	if err := json.Unmarshal(data, &b); err != nil {
		return err
	}
	if b.Lot < 0 || b.Lot >= lots {
		return fmt.Errorf("an event of lot %d arrived, which has none", b.Lot)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first.IsZero() {
		t.first = time.Now()
	}
	switch next := &t.next[b.Lot]; {
	case b.N < *next:
		t.repeated++
		return nil
	case b.N > *next:
		t.misplaced++
		return nil
	default:
		*next++
	}
	if t.missing--; t.missing == 0 {
		t.last = time.Now()
		close(t.all)
	}
	return nil
}

// result returns the events per second from the first to the last, and the numbers of
// repeated and misplaced ones. Call it once all is closed.
func (t *tally) result() (rate float64, repeated, misplaced int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	got := 0
	for _, n := range t.next {
		got += n
	}
	return float64(got) / t.last.Sub(t.first).Seconds(), t.repeated, t.misplaced
}

// acknowledge observes the messages of a partition, and acknowledges up to ackEvery
// together: ack also acknowledges all earlier messages. When ctx ends, it acknowledges
// the last ones and returns.
func acknowledge[M any](ctx context.Context, messages <-chan M, body func(M) []byte, ack func(M) error, t *tally) error {
	var newest M
	pending := 0
	ticker := time.NewTicker(ackDelay)
	defer ticker.Stop()
	for isOver := false; !isOver; {
		select {
		case m, isOpen := <-messages:
			if !isOpen {
				return errors.New("the server closed a subscription")
			}
			if err := t.observe(body(m)); err != nil {
				return err
			}
			newest = m
			if pending++; pending < ackEvery {
				continue
			}
		case <-ticker.C:
		case <-ctx.Done():
			isOver = true
		}
		if pending > 0 {
			pending = 0
			if err := ack(newest); err != nil {
				return err
			}
		}
	}
	return nil
}
