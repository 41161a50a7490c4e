package engine

import (
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
)

// cell is one aggregate in use. See the package comment for its life.
type cell struct {
	stream eventstore.StreamID
	def    *aggregate.Definition

	// Guarded by Host.mu.
	mailbox  mailbox
	working  bool               // it has a worker
	invalid  bool               // the worker must drop the state before its next use
	disowned bool               // remove the cell when the mailbox is empty
	known    eventstore.Version // newest version reported by the store, the feed or a get
	cached   cached

	// Written by the worker, read by Submit.
	pace pace

	// Owned by the worker.
	state       state
	fromScratch bool // the stored snapshot is ahead of the log: load without it
	onlyWakes   bool // only wake-ups wait for the state
	watchdog    watchdog
}

// state is an aggregate's state in memory. The zero state must be loaded.
type state struct {
	value      any // what the definition's NewState returns; nil if not loaded
	version    eventstore.Version
	position   eventstore.Position
	at         time.Time          // time of the newest event
	snapshotAt eventstore.Version // version of the last snapshot
	bytes      int                // estimated size when encoded
	measured   int                // size when it was last encoded
	partial    bool               // the load was interrupted: the stream has more events
}

// pace estimates how long a command waits. The worker updates it; Submit reads
// it concurrently.
type pace struct {
	unanswered atomic.Int64 // commands that the worker took and has not replied to
	perCommand atomic.Int64 // nanoseconds for a command, a moving average over units
	unit       atomic.Int64 // nanoseconds for the last unit
}

// observe records how long a unit took.
func (p *pace) observe(d time.Duration, commands int) {
	one := int64(d) / int64(commands)
	if before := p.perCommand.Load(); before > 0 {
		one = (before + one) / 2
	}
	p.perCommand.Store(one)
	p.unit.Store(int64(d))
}

// wait estimates how long the last of n waiting commands waits for its reply.
func (p *pace) wait(n int) time.Duration {
	ahead := int64(n) + p.unanswered.Load()
	return time.Duration(ahead*p.perCommand.Load() + p.unit.Load())
}
