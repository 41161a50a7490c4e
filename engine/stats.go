package engine

import (
	"math/bits"
	"sync/atomic"
)

// Stats is what a host has done since it was made, and what it holds now.
type Stats struct {
	// What it holds now.
	Cached      int `json:"cached"`       // states in memory
	CachedBytes int `json:"cached_bytes"` // estimated
	Active      int `json:"active"`       // aggregates being worked on
	Pending     int `json:"pending"`      // commands and gets waiting or in progress

	Commands  uint64 `json:"commands"` // handed in
	Gets      uint64 `json:"gets"`
	Units     uint64 `json:"units"`     // appends that succeeded
	Confirmed uint64 `json:"confirmed"` // commands in those, with events or without
	Commits   uint64 `json:"commits"`   // commands in those that had events
	Rejected  uint64 `json:"rejected"`  // by business rules
	Replays   uint64 `json:"replays"`   // known keys that got their first answer
	Conflicts uint64 `json:"conflicts"` // appends that found the stream moved on
	Busy      uint64 `json:"busy"`      // refused because a queue was full, or after too many conflicts
	Late      uint64 `json:"late"`      // not begun because their time was over
	Ahead     uint64 `json:"ahead"`     // decided although the newest event was more than a minute ahead of the clock
	Unknown   uint64 `json:"unknown"`   // units with an unknown outcome
	// Unavailable counts appends and reads that did not reach the database.
	Unavailable uint64 `json:"unavailable"`
	// Internal counts failures of application code and of the store that
	// clients see as internal; each is logged.
	Internal uint64 `json:"internal"`

	Hits         uint64 `json:"hits"`  // gets and drains that found the state in memory
	Loads        uint64 `json:"loads"` // readings of an aggregate, whole or the rest
	EventsLoaded uint64 `json:"events_loaded"`
	Evicted      uint64 `json:"evicted"`     // states that had to make room
	Invalidated  uint64 `json:"invalidated"` // idle states that another node's commit left behind
	Pauses       uint64 `json:"pauses"`      // of the process, after each of which all was forgotten

	Snapshots        uint64 `json:"snapshots"` // written
	SnapshotsUsed    uint64 `json:"snapshots_used"`
	SnapshotsDropped uint64 `json:"snapshots_dropped"` // not written

	// Drains counts what was taken from mailboxes, Drained the commands in
	// it, and DrainSizes[i] the drains of more than 2^(i-1) and at most 2^i
	// commands; the last also counts all above.
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

func (c *counters) drained(n int) {
	c.drains.Add(1)
	c.drainedCommands.Add(uint64(n))
	c.drainSizes[min(bits.Len(uint(n-1)), len(c.drainSizes)-1)].Add(1)
}

// Stats returns the figures of this moment. They are counted one by one: sums
// of several may be off by what happens meanwhile.
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
	s.Cached, s.CachedBytes, s.Active, s.Pending = h.cached, h.cachedBytes, h.active, h.pending
	return s
}
