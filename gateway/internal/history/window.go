package history

import (
	"cmp"
	"slices"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Window keeps the newest events, dense by position, with an index by stream
// and by type. It is not safe for concurrent use.
type Window struct {
	maxEvents, maxBytes int

	base    eventstore.Position // events at or below it were never in the window
	all     []*Entry
	bytes   int
	streams map[eventstore.StreamID][]*Entry
	types   map[string]*typeIndex
}

// typeIndex is what the window knows about one type. It is kept when the window
// has dropped the events of the type.
type typeIndex struct {
	entries []*Entry
	last    eventstore.Position // of the newest event, dropped or not
}

// NewWindow returns a window of at most maxEvents events and maxBytes bytes. It
// keeps the newest event even if that is larger.
func NewWindow(maxEvents, maxBytes int) *Window {
	w := &Window{maxEvents: maxEvents, maxBytes: maxBytes}
	w.Clear(0)
	return w
}

// Clear drops everything. The next event follows base.
func (w *Window) Clear(base eventstore.Position) {
	w.base, w.all, w.bytes = base, nil, 0
	w.streams = make(map[eventstore.StreamID][]*Entry)
	w.types = make(map[string]*typeIndex)
}

// Add adds the next event, and drops the oldest ones past the bounds.
func (w *Window) Add(e *Entry) {
	typ := w.types[e.Stream.Type]
	if typ == nil {
		typ = &typeIndex{last: w.base}
		w.types[e.Stream.Type] = typ
	}
	e.previous, typ.last = typ.last, e.Position
	typ.entries = append(typ.entries, e)
	w.streams[e.Stream] = append(w.streams[e.Stream], e)
	w.all = append(w.all, e)
	w.bytes += e.Size()
	for len(w.all) > w.maxEvents || w.bytes > w.maxBytes && len(w.all) > 1 {
		w.evict()
	}
}

// evict drops the oldest event, which is also the oldest of its stream and of
// its type. Excerpts share the lists, so their elements are never overwritten.
func (w *Window) evict() {
	e := w.all[0]
	w.all = w.all[1:]
	w.bytes -= e.Size()
	if rest := w.streams[e.Stream][1:]; len(rest) > 0 {
		w.streams[e.Stream] = rest
	} else {
		delete(w.streams, e.Stream)
	}
	typ := w.types[e.Stream.Type]
	typ.entries = typ.entries[1:]
}

// Excerpt has the events of one topic that a window had at one moment.
type Excerpt struct {
	entries  []*Entry            // of the topic, by rising position
	isStream bool                // not a category, nor the whole log
	isAll    bool                // the whole log
	last     eventstore.Position // of the newest event, except in a stream
	dense    eventstore.Position // entries has every event after it, up to the head
}

// Excerpt returns the window's events of a topic.
func (w *Window) Excerpt(t Topic) Excerpt {
	x := Excerpt{isStream: t.isStream(), isAll: t == Topic{}, dense: w.base}
	if len(w.all) > 0 {
		x.dense = w.all[0].Position - 1
	}
	if x.isStream {
		x.entries = w.streams[t.Stream]
	} else if x.isAll {
		x.entries, x.last = w.all, x.dense+eventstore.Position(len(w.all))
	} else if typ := w.types[t.Category]; typ != nil {
		x.entries, x.last = typ.entries, typ.last
	} else {
		x.last = w.base
	}
	return x
}

// After returns the events past a place and up to head. It returns false if the
// window has dropped the first of them.
func (x *Excerpt) After(from Place, head eventstore.Position) ([]*Entry, bool) {
	if from.At >= head {
		return nil, true
	}
	var i int
	if x.isStream {
		i = afterVersion(x.entries, from.Version)
	} else {
		i = afterPosition(x.entries, from.At)
	}
	rest := x.entries[i:]
	if len(rest) == 0 {
		if x.isStream { // the window has its newest event, or every event after the place
			return nil, i > 0 || from.At >= x.dense
		}
		return nil, from.At >= x.last
	}
	covered := from.At >= x.dense
	switch {
	case x.isAll:
	case x.isStream:
		covered = covered || rest[0].Version == from.Version+1
	default:
		covered = covered || rest[0].previous <= from.At
	}
	if !covered {
		return nil, false
	}
	return upTo(rest, head), true
}

// Newest returns the newest event of the excerpt up to head, or nil.
func (x *Excerpt) Newest(head eventstore.Position) *Entry {
	entries := upTo(x.entries, head)
	if len(entries) == 0 {
		return nil
	}
	return entries[len(entries)-1]
}

// VersionAt returns a stream's version at a position up to the window's head,
// and false if the excerpt does not know it.
func (x *Excerpt) VersionAt(at eventstore.Position) (eventstore.Version, bool) {
	i := afterPosition(x.entries, at)
	switch {
	case at == 0:
		return 0, true
	case i > 0:
		return x.entries[i-1].Version, true
	case len(x.entries) > 0 && (at >= x.dense || x.entries[0].Version == 1):
		return x.entries[0].Version - 1, true
	}
	return 0, false
}

// afterVersion returns the index of the first entry past a version.
func afterVersion(entries []*Entry, version eventstore.Version) int {
	return search(entries, func(e *Entry) int { return cmp.Compare(e.Version, version) })
}

// afterPosition returns the index of the first entry past a position.
func afterPosition(entries []*Entry, at eventstore.Position) int {
	return search(entries, func(e *Entry) int { return cmp.Compare(e.Position, at) })
}

// upTo returns the entries up to head.
func upTo(entries []*Entry, head eventstore.Position) []*Entry {
	if n := len(entries); n > 0 && entries[n-1].Position > head {
		return entries[:afterPosition(entries, head)]
	}
	return entries
}

// search returns the index of the first entry that compares above 0.
func search(entries []*Entry, compare func(*Entry) int) int {
	i, _ := slices.BinarySearchFunc(entries, struct{}{}, func(e *Entry, _ struct{}) int {
		if compare(e) > 0 {
			return 1
		}
		return -1
	})
	return i
}
