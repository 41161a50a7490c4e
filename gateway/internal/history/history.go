// Package history reads events for clients: the newest from a [Window] in
// memory, older ones in pages of the log.
//
// A reader has a [Place] in a [Topic]. [Excerpt.After] returns the events that
// follow it if the window has them. If not, [Pages.Get] returns a page of the
// log, which readers share. [Log.Locate] finds the place at which a reader
// begins.
//
// An [Entry] is encoded once for all readers. Entries, pages and excerpts are
// immutable. The hub's lock guards the Window. Log and Pages are safe for
// concurrent use.
package history

import (
	"strconv"
	"sync/atomic"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Topic is what a reader reads: one stream, all streams of a type, or, if it is
// empty, the whole log.
type Topic struct {
	Stream   eventstore.StreamID
	Category string
}

// IsCategory reports whether the topic is all streams of a type.
func (t Topic) IsCategory() bool { return t.Category != "" }

// isStream reports whether the topic is one stream. A reader of other topics needs no
// version in its place.
func (t Topic) isStream() bool { return t.Stream.Type != "" }

// Type returns the aggregate type.
func (t Topic) Type() string {
	if t.IsCategory() {
		return t.Category
	}
	return t.Stream.Type
}

// Place is how far a reader has read: a position and, in a stream, the version
// there.
type Place struct {
	At      eventstore.Position
	Version eventstore.Version
}

// Entry is one event, encoded once for all readers.
type Entry struct {
	Stream   eventstore.StreamID
	Version  eventstore.Version
	Position eventstore.Position
	Event    string // stored name
	Tail     []byte // the event frame without its head
	Err      error  // why this node can't show the event; Tail is then nil

	other atomic.Pointer[[]byte]

	// previous is a position such that no event of the same type is between
	// it and this one. Only entries of a window have it.
	previous eventstore.Position
}

// entryOverhead is the size of an entry without its frame, in bytes: the struct
// and the pointers to it in three lists.
const entryOverhead = 192

// Size returns the number of bytes that an entry takes.
func (e *Entry) Size() int { return len(e.Tail) + entryOverhead }

// Other returns the event as another wire sends it, which encode makes the first time.
// It is not in Size: it has about the bytes of Tail, and few gateways have sessions of
// such a wire.
func (e *Entry) Other(encode func(*Entry) []byte) []byte {
	if b := e.other.Load(); b != nil {
		return *b
	}
	b := encode(e)
	e.other.Store(&b)
	return b
}

// Place returns the place of a reader whose last event this is.
func (e *Entry) Place() Place { return Place{e.Position, e.Version} }

// Cursor returns the cursor for a position: its decimal form.
func Cursor(p eventstore.Position) string { return strconv.FormatUint(uint64(p), 10) }

// parseCursor parses a cursor. It accepts only the form that Cursor returns.
func parseCursor(s string) (eventstore.Position, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return eventstore.Position(n), err == nil && (s == "0" || s[0] != '0' && s[0] != '+')
}
