package live

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/ask"
)

// A phase is what a follower is sending; see the package comment.
type phase uint8

const (
	sendingState phase = iota // rows, until live
	resuming                  // updates, until synced, even if there are none
	following                 // batches of updates
)

// A Follower is one subscription to a question. It implements the methods of
// ask.Live but Renew. It is safe for concurrent use.
type Follower struct {
	registry *Registry
	wake     func() // asks the gateway to call Next
	// idle says that the gateway waits for wake. It is set while the question is
	// locked, so that no change is missed.
	idle atomic.Bool
	// seen is the number of the last change of the question that was sent.
	seen atomic.Uint64
	// reason is why the next part must be a reset; nil if it need not.
	reason atomic.Pointer[string]

	mu     sync.Mutex
	q      *question // nil while another question is evaluated
	phase  phase
	since  uint64  // the question's number when state or resuming began
	from   *cursor // what resuming began with, until seen reaches since
	isNew  bool    // from is still to be compared with the window
	keys   bool    // rows may have left unnoticed: send keys before the end of the batch
	open   bool    // a batch has begun
	cursor string  // the last one that was sent, or the client's own
	// blocked is the number of blocked rows in the last live or synced.
	blocked int
	closed  bool
	turn    int // counts the changes of the question
}

var _ interface {
	Next(room int) ([]ask.Part, bool)
	Cursor() (string, bool)
	Close()
} = (*Follower)(nil)

// demand makes the next part a reset.
func (f *Follower) demand(reason string) { f.reason.Store(&reason) }

// begin follows a question from a cursor, or with a state if that is nil. The
// caller holds f.mu.
func (f *Follower) begin(q *question, from *cursor, text string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	f.q, f.from, f.cursor = q, from, text
	f.restart(q)
	q.followers[f] = struct{}{}
	if from == nil {
		return
	}
	f.phase, f.isNew = resuming, true
}

// compare finds what the client lacks of a window that is not stale: nothing was
// sent yet. The caller holds f.mu and q.mu.
func (f *Follower) compare(q *question) {
	var count, keys uint64
	for _, e := range q.shownEntries() {
		if !f.from.lacks(e.form) {
			count++
			keys ^= e.row.hash
		}
	}
	f.keys = count != f.from.count || keys != f.from.keys
	f.since, f.isNew = q.seq, false
}

// restart makes the follower send a state.
func (f *Follower) restart(q *question) {
	f.phase, f.keys, f.open, f.isNew = sendingState, false, false, false
	f.seen.Store(0)
	f.since = q.seq
}

// lacks reports whether a client with this cursor lacks a row of the window.
func (c *cursor) lacks(f form) bool {
	return f.position > c.positions[f.row.segment] || c.full && f.rank > c.edge
}

// Next implements ask.Live.
func (f *Follower) Next(room int) (parts []ask.Part, more bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, false
	}
	b := builder{f: f, room: room}
	if reason := f.reason.Swap(nil); reason != nil {
		b.reset(*reason)
	}
	if f.q == nil {
		f.idle.Store(true)
		return b.parts, f.reawake()
	}
	more = b.fill(f.q)
	if len(b.missing) > 0 {
		f.q.source.loader.want(f, b.build, f.q.order, b.missing)
	}
	return b.parts, more || f.reawake()
}

// reawake reports whether a reset was demanded meanwhile.
func (f *Follower) reawake() bool { return f.reason.Load() != nil && f.idle.Swap(false) }

// A builder makes the next parts of a follower.
type builder struct {
	f       *Follower
	room    int
	parts   []ask.Part
	size    int
	page    page
	build   int64
	missing []form // rows whose data must be loaded first
}

func (b *builder) add(p ask.Part) {
	b.parts = append(b.parts, p)
	b.size += len(p.Tail)
}

// reset sends a reset, and then a state.
func (b *builder) reset(reason string) {
	f := b.f
	f.registry.stats.reset(reason)
	b.add(resetPart(reason))
	f.cursor, f.from = "", nil
	if q := f.q; q != nil {
		q.mu.RLock()
		f.restart(q)
		q.mu.RUnlock()
	}
}

// pageBytes is how long a page of a state is.
const pageBytes = 32 << 10

// fill adds what is pending, as far as there is room, and reports whether more
// can be sent immediately.
func (b *builder) fill(q *question) (more bool) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	f := b.f
	if q.stale {
		f.idle.Store(true)
		return false
	}
	b.build = q.moment().build
	if f.isNew {
		f.compare(q)
	}
	f.keys = f.keys || max(f.seen.Load(), f.since) < q.lost
	full := b.changes(q)
	switch {
	case len(b.missing) > 0:
		b.flush(true)
		f.idle.Store(true)
		return false
	case full:
		b.flush(true)
		return true
	}
	b.finish(q)
	f.idle.Store(true)
	return false
}

