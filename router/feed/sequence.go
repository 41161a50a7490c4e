package feed

import (
	"cmp"
	"container/heap"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// run is a dense run of commits, from a publisher or from the log.
type run struct {
	from, to eventstore.Position
	commits  []eventstore.Commit
	events   int
	bytes    int
	src      *source // nil: it was read from the log
	asked    uint64  // sequence.asked when it arrived
}

// after returns the commits of the run after w. It returns false if w is inside
// a commit, which contradicts what was delivered.
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

// sequence puts runs in order. It does no I/O and reads no clock. One goroutine
// uses it.
//
// It holds the watermark W, which is always between two commits; the runs that
// are parked above W; and how far the log is known to reach. That knowledge
// comes from peers, so it is a claim until the log confirms it. noteQuestion
// marks the moment at which the log is asked for its head, and endsAt brings the
// answer: a claim from before the question that exceeds the answer was false.
type sequence struct {
	w eventstore.Position

	parked        runs
	events, bytes int // of the parked runs

	asked  uint64 // questions to the log
	before claim  // the furthest claim before the last question
	fresh  claim  // the furthest claim since the last question

	// urgent is the position up to which the log must be read without waiting for
	// pushes.
	urgent eventstore.Position
	// missing is the time since which the event W+1 is known to exist; zero if it
	// is not known to.
	missing time.Time
	// heads are known heads above W, oldest first.
	heads []knownHead
}

type claim struct {
	pos eventstore.Position
	src *source // nil: the log
}

// knownHead is a head of the log and when it became known.
type knownHead struct {
	pos eventstore.Position
	at  time.Time
}

// At most 64 known heads are kept, at least 100 ms apart, so they reach back
// 6.4 s. Users of Behind compare it with 5 s.
const (
	headsApart = 100 * time.Millisecond
	maxHeads   = 64
)

// reset forgets everything and begins again after w.
func (q *sequence) reset(w eventstore.Position) { *q = sequence{w: w, asked: q.asked} }

// known returns how far the log is known to reach.
func (q *sequence) known() eventstore.Position { return max(q.w, q.before.pos, q.fresh.pos) }

// claim notes that src says that the log reaches p.
func (q *sequence) claim(p eventstore.Position, src *source) {
	if p > q.fresh.pos {
		q.fresh = claim{pos: p, src: src}
	}
}

// readUpTo notes that the log must be read up to p without waiting for pushes.
func (q *sequence) readUpTo(p eventstore.Position) { q.urgent = max(q.urgent, p) }

// noteQuestion notes that the log is asked a question now.
func (q *sequence) noteQuestion() {
	q.asked++
	if q.fresh.pos > q.before.pos {
		q.before = q.fresh
	}
	q.fresh = claim{}
}

// endsAt notes the answer to the last question: the log ends at e. It returns
// the sources that had claimed more before the question.
func (q *sequence) endsAt(e eventstore.Position) (wrong []*source) {
	if q.before.pos > e && q.before.pos > q.w {
		wrong = append(wrong, q.before.src)
	}
	q.before = claim{pos: e}
	kept := q.parked[:0]
	for _, r := range q.parked {
		if r.asked < q.asked && r.to > e {
			wrong = append(wrong, r.src)
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
		q.missing, q.heads = time.Time{}, q.heads[:0]
	}
	return wrong
}

// offer parks a run, or drops it if it is at or below W. It returns false if the
// parked runs exceed their bound: then the run must be read from the log.
func (q *sequence) offer(r run) (parked bool) {
	if r.to <= q.w {
		return true
	}
	if r.src != nil {
		q.claim(r.to, r.src)
	}
	if r.from > q.w+1 && (q.events+r.events > parkedEvents || q.bytes+r.bytes > parkedBytes) {
		q.readUpTo(r.to)
		return false
	}
	r.asked = q.asked
	heap.Push(&q.parked, r)
	q.events += r.events
	q.bytes += r.bytes
	return true
}

// next moves W over the parked run that contains W+1, and returns its commits
// after W and its source. ok is false if no run contains W+1. If a run
// contradicts delivered commits, refused is true and commits is nil.
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

// updateTimes updates q.missing and q.heads.
func (q *sequence) updateTimes(now time.Time) {
	past := 0
	for past < len(q.heads) && q.heads[past].pos <= q.w {
		past++
	}
	q.heads = slices.Delete(q.heads, 0, past)
	known := q.known()
	if known == q.w {
		q.missing = time.Time{}
		return
	}
	if q.missing.IsZero() {
		q.missing = now
	}
	n := len(q.heads)
	if n == 0 || n < maxHeads && known > q.heads[n-1].pos && now.Sub(q.heads[n-1].at) >= headsApart {
		q.heads = append(q.heads, knownHead{pos: known, at: now})
	}
}

// behind returns the time since which the oldest known head above W has been
// known; zero if W is at the known head.
func (q *sequence) behind() time.Time {
	if len(q.heads) == 0 {
		return time.Time{}
	}
	return q.heads[0].at
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
