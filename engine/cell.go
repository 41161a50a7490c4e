package engine

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// cell is one aggregate in use.
type cell struct {
	stream eventstore.StreamID
	def    *aggregate.Definition

	// Guarded by Host.mu. known is the newest version that anybody told of.
	jobs       []*job // the mailbox
	jobBytes   int
	taken      int // commands in progress
	takenBytes int
	reads      []*read // gets that wait for the state
	running    bool    // a goroutine works on the cell
	forget     bool    // the state must not be used again
	leave      bool    // forget the cell when the mailbox is empty
	known      eventstore.Version
	held       bool  // a state is in memory, and counted
	view       *view // the newest that was asked for; nil if none was
	cost       int   // estimated bytes of the state and the view
	link       lruLink

	// Written by the goroutine that works on the cell, read by Submit: how many
	// of the commands that it has taken are unanswered, how long a command of
	// the last units took, and how long the last unit took.
	left       atomic.Int64
	pace, unit atomic.Int64 // nanoseconds

	// Touched only by the goroutine that works on the cell, and handed to
	// the next one under Host.mu. Nil state: everything must be read anew.
	state       any
	version     eventstore.Version
	position    eventstore.Position
	at          time.Time          // of the newest event
	snapshot    eventstore.Version // that a snapshot was last made at
	stateBytes  int                // encoded, estimated
	measured    int                // stateBytes when it was last exact
	partial     bool               // the stream has more events: the load was interrupted
	fromScratch bool               // the stored snapshot is ahead of the log: don't start from it
	watchdog    watchdog
}

// view is an aggregate's public state, rendered. It is immutable.
type view struct {
	version  eventstore.Version
	position eventstore.Position
	data     []byte
}

func (v *view) state() command.State {
	return command.State{Version: v.version, Position: v.position, Data: v.data}
}

// read is a get that waits for a cell's goroutine.
type read struct {
	ctx  context.Context    // ends when the caller has gone
	need eventstore.Version // the version that the answer must not be behind
	done chan<- readResult  // has room for the answer
}

type readResult struct {
	view    *view
	failure *command.Failure
}

// drop gives up the state. Only the cell's goroutine may call it.
func (c *cell) drop() {
	c.state, c.version, c.position, c.at = nil, 0, 0, time.Time{}
	c.snapshot, c.stateBytes, c.measured, c.partial = 0, 0, 0, false
}

// cell returns the stream's cell and makes it if need be. The caller holds mu.
func (h *Host) cell(def *aggregate.Definition, s eventstore.StreamID) (*cell, *command.Failure) {
	if c, ok := h.cells[s]; ok {
		return c, nil
	}
	if err := s.Validate(); err != nil {
		return nil, badRequest(err.Error(), "")
	}
	c := &cell{stream: s, def: def}
	h.cells[s] = c
	return c, nil
}

// start gives the cell a goroutine if it has none. The caller holds mu.
func (h *Host) start(c *cell) {
	if c.running {
		return
	}
	c.running = true
	h.idle.remove(c)
	h.active++
	h.workers.Add(1)
	go h.work(c)
}

// work serves a cell until its mailbox is empty.
func (h *Host) work(c *cell) {
	defer h.workers.Done()
	var jobs []*job
	var reads []*read
	for {
		var more bool
		if jobs, reads, more = h.take(c, jobs); !more {
			return
		}
		h.serve(c, jobs, reads)
	}
}

// take takes what has gathered in the cell's mailbox, at most Drain commands,
// and gives the cell the last drain's slice to fill next. It ends the cell's
// work when there is nothing.
func (h *Host) take(c *cell, last []*job) (jobs []*job, reads []*read, more bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pending -= c.taken
	h.pendingBytes -= c.takenBytes
	c.taken, c.takenBytes = 0, 0
	if len(c.jobs) == 0 && len(c.reads) == 0 {
		h.rest(c)
		return nil, nil, false
	}
	clear(last)
	if len(c.jobs) <= h.config.Drain {
		jobs, c.jobs = c.jobs, last[:0]
	} else {
		jobs = append(last[:0], c.jobs[:h.config.Drain]...)
		n := copy(c.jobs, c.jobs[h.config.Drain:])
		clear(c.jobs[n:])
		c.jobs = c.jobs[:n]
	}
	c.taken = len(jobs)
	for _, j := range jobs {
		c.takenBytes += j.size()
	}
	c.jobBytes -= c.takenBytes
	reads, c.reads = c.reads, nil
	return jobs, reads, true
}