// changes adds the pending rows in the order of their numbers, until there is no
// room (then it reports true) or until data is missing.
func (b *builder) changes(q *question) (full bool) {
	f := b.f
	seen := f.seen.Load()
	if first := q.first(); seen+1 < first {
		for _, e := range q.between(seen, first) {
			if b.row(q, e.form, e.seq) {
				return true
			}
			if len(b.missing) == 0 {
				f.seen.Store(e.seq)
			}
		}
		if len(b.missing) == 0 {
			f.seen.Store(first - 1)
		}
	}
	for i, it := range q.itemsAfter(max(seen, q.first()-1)) {
		seq := i + max(seen, q.first()-1) + 1
		if it.row != nil && !it.gone {
			if b.row(q, it.form, seq) {
				return true
			}
		} else if it.row != nil && seq > f.since && !f.keys && len(b.missing) == 0 {
			if b.full() {
				return true
			}
			b.add(gonePart(it.row.key))
			f.open = true
		}
		if len(b.missing) == 0 {
			f.seen.Store(seq)
		}
	}
	return false
}

// row adds a row in the form that the question has, or notes that its data is
// missing. It reports true if there is no room.
func (b *builder) row(q *question, r form, seq uint64) (full bool) {
	f := b.f
	if f.from != nil && seq <= f.since && !f.from.lacks(r) {
		return false
	}
	if b.full() {
		return true
	}
	tail := f.registry.cache.get(r.tailKey(b.build, q.order))
	switch {
	case tail == nil:
		b.missing = append(b.missing, r)
		return len(b.missing) == loadRows
	case len(b.missing) > 0: // it must come after what is missing
	case f.phase == sendingState:
		b.page.add(tail)
		if len(b.page.tail) >= pageBytes {
			b.flush(true)
		}
	default:
		b.add(ask.Part{Op: "update", Tail: tail})
		f.open = true
	}
	return false
}

// full reports whether the room is used.
func (b *builder) full() bool {
	used := b.size + len(b.page.tail)
	return used > 0 && used >= b.room
}

// flush ends a page of a state.
func (b *builder) flush(more bool) {
	if b.page.tail != nil {
		b.add(b.page.part(more))
	}
}

// finish ends the batch: nothing is pending.
func (b *builder) finish(q *question) {
	f := b.f
	f.seen.Store(q.seq)
	if f.phase == sendingState {
		b.add(b.page.part(false))
	}
	if f.keys {
		b.add(keysPart(q.shownEntries()))
		f.open = true
	}
	end := q.close()
	switch {
	case f.phase == sendingState:
		b.add(ask.Part{Op: "live", Tail: end.tail})
	case f.phase == resuming || f.open || f.blocked != end.at.blocked:
		b.add(ask.Part{Op: "synced", Tail: end.tail})
	default:
		return
	}
	f.cursor, f.blocked, f.phase, f.from, f.keys, f.open = end.cursor, end.at.blocked, following, nil, false, false
}

// between returns the entries of the window whose number is greater than seen and
// less than first, in the order of these numbers.
func (w *window) between(seen, first uint64) (found []*entry) {
	shown := w.shownEntries()
	for i := range shown {
		if e := &shown[i]; e.seq > seen && e.seq < first {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b *entry) int {
		if a.seq < b.seq {
			return -1
		}
		return 1
	})
	return found
}

// itemsAfter returns the items after a number, which first()-1 is at least.
func (w *window) itemsAfter(seen uint64) func(func(uint64, item) bool) {
	return func(yield func(uint64, item) bool) {
		for i := seen + 1 - w.first(); i < uint64(len(w.items)); i++ {
			if !yield(i-(seen+1-w.first()), w.items[i]) {
				return
			}
		}
	}
}

// Cursor implements ask.Live.
func (f *Follower) Cursor() (cursor string, behind bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.q == nil || f.reason.Load() != nil {
		return f.cursor, true
	}
	q := f.q
	q.mu.RLock()
	defer q.mu.RUnlock()
	if f.phase != following || f.open || q.stale || f.seen.Load() != q.seq {
		return f.cursor, true
	}
	end := q.close()
	f.cursor = end.cursor
	return f.cursor, end.at.lowest() < eventstore.Position(f.registry.head.Load())
}

// Close implements ask.Live.
func (f *Follower) Close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.q != nil {
		f.leave()
	}
	if !f.closed {
		f.closed = true
		f.registry.stats.live.Add(-1)
	}
}

// leave gives the question back.
func (f *Follower) leave() {
	q := f.q
	q.mu.Lock()
	delete(q.followers, f)
	q.mu.Unlock()
	f.q = nil
	f.registry.release(q)
}
