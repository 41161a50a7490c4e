package live

import (
	"maps"
	"sync"
	"sync/atomic"
)

// Stats are the figures of a registry.
type Stats struct {
	Live      int64 // live queries
	Questions int64 // distinct ones
	Entries   int64 // rows that questions hold, counted per question
	Scans     int64 // questions that no index of conditions finds
	// Resets counts resets by reason, since the start.
	Resets map[string]int64
	// Changes counts the changed rows that were read, since the start, Evaluations
	// the questions that were asked in the database, Loads the rows whose data was
	// read for a client.
	Changes, Evaluations, Loads int64
	CacheBytes                  int64
}

type counters struct {
	live, questions, entries, scans atomic.Int64
	changes, evaluations, loads     atomic.Int64

	mu     sync.Mutex
	resets map[string]int64
}

func (c *counters) reset(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.resets == nil {
		c.resets = map[string]int64{}
	}
	c.resets[reason]++
}

// Stats returns the figures of now.
func (r *Registry) Stats() Stats {
	c := &r.stats
	s := Stats{
		Live: c.live.Load(), Questions: c.questions.Load(), Entries: c.entries.Load(), Scans: c.scans.Load(),
		Changes: c.changes.Load(), Evaluations: c.evaluations.Load(), Loads: c.loads.Load(), CacheBytes: r.cache.bytes(),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Resets = map[string]int64{resetRebuilt: 0, resetExpired: 0, resetLog: 0, resetMended: 0, resetAccess: 0}
	maps.Copy(s.Resets, c.resets)
	return s
}
