package feed

import (
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// counters are updated by the goroutines of a Subscriber.
type counters struct {
	batches, pushed, read                  atomic.Uint64
	holes, skips, overflows, refused, asks atomic.Uint64
}

// Stats has a Subscriber's counters since its creation, and its state.
type Stats struct {
	Watermark eventstore.Position `json:"watermark"` // the last position delivered
	Head      eventstore.Position `json:"head"`      // how far the log is known to reach
	Lag       uint64              `json:"lag"`       // events between Watermark and Head
	BehindMS  int64               `json:"behind_ms"` // see Behind
	Parked    int                 `json:"parked"`    // events above a hole

	Batches   uint64 `json:"batches"`   // messages received
	Pushed    uint64 `json:"pushed"`    // delivered events that a publisher had pushed
	Read      uint64 `json:"read"`      // delivered events that were read from the log
	Holes     uint64 `json:"holes"`     // holes that no push filled within 30 ms
	Skips     uint64 `json:"skips"`     // how often this node fell out of a publisher's ring
	Overflows uint64 `json:"overflows"` // frames that exceeded the bound of parked events
	Refused   uint64 `json:"refused"`   // refused frames and positions
	Asks      uint64 `json:"asks"`      // questions to the log

	Error   string        `json:"error,omitempty"` // the reason if nothing is delivered
	Streams []StreamStats `json:"streams"`         // one per live domain member
}

// StreamStats is the state of one stream.
type StreamStats struct {
	Member   string `json:"member"`
	Addr     string `json:"addr,omitempty"` // empty for the node's own publisher
	Healthy  bool   `json:"healthy"`
	Bye      bool   `json:"bye"`       // the member will commit nothing more
	SilentMS int64  `json:"silent_ms"` // since the last message; -1: none
}

// Stats returns the counters. They are not a consistent snapshot: they change
// while Stats reads them.
func (s *Subscriber) Stats() Stats {
	c := &s.counters
	st := Stats{
		Watermark: s.Watermark(),
		Head:      eventstore.Position(s.known.Load()),
		BehindMS:  s.Behind().Milliseconds(),
		Parked:    int(s.parked.Load()),
		Batches:   c.batches.Load(),
		Pushed:    c.pushed.Load(),
		Read:      c.read.Load(),
		Holes:     c.holes.Load(),
		Skips:     c.skips.Load(),
		Overflows: c.overflows.Load(),
		Refused:   c.refused.Load(),
		Asks:      c.asks.Load(),
		Streams:   []StreamStats{},
	}
	st.Head = max(st.Head, st.Watermark)
	st.Lag = uint64(st.Head - st.Watermark)
	if err := s.Err(); err != nil {
		st.Error = err.Error()
	}
	if sources := s.sources.Load(); sources != nil {
		now := time.Now()
		for _, src := range *sources {
			st.Streams = append(st.Streams, src.stats(now, s.cfg.Silence))
		}
	}
	return st
}
