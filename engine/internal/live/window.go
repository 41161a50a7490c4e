package live

import (
	"slices"
	"strings"

	"github.com/ganglion-es/ganglion/eventstore"
)

// A row is a key that at least one question holds. All questions of a source
// share it.
type row struct {
	key     string
	hash    uint64 // of the key
	segment int
	// holders are the questions with an entry of the row, and possibly some that
	// had one. entries counts the entries.
	holders []*question
	entries int
	// ranks has the rank that was last computed in each order, so that questions
	// share the text.
	ranks []string
}

// A form is one version of a row.
type form struct {
	row      *row
	rank     string
	position eventstore.Position
	digest   uint32 // of the data
}

// An entry is a row that meets a question's condition.
type entry struct {
	form
	shown bool   // it is in the window, as followers see it
	dirty bool   // it has changed since the last settle
	seq   uint64 // number of the change that followers must see, if shown
}

// A departure or a change, as followers see it. A later item of the same row
// makes row nil.
type item struct {
	form
	gone bool
}

// maxItems bounds the list of changes of a question.
const maxItems = 256

// A window is the ordered rows of a question, and what has changed in them. It is
// not safe for concurrent use.
type window struct {
	limit, slack int

	entries []entry // sorted by rank
	// complete says that entries are all rows that meet the condition. If not,
	// they are those whose rank is at most horizon.
	complete bool
	horizon  string

	// seq is the number of the last change. items are the last changes: that of
	// items[i] has the number seq-len(items)+1+i.
	seq   uint64
	items []item
	// lost is the number of the last departure that is no longer in items.
	lost uint64
	left []entry // were shown and left since the last settle
}

// knows reports whether a row with this rank belongs to the entries.
func (w *window) knows(rank string) bool { return w.complete || rank <= w.horizon }

// find returns the place of a row's entry, -1 if it has none. guess is a rank
// that it may have.
func (w *window) find(r *row, guess string) int {
	if i, ok := w.search(guess); ok && w.entries[i].row == r {
		return i
	}
	return slices.IndexFunc(w.entries, func(e entry) bool { return e.row == r })
}

func (w *window) search(rank string) (int, bool) {
	return slices.BinarySearchFunc(w.entries, rank, func(e entry, rank string) int { return strings.Compare(e.rank, rank) })
}

// put gives the entry at place i a new form, or adds an entry if i is -1. A form
// that is beyond the horizon is not kept. It returns the change of the number of
// entries of the form's row.
func (w *window) put(i int, f form) int {
	e, change := entry{form: f}, 1
	if i >= 0 {
		old := w.entries[i]
		if old.rank == f.rank {
			w.entries[i].form = f
			w.entries[i].dirty = old.dirty || old.position != f.position || old.digest != f.digest
			return 0
		}
		w.entries = slices.Delete(w.entries, i, i+1)
		e.shown, e.seq, e.dirty = old.shown, old.seq, true
		change = 0
	}
	if !w.knows(f.rank) {
		if e.shown {
			w.left = append(w.left, e)
		}
		return change - 1
	}
	at, _ := w.search(f.rank)
	w.entries = slices.Insert(w.entries, at, e)
	return change
}

// remove removes the entry at a place.
func (w *window) remove(i int) {
	if w.entries[i].shown {
		w.left = append(w.left, w.entries[i])
	}
	w.entries = slices.Delete(w.entries, i, i+1)
}

// trim drops entries beyond the slack, and calls dropped for each.
func (w *window) trim(dropped func(*row)) {
	for len(w.entries) > w.limit+w.slack {
		last := len(w.entries) - 1
		dropped(w.entries[last].row)
		w.remove(last)
		w.complete, w.horizon = false, w.entries[last-1].rank
	}
}

// short reports whether the window lacks rows that the database may have.
func (w *window) short() bool { return !w.complete && len(w.entries) < w.limit }

// scarce reports whether the rows beyond the window run out.
func (w *window) scarce() bool { return !w.complete && len(w.entries) < w.limit+(w.slack+1)/2 }

// settle numbers the changes since the last settle. seen is the number up to
// which all followers have sent the changes.
func (w *window) settle(seen uint64) (changed bool) {
	before := w.seq
	w.forget(seen)
	w.rejoin()
	for _, e := range w.left {
		w.supersede(e.seq)
		w.push(item{form: e.form, gone: true})
	}
	clear(w.left)
	w.left = w.left[:0]
	for i := range w.entries {
		e := &w.entries[i]
		switch in := i < w.limit; {
		case in && !e.shown:
			w.supersedeDeparture(e.row)
			w.show(e)
		case in && e.dirty:
			w.supersede(e.seq)
			w.show(e)
		case !in && e.shown:
			w.supersede(e.seq)
			e.shown = false
			w.push(item{form: e.form, gone: true})
		}
		e.dirty = false
	}
	return w.seq != before
}

// rejoin undoes the departure of rows that left and came back since the last settle:
// followers have not seen it, and get such a row again only if it has changed.
func (w *window) rejoin() {
	if len(w.left) == 0 {
		return
	}
	departed := make(map[string]*entry, len(w.left)) // a row that comes back may be another *row
	for i := range w.left {
		departed[w.left[i].row.key] = &w.left[i]
	}
	for i := range w.entries {
		e := &w.entries[i]
		if old := departed[e.row.key]; old != nil && !e.shown {
			e.shown, e.seq = true, old.seq
			e.dirty = old.dirty || old.rank != e.rank || old.position != e.position || old.digest != e.digest
			old.shown = false
		}
	}
	w.left = slices.DeleteFunc(w.left, func(e entry) bool { return !e.shown })
}

func (w *window) show(e *entry) {
	w.push(item{form: e.form})
	e.shown, e.seq = true, w.seq
}

func (w *window) push(it item) {
	w.seq++
	w.items = append(w.items, it)
	if len(w.items) > maxItems {
		w.forget(w.seq - maxItems)
	}
}

// forget drops the items up to a number.
func (w *window) forget(upTo uint64) {
	first := w.first()
	if upTo < first {
		return
	}
	n := min(int(upTo-first)+1, len(w.items))
	for i := range n {
		if w.items[i].gone && w.items[i].row != nil {
			w.lost = first + uint64(i)
		}
	}
	kept := copy(w.items, w.items[n:])
	clear(w.items[kept:])
	w.items = w.items[:kept]
	if kept == 0 && cap(w.items) > 8 {
		w.items = nil
	}
}

// first is the number of the first item, or of the next one.
func (w *window) first() uint64 { return w.seq - uint64(len(w.items)) + 1 }

func (w *window) supersede(seq uint64) {
	if first := w.first(); seq >= first {
		w.items[seq-first].row = nil
	}
}

func (w *window) supersedeDeparture(r *row) {
	for i := range w.items {
		if w.items[i].gone && w.items[i].row != nil && w.items[i].row.key == r.key {
			w.items[i].row = nil
		}
	}
}

// shown returns the entries that followers see.
func (w *window) shownEntries() []entry { return w.entries[:min(len(w.entries), w.limit)] }

// edge is the rank of the window's last row. full is false while the window has
// room.
func (w *window) edge() (rank string, full bool) {
	if len(w.entries) < w.limit {
		return "", false
	}
	return w.entries[w.limit-1].rank, true
}

// sum returns the XOR of the hashes of the window's keys.
func (w *window) sum() (keys uint64) {
	for _, e := range w.shownEntries() {
		keys ^= e.row.hash
	}
	return keys
}
