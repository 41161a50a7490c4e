package gateway

import (
	"slices"

	"github.com/ganglion-es/ganglion/eventstore"
)

// entry is one event, encoded for all sessions at once. It is immutable.
type entry struct {
	stream   eventstore.StreamID
	version  eventstore.Version
	position eventstore.Position
	tail     []byte // an event frame after its head
	err      error  // why it can't be shown; tail is then nil
}

// entryOverhead is what an entry costs besides its frame: the struct, and its
// places in three lists.
const entryOverhead = 160

func (e *entry) size() int { return len(e.tail) + entryOverhead }

// window keeps the newest events, dense by position, with an index by stream
// and by type. It is guarded by the hub's lock.
type window struct {
	maxEvents, maxBytes int

	all     []*entry
	bytes   int
	streams map[eventstore.StreamID][]*entry
	types   map[string][]*entry
}

func newWindow(maxEvents, maxBytes int) *window {
	w := &window{maxEvents: maxEvents, maxBytes: maxBytes}
	w.clear()
	return w
}

func (w *window) clear() {
	w.all, w.bytes = nil, 0
	w.streams = make(map[eventstore.StreamID][]*entry)
	w.types = make(map[string][]*entry)
}

func (w *window) add(e *entry) {
	w.all = append(w.all, e)
	w.bytes += e.size()
	w.streams[e.stream] = append(w.streams[e.stream], e)
	w.types[e.stream.Type] = append(w.types[e.stream.Type], e)
	for len(w.all) > w.maxEvents || w.bytes > w.maxBytes && len(w.all) > 1 {
		w.evict()
	}
}

// evict forgets the oldest event, which is also the oldest of its stream and
// of its type.
func (w *window) evict() {
	e := w.all[0]
	w.all[0] = nil
	w.all = w.all[1:]
	w.bytes -= e.size()
	if rest := w.streams[e.stream][1:]; len(rest) > 0 {
		w.streams[e.stream] = rest
	} else {
		delete(w.streams, e.stream)
	}
	if rest := w.types[e.stream.Type][1:]; len(rest) > 0 {
		w.types[e.stream.Type] = rest
	} else {
		delete(w.types, e.stream.Type)
	}
}

// covers tells whether every event after a position is in the window, given
// that head is the newest.
func (w *window) covers(after, head eventstore.Position) bool {
	return after >= head || len(w.all) > 0 && w.all[0].position <= after+1
}

// of returns the entries that a subscription wants, by rising position.
func (w *window) of(t topic) []*entry {
	if t.stream.Type != "" {
		return w.streams[t.stream]
	}
	return w.types[t.category]
}

// after returns at most limit entries of a topic past a position.
func (w *window) after(t topic, position eventstore.Position, limit int) []*entry {
	list := w.of(t)
	i, found := slices.BinarySearchFunc(list, position, func(e *entry, p eventstore.Position) int {
		switch {
		case e.position < p:
			return -1
		case e.position > p:
			return 1
		}
		return 0
	})
	if found {
		i++
	}
	return list[i:min(len(list), i+limit)]
}
