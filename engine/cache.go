package engine

import (
	"container/list"
	"sync/atomic"

	"github.com/ganglion-es/ganglion/eventstore"
)

// cache holds the cells of a host and bounds the states in memory. Host.mu
// guards it.
type cache struct {
	maxStates, maxBytes int
	evicted             *atomic.Uint64

	cells  map[eventstore.StreamID]*cell
	idle   *list.List // of *cell: cells with a state and no worker, most recently used first
	states int        // cells with a state
	bytes  int        // estimated
}

// cached is the cache's record of a cell.
type cached struct {
	counted bool          // a state is in memory
	view    *view         // newest view that a get has asked for, or nil
	cost    int           // estimated bytes of the state and the view
	place   *list.Element // in cache.idle; nil if the cell is not idle
}

func newCache(maxStates, maxBytes int, evicted *atomic.Uint64) cache {
	return cache{
		maxStates: maxStates, maxBytes: maxBytes, evicted: evicted,
		cells: map[eventstore.StreamID]*cell{}, idle: list.New(),
	}
}

// count counts the cell's state with its estimated size, and evicts idle cells if the
// bounds are exceeded.
func (k *cache) count(c *cell) {
	if !c.cached.counted {
		c.cached.counted = true
		k.states++
	}
	shown := 0
	if v := c.cached.view; v != nil {
		if v.version != c.state.version {
			c.cached.view = nil // no get is answered from an old view
		} else {
			shown = len(v.data)
		}
	}
	// A state in memory takes about three times its encoded size: the view
	// itself, and the values with their headers, spare capacity and map buckets.
	const perCell = 1024
	cost := perCell + len(c.stream.ID) + shown + 2*max(shown, c.state.bytes)
	k.bytes += cost - c.cached.cost
	c.cached.cost = cost
	k.evict()
}

// uncount reverses count.
func (k *cache) uncount(c *cell) {
	if c.cached.counted {
		k.states--
		k.bytes -= c.cached.cost
	}
	c.cached.counted, c.cached.cost, c.cached.view = false, 0, nil
}

// evict removes idle cells, the least recently used first, until the bounds
// hold. Cells with a worker stay, so the bounds may be exceeded for a while.
func (k *cache) evict() {
	for k.states > k.maxStates || k.bytes > k.maxBytes {
		oldest := k.idle.Back()
		if oldest == nil {
			return
		}
		k.remove(oldest.Value.(*cell))
		k.evicted.Add(1)
	}
}

// remove forgets a cell without a worker.
func (k *cache) remove(c *cell) {
	k.uncount(c)
	k.unpark(c)
	delete(k.cells, c.stream)
}

// park makes a cell idle, as the most recently used one.
func (k *cache) park(c *cell) {
	c.cached.place = k.idle.PushFront(c)
	k.evict()
}

// unpark protects a cell that gets a worker, or is removed, from eviction.
func (k *cache) unpark(c *cell) {
	if c.cached.place != nil {
		k.idle.Remove(c.cached.place)
		c.cached.place = nil
	}
}

// touch marks a cell as the most recently used one, if it is idle.
func (k *cache) touch(c *cell) {
	if c.cached.place != nil {
		k.idle.MoveToFront(c.cached.place)
	}
}