// rest ends a cell's work. The caller holds mu.
func (h *Host) rest(c *cell) {
	c.running = false
	c.jobs = nil // the room that a burst took is not kept for idle cells
	h.active--
	// The state of an unused aggregate is not worth its place: it is known
	// without reading much, and anyone may ask for any id.
	if !c.held || c.version == 0 || c.forget || c.leave {
		h.remove(c)
	} else {
		h.idle.push(c)
		h.trim()
	}
	if h.active == 0 && h.quiet != nil {
		select {
		case <-h.quiet:
		default:
			close(h.quiet)
		}
	}
}

// account counts the cell's state, at an estimate. The caller holds mu.
func (h *Host) account(c *cell) {
	if !c.held {
		c.held = true
		h.cached++
	}
	shown := 0
	if c.view != nil {
		if c.view.version != c.version {
			c.view = nil // nobody can be answered from it again
		} else {
			shown = len(c.view.data)
		}
	}
	// A state in memory takes about three times its encoded form: the view
	// itself, and the values with their headers, spare room and map buckets.
	const perCell = 1024
	cost := perCell + len(c.stream.ID) + shown + 2*max(shown, c.stateBytes)
	h.cachedBytes += cost - c.cost
	c.cost = cost
	h.trim()
}

// release ends what account began. The caller holds mu.
func (h *Host) release(c *cell) {
	if c.held {
		h.cached--
		h.cachedBytes -= c.cost
	}
	c.held, c.cost, c.view = false, 0, nil
}

// measureLeast is how many bytes of events a state takes before its size is
// measured.
const measureLeast = 64 << 10

// measure keeps stateBytes near the truth: each event adds its own size, and
// when that has doubled, the state is encoded to see.
func (h *Host) measure(c *cell) {
	if c.state == nil || c.stateBytes < 2*c.measured+measureLeast {
		return
	}
	h.begin(c, encoding)
	defer c.watchdog.end()
	_ = guarded(func() error {
		if raw, err := c.def.EncodeState(c.state); err == nil {
			c.stateBytes = len(raw)
		}
		return nil
	})
	c.measured = c.stateBytes
}

// trim evicts idle cells by least use until the bounds hold. The caller holds
// mu.
func (h *Host) trim() {
	for h.cached > h.config.CachedStates || h.cachedBytes > h.config.CachedBytes {
		c := h.idle.oldest()
		if c == nil {
			return // the rest is at work
		}
		h.remove(c)
		h.counters.evicted.Add(1)
	}
}

// remove forgets a cell without a goroutine. The caller holds mu.
func (h *Host) remove(c *cell) {
	h.release(c)
	h.idle.remove(c)
	delete(h.cells, c.stream)
}

// lru orders idle cells by their last use. The zero value is empty.
type lru struct{ newest, last *cell }

type lruLink struct {
	newer, older *cell
	in           bool
}

func (l *lru) oldest() *cell { return l.last }

func (l *lru) push(c *cell) {
	c.link = lruLink{older: l.newest, in: true}
	if l.newest != nil {
		l.newest.link.newer = c
	} else {
		l.last = c
	}
	l.newest = c
}

func (l *lru) remove(c *cell) {
	if !c.link.in {
		return
	}
	if newer := c.link.newer; newer != nil {
		newer.link.older = c.link.older
	} else {
		l.newest = c.link.older
	}
	if older := c.link.older; older != nil {
		older.link.newer = c.link.newer
	} else {
		l.last = c.link.newer
	}
	c.link = lruLink{}
}

// used moves an idle cell to the front.
func (l *lru) used(c *cell) {
	if c.link.in && l.newest != c {
		l.remove(c)
		l.push(c)
	}
}
