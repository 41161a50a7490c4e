package feed

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// run is a dense run of commits that somebody brought.
type run struct {
	from, to eventstore.Position
	commits  []eventstore.Commit
	events   int
	bytes    int
	src      *source // who pushed it; nil: it was read from the log
	asked    uint64  // the sequence's asked when it came
}

// after returns the commits of the run behind w. It is false if w stands in
// the midst of a commit, which contradicts what was delivered.
func (r *run) after(w eventstore.Position) ([]eventstore.Commit, bool) {
	if r.from > w {
		return r.commits, true
	}
	i, _ := slices.BinarySearchFunc(r.commits, w+1, func(c eventstore.Commit, p eventstore.Position) int {
		return cmp.Compare(c.Position, p)
	})
	rest := r.commits[i:]
	return rest, len(rest) == 0 || rest[0].First() == w+1
}

// sequence puts runs in order. It does no I/O and reads no clock; one
// goroutine uses it.
//
// It holds the watermark W, always between two commits; what was parked above
// W; and how far the log is known to go. That knowledge comes from peers, so
// it is a claim until the log has been asked: ask marks the moment of a
// question, end takes the answer, and what was claimed before the question
// and lies past the answer was never true.
type sequence struct {
	w eventstore.Position

	parked        runs
	events, bytes int // parked

	asked  uint64 // how many questions were put to the log
	before claim  // the furthest claim before the last question
	fresh  claim  // … and since

	// urgent is how far the log is to be read without waiting for pushes.
	urgent eventstore.Position
	// missing is since when the event W+1 is known to exist; zero: it isn't.
	missing time.Time
	// marks are known heads above W and when they were learned, oldest first.
	marks []mark
}

type claim struct {
	pos eventstore.Position
	src *source // nil: the log
}

type mark struct {
	pos eventstore.Position
	at  time.Time
}

// Marks are at least 100 ms apart and at most 64, so they reach back 6.4 s
// exactly; only whether 5 s have passed matters to anybody.
const (
	marksApart = 100 * time.Millisecond
	marksMost  = 64
)

// reset forgets everything and begins anew behind w.
func (q *sequence) reset(w eventstore.Position) { *q = sequence{w: w, asked: q.asked} }

// known is how far the log is known to go.
func (q *sequence) known() eventstore.Position { return max(q.w, q.before.pos, q.fresh.pos) }

// claim notes that src says that the log reaches p.
func (q *sequence) claim(p eventstore.Position, src *source) {
	if p > q.fresh.pos {
		q.fresh = claim{pos: p, src: src}
	}
}

// hurry asks for the log to be read up to p at once.
func (q *sequence) hurry(p eventstore.Position) { q.urgent = max(q.urgent, p) }

// ask notes that the log is asked a question now.
func (q *sequence) ask() {
	q.asked++
	if q.fresh.pos > q.before.pos {
		q.before = q.fresh
	}
	q.fresh = claim{}
}

// end takes the answer to the last question: the log ended at e. It returns
// who had claimed before the question that it goes further.
func (q *sequence) end(e eventstore.Position) (liars []*source) {
	if q.before.pos > e && q.before.pos > q.w {
		liars = append(liars, q.before.src)
	}
	q.before = claim{pos: e}
	kept := q.parked[:0]
	for _, r := range q.parked {
		if r.asked < q.asked && r.to > e {
			liars = append(liars, r.src)
			q.events -= r.events
			q.bytes -= r.bytes
			continue
		}
		kept = append(kept, r)
	}
	clear(q.parked[len(kept):])
	q.parked = kept
	heap.Init(&q.parked)
	q.urgent = min(q.urgent, q.known())
	if q.known() == q.w {
		q.missing, q.marks = time.Time{}, q.marks[:0]
	}
	return liars
}

// offer takes over a run, unless it is old, or there is no room to park it:
// then it is to be read from the log.
func (q *sequence) offer(r run) (parked bool) {
	if r.to <= q.w {
		return true
	}
	if r.src != nil {
		q.claim(r.to, r.src)
	}
	if r.from > q.w+1 && (q.events+r.events > parkedEvents || q.bytes+r.bytes > parkedBytes) {
		q.hurry(r.to)
		return false
	}
	r.asked = q.asked
	heap.Push(&q.parked, r)
	q.events += r.events
	q.bytes += r.bytes
	return true
}

// next moves W over the parked run that begins at W+1 and returns its commits
// and who brought it. Without such a run, ok is false. A run that contradicts
// what was delivered comes back as refused, without commits.
func (q *sequence) next() (commits []eventstore.Commit, src *source, refused, ok bool) {
	for len(q.parked) > 0 && q.parked[0].from <= q.w+1 {
		r := heap.Pop(&q.parked).(run)
		q.events -= r.events
		q.bytes -= r.bytes
		commits, ok := r.after(q.w)
		if !ok {
			return nil, r.src, true, true
		}
		if len(commits) > 0 {
			q.w = r.to
			q.missing = time.Time{}
			return commits, r.src, false, true
		}
	}
	return nil, nil, false, false
}

// note brings the times up to date: since when the next event is missing, and
// since when W is behind.
func (q *sequence) note(now time.Time) {
	past := 0
	for past < len(q.marks) && q.marks[past].pos <= q.w {
		past++
	}
	q.marks = slices.Delete(q.marks, 0, past)
	known := q.known()
	if known == q.w {
		q.missing = time.Time{}
		return
	}
	if q.missing.IsZero() {
		q.missing = now
	}
	n := len(q.marks)
	if n == 0 || n < marksMost && known > q.marks[n-1].pos && now.Sub(q.marks[n-1].at) >= marksApart {
		q.marks = append(q.marks, mark{pos: known, at: now})
	}
}

// behind is since when W has been behind a head that was known then; zero: it
// is not behind.
func (q *sequence) behind() time.Time {
	if len(q.marks) == 0 {
		return time.Time{}
	}
	return q.marks[0].at
}

// runs is a heap of runs by their first position.
type runs []run

func (h runs) Len() int           { return len(h) }
func (h runs) Less(i, j int) bool { return h[i].from < h[j].from }
func (h runs) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *runs) Push(r any)        { *h = append(*h, r.(run)) }
func (h *runs) Pop() any {
	old := *h
	r := old[len(old)-1]
	old[len(old)-1] = run{}
	*h = old[:len(old)-1]
	return r
}
