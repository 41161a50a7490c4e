package engine

import (
	"math/bits"
	"sync/atomic"
)

// Stats are a host's current sizes, and its counts since New.
type Stats struct {
	Cached      int `json:"cached"`       // states in memory
	CachedBytes int `json:"cached_bytes"` // estimated
	Active      int `json:"active"`       // aggregates with a worker
	Pending     int `json:"pending"`      // commands and gets that wait or are in progress

	Commands  uint64 `json:"commands"` // submitted
	Gets      uint64 `json:"gets"`
	Units     uint64 `json:"units"`     // successful appends
	Confirmed uint64 `json:"confirmed"` // commands in them, with events or without
	Commits   uint64 `json:"commits"`   // commands in them that had events
	Rejected  uint64 `json:"rejected"`  // by business rules
	Replays   uint64 `json:"replays"`   // known keys that got their first outcome
	Conflicts uint64 `json:"conflicts"` // appends that found the stream at another version
	Busy      uint64 `json:"busy"`      // refused because a queue was full, or after too many conflicts
	Late      uint64 `json:"late"`      // not begun because the deadline had passed
	Ahead     uint64 `json:"ahead"`     // decided although the newest event was more than a minute ahead of the clock
	Unknown   uint64 `json:"unknown"`   // units with an unknown outcome
	// Unavailable counts appends and reads that did not reach the database.
	Unavailable uint64 `json:"unavailable"`
	// Internal counts faults of application code and of the store. Clients see
	// them as internal, and each is logged.
	Internal uint64 `json:"internal"`

	Hits         uint64 `json:"hits"`  // gets and drains that found the state in memory
	Loads        uint64 `json:"loads"` // of an aggregate, or of its newest events
	EventsLoaded uint64 `json:"events_loaded"`
	Evicted      uint64 `json:"evicted"`     // states removed to keep the cache's bounds
	Invalidated  uint64 `json:"invalidated"` // idle states outdated by another node's commit
	Pauses       uint64 `json:"pauses"`      // of the process; each drops every state

	Snapshots        uint64 `json:"snapshots"` // written
	SnapshotsUsed    uint64 `json:"snapshots_used"`
	SnapshotsDropped uint64 `json:"snapshots_dropped"` // not written

	// Drains counts the batches taken from mailboxes, Drained the commands in
	// them, and DrainSizes[i] the batches of more than 2^(i-1) and at most 2^i
	// commands; the last also counts larger ones.
	Drains     uint64    `json:"drains"`
	Drained    uint64    `json:"drained"`
	DrainSizes [9]uint64 `json:"drain_sizes"`
}

type counters struct {
	commands, gets, units, confirmed, commits, rejected, replays, conflicts, busy, late, ahead atomic.Uint64
	unknown, unavailable, internal                                                             atomic.Uint64
	hits, loads, eventsLoaded, evicted, invalidated, pauses                                    atomic.Uint64
	snapshots, snapshotsUsed, snapshotsDropped                                                 atomic.Uint64
	drains, drainedCommands                                                                    atomic.Uint64
	drainSizes                                                                                 [9]atomic.Uint64
}

func (c *counters) countDrain(n int) {
	c.drains.Add(1)
	c.drainedCommands.Add(uint64(n))
	c.drainSizes[min(bits.Len(uint(n-1)), len(c.drainSizes)-1)].Add(1)
}

// Stats returns the current figures. They are read one after another, so sums of
// several figures may be inconsistent.
func (h *Host) Stats() Stats {
	c := &h.counters
	s := Stats{
		Commands: c.commands.Load(), Gets: c.gets.Load(),
		Units: c.units.Load(), Confirmed: c.confirmed.Load(), Commits: c.commits.Load(),
		Rejected: c.rejected.Load(), Replays: c.replays.Load(), Conflicts: c.conflicts.Load(),
		Busy: c.busy.Load(), Late: c.late.Load(), Ahead: c.ahead.Load(),
		Unknown: c.unknown.Load(), Unavailable: c.unavailable.Load(), Internal: c.internal.Load(),
		Hits: c.hits.Load(), Loads: c.loads.Load(), EventsLoaded: c.eventsLoaded.Load(),
		Evicted: c.evicted.Load(), Invalidated: c.invalidated.Load(), Pauses: c.pauses.Load(),
		Snapshots: c.snapshots.Load(), SnapshotsUsed: c.snapshotsUsed.Load(), SnapshotsDropped: c.snapshotsDropped.Load(),
		Drains: c.drains.Load(), Drained: c.drainedCommands.Load(),
	}
	for i := range c.drainSizes {
		s.DrainSizes[i] = c.drainSizes[i].Load()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.Cached, s.CachedBytes = h.cache.states, h.cache.bytes
	s.Active, s.Pending = h.pending.workers, h.pending.requests
	return s
}
