package gateway

import (
	"cmp"
	"slices"

	"github.com/ganglion-es/ganglion/eventstore"
)

// entry is one event, encoded for all sessions at once. It is immutable.
type entry struct {
	stream   eventstore.StreamID
	version  eventstore.Version
	position eventstore.Position
	// previous is the position of the event of the same type before this one,
	// or one before which nothing is known. Only entries of a window have it.
	previous eventstore.Position
	tail     []byte // an event frame after its head
	err      error  // why it can't be shown; tail is then nil
}

// entryOverhead is what an entry costs besides its frame: the struct, and its
// places in three lists.
const entryOverhead = 168

func (e *entry) size() int { return len(e.tail) + entryOverhead }

// window keeps the newest events, dense by position, with an index by stream
// and by type. It is guarded by the hub's lock.
type window struct {
	maxEvents, maxBytes int

	base    eventstore.Position // what lies at or below it was never here
	all     []*entry
	bytes   int
	streams map[eventstore.StreamID][]*entry
	types   map[string]*category
}

// category is what the window knows of one type. It stays when its events
// have gone.
type category struct {
	entries []*entry
	last    eventstore.Position // of its newest event, gone or not
}

func newWindow(maxEvents, maxBytes int) *window {
	w := &window{maxEvents: maxEvents, maxBytes: maxBytes}
	w.clear(0)
	return w
}

// clear forgets everything. What comes next comes after base.
func (w *window) clear(base eventstore.Position) {
	w.base, w.all, w.bytes = base, nil, 0
	w.streams = make(map[eventstore.StreamID][]*entry)
	w.types = make(map[string]*category)
}

func (w *window) add(e *entry) {
	typ := w.types[e.stream.Type]
	if typ == nil {
		typ = &category{last: w.base}
		w.types[e.stream.Type] = typ
	}
	e.previous, typ.last = typ.last, e.position
	typ.entries = append(typ.entries, e)
	w.streams[e.stream] = append(w.streams[e.stream], e)
	w.all = append(w.all, e)
	w.bytes += e.size()
	for len(w.all) > w.maxEvents || w.bytes > w.maxBytes && len(w.all) > 1 {
		w.evict()
	}
}

// evict forgets the oldest event, which is also the oldest of its stream and
// of its type. Excerpts may still hold it: lists are never written again
// below their end.
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
	typ := w.types[e.stream.Type]
	typ.entries = typ.entries[1:]
}

// excerpt is what a window knows of one topic at one moment. It stays valid
// without the hub's lock.
type excerpt struct {
	entries []*entry            // of the topic, by rising position
	stream  bool                // or else a category
	last    eventstore.Position // categories: of the newest event
	dense   eventstore.Position // whatever lies after it, up to the head, is in entries
}

func (w *window) excerpt(t topic) excerpt {
	x := excerpt{stream: t.category == "", dense: w.base}
	if len(w.all) > 0 {
		x.dense = w.all[0].position - 1
	}
	if x.stream {
		x.entries = w.streams[t.stream]
	} else if typ := w.types[t.category]; typ != nil {
		x.entries, x.last = typ.entries, typ.last
	} else {
		x.last = w.base
	}
	return x
}

// after returns the events past a place, none of them past head, and whether
// that is all of them: if not, some that come first are only in the log.
func (x *excerpt) after(at eventstore.Position, version eventstore.Version, head eventstore.Position) ([]*entry, bool) {
	if at >= head {
		return nil, true
	}
	var i int
	if x.stream {
		i = search(x.entries, func(e *entry) int { return cmp.Compare(e.version, version) })
	} else {
		i = search(x.entries, func(e *entry) int { return cmp.Compare(e.position, at) })
	}
	rest := x.entries[i:]
	if len(rest) == 0 {
		if x.stream { // its newest event is known, or nothing of it is missing
			return nil, i > 0 || at >= x.dense
		}
		return nil, at >= x.last
	}
	covered := at >= x.dense
	if x.stream {
		covered = covered || rest[0].version == version+1
	} else {
		covered = covered || rest[0].previous <= at
	}
	if !covered {
		return nil, false
	}
	if rest[len(rest)-1].position > head {
		rest = rest[:search(rest, func(e *entry) int { return cmp.Compare(e.position, head) })]
	}
	return rest, true
}

// versionAt returns a stream's version at a position not past the window's
// newest, if the excerpt knows it.
func (x *excerpt) versionAt(at eventstore.Position) (eventstore.Version, bool) {
	i := search(x.entries, func(e *entry) int { return cmp.Compare(e.position, at) })
	switch {
	case at == 0:
		return 0, true
	case i > 0:
		return x.entries[i-1].version, true
	case len(x.entries) > 0 && (at >= x.dense || x.entries[0].version == 1):
		return x.entries[0].version - 1, true
	}
	return 0, false
}

// search returns where the first entry is that compares above 0.
func search(entries []*entry, compare func(*entry) int) int {
	i, _ := slices.BinarySearchFunc(entries, struct{}{}, func(e *entry, _ struct{}) int {
		if compare(e) > 0 {
			return 1
		}
		return -1
	})
	return i
}
