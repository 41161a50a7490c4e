package feed

import (
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// counters are written by the goroutines of a Subscriber.
type counters struct {
	batches, pushed, read                  atomic.Uint64
	holes, skips, overflows, refused, asks atomic.Uint64
}

// Stats is what a Subscriber has done since it was made, and where it stands.
type Stats struct {
	Watermark eventstore.Position `json:"watermark"` // the last position delivered
	Head      eventstore.Position `json:"head"`      // how far the log is known to go
	Lag       uint64              `json:"lag"`       // events between the two
	BehindMS  int64               `json:"behind_ms"` // see Behind
	Parked    int                 `json:"parked"`    // events that wait for a hole to be filled

	Batches   uint64 `json:"batches"`   // messages received
	Pushed    uint64 `json:"pushed"`    // events delivered that a publisher had pushed
	Read      uint64 `json:"read"`      // events delivered that were read from the log
	Holes     uint64 `json:"holes"`     // holes that no push filled in time
	Skips     uint64 `json:"skips"`     // times that this node fell out of a publisher's ring
	Overflows uint64 `json:"overflows"` // frames that there was no room to park
	Refused   uint64 `json:"refused"`   // frames and positions that were not believed
	Asks      uint64 `json:"asks"`      // questions to the log

	Error   string        `json:"error,omitempty"` // why nothing is delivered
	Streams []StreamStats `json:"streams"`         // one per live domain member
}

// StreamStats is the state of one stream.
type StreamStats struct {
	Member   string `json:"member"`
	Addr     string `json:"addr,omitempty"` // empty for the node's own publisher
	Healthy  bool   `json:"healthy"`
	Bye      bool   `json:"bye"`       // the member has said that it commits nothing more
	SilentMS int64  `json:"silent_ms"` // since it was last heard; -1: never
}

// Stats returns the counters. They are read one after another, while the
// Subscriber goes on.
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
