package live

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"sync"
	"sync/atomic"

	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/proto/command"
)

// minSlack is the least number of rows that a question keeps beyond its window.
const minSlack = 4

// An id names a question within its projection: equal conditions, orders and
// limits have equal ids.
type id [sha256.Size]byte

func identity(q query.Question) id {
	// JSON of these types is the same for the same question: values are sorted,
	// and floats are written exactly.
	raw, err := json.Marshal(q)
	if err != nil {
		panic(err) // the values are of basic types
	}
	return sha256.Sum256(raw)
}

// short is what a cursor has of an id.
func (d id) short() uint64 { return binary.LittleEndian.Uint64(d[:]) }

// A question is a condition, an order and a limit with the rows that answer it,
// for all followers that ask the same.
type question struct {
	source *source
	id     id
	order  int // number of the order in the source
	asked  query.Question
	scan   bool // no index of conditions finds it

	// ready is closed after the first evaluation. failure is set before, if that
	// failed or found too many rows; then the source does not have the question
	// any more.
	ready   chan struct{}
	failure error

	// These belong to the source, under its lock.
	users      int
	evaluating bool  // an evaluation is under way
	dropped    bool  // no user is left
	invalid    bool  // only an evaluation can make the entries right again
	touched    bool  // it has changed since the source's last publication
	visited    int64 // number of the change that was last given to it

	mu sync.RWMutex
	window
	// stale says that the window does not show the source's moment, and must not
	// be sent: changes are being applied, or an evaluation is pending.
	stale bool
	// ahead has the positions of the last evaluation, until the source has
	// reached them.
	ahead     []eventstore.Position
	followers map[*Follower]struct{}

	merged  atomic.Pointer[merged]
	closing atomic.Pointer[closing]
}

// merged is a moment of the source, advanced to a question's own positions.
type merged struct{ source, own *moment }

// closing is the end of a batch, which followers share.
type closing struct {
	at     *moment
	seq    uint64
	cursor string
	tail   []byte // of live and synced
}

func newQuestion(s *source, id id, compiled query.Question, order int) *question {
	q := &question{
		source: s, id: id, asked: compiled, order: order, ready: make(chan struct{}), stale: true, invalid: true,
		followers: map[*Follower]struct{}{},
	}
	_, indexed := alternativesOf(compiled.Filter)
	q.scan = !indexed
	q.limit, q.slack = compiled.Limit, max(compiled.Limit/2, minSlack)
	return q
}

// moment returns what the window shows. The caller holds q.mu.
func (q *question) moment() *moment {
	at := q.source.at.Load()
	if q.ahead == nil {
		return at
	}
	if m := q.merged.Load(); m != nil && m.source == at {
		return m.own
	}
	m := &merged{source: at, own: at.advanced(q.ahead)}
	q.merged.Store(m)
	return m.own
}

// close returns the end of a batch: the cursor, and the tail of live and synced.
// The caller holds q.mu, and the question is not stale.
func (q *question) close() *closing {
	at := q.moment()
	if c := q.closing.Load(); c != nil && c.at == at && c.seq == q.seq {
		return c
	}
	edge, full := q.edge()
	cur := cursor{
		log: hash32(at.log), build: at.build, question: q.id.short(), mends: at.mends, positions: at.positions,
		count: uint64(len(q.shownEntries())), keys: q.sum(), full: full, edge: edge,
	}
	c := &closing{at: at, seq: q.seq, cursor: cur.String()}
	c.tail = closingTail(c.cursor, at.lowest(), at.blocked)
	q.closing.Store(c)
	return c
}

// seenByAll returns the number up to which all followers have sent the changes.
// The caller holds q.mu.
func (q *question) seenByAll() uint64 {
	seen := q.seq
	for f := range q.followers {
		seen = min(seen, f.seen.Load())
	}
	return seen
}

// publish makes the changes of a stale question visible, and returns the
// followers to wake. The caller holds the source's lock.
func (q *question) publish() (wake []*Follower) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.settle(q.seenByAll())
	if len(q.followers) == 0 {
		q.forget(q.seq)
	}
	q.stale = false
	if q.ahead != nil && q.source.at.Load().reaches(q.ahead) {
		q.ahead = nil
		q.merged.Store(nil)
	}
	return q.idle()
}

// isReady reports whether the first callers see the question, or its failure.
func (q *question) isReady() bool {
	select {
	case <-q.ready:
		return true
	default:
		return false
	}
}

// becomeReady lets the first callers see the question.
func (q *question) becomeReady() {
	if !q.isReady() {
		close(q.ready)
	}
}

// idle returns the followers that wait for parts, and counts them as woken.
func (q *question) idle() (wake []*Follower) {
	for f := range q.followers {
		if f.idle.Swap(false) {
			wake = append(wake, f)
		}
	}
	return wake
}

// apply gives the question a changed row. The caller holds the source's lock.
func (q *question) apply(c *change, matches bool) {
	if q.invalid {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ahead != nil && c.position <= q.ahead[c.segment] {
		return // the evaluation has seen it
	}
	r := c.row
	at := -1
	if r != nil && r.entries > 0 {
		at = q.find(r, r.rankIn(q.order))
	}
	switch {
	case matches:
		rank := c.rank(q)
		if at < 0 && !q.knows(rank) {
			return
		}
		if r == nil {
			r = q.source.row(c)
		}
		q.mark()
		q.count(r, q.put(at, form{row: r, rank: rank, position: c.position, digest: c.digest}))
		q.trim(func(r *row) { q.count(r, -1) })
	case at >= 0:
		q.mark()
		q.remove(at)
		q.count(r, -1)
	}
}

// mark makes the question stale until the next publication.
func (q *question) mark() {
	if !q.touched {
		q.touched, q.stale = true, true
		q.source.touched = append(q.source.touched, q)
	}
}

// count keeps the row's holders and the numbers of entries.
func (q *question) count(r *row, change int) {
	r.entries += change
	q.source.registry.stats.entries.Add(int64(change))
	switch {
	case change > 0:
		q.source.hold(r, q)
	case r.entries == 0:
		q.source.drop(r)
	}
}

// install replaces the entries by those of an evaluation. The next publication
// shows them. The caller holds the source's lock.
func (q *question) install(e *evaluation) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mark()
	old := make(map[*row]entry, len(q.entries))
	for _, o := range q.entries {
		old[o.row] = o
	}
	entries := make([]entry, 0, len(e.changes))
	for i := range e.changes {
		c := &e.changes[i]
		r := q.source.row(c)
		n := entry{form: form{row: r, rank: c.rank(q), position: c.position, digest: c.digest}}
		if o, ok := old[r]; ok {
			n.shown, n.seq = o.shown, o.seq
			n.dirty = o.dirty || o.position != n.position || o.digest != n.digest || o.rank != n.rank
			delete(old, r)
		} else {
			q.count(r, 1)
		}
		entries = append(entries, n)
	}
	for r, o := range old {
		if o.shown {
			q.left = append(q.left, o)
		}
		q.count(r, -1)
	}
	q.entries = entries
	q.complete, q.horizon = e.complete || len(entries) == 0, ""
	if !q.complete {
		q.horizon = entries[len(entries)-1].rank
	}
	q.ahead = e.at.positions
	q.merged.Store(nil)
}

// clear gives up all entries, when the question ends. The caller holds the
// source's lock.
func (q *question) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.entries {
		q.count(e.row, -1)
	}
	q.entries, q.stale = nil, true
}

// admit checks the bounds on questions. The caller holds the source's lock.
func (s *source) admit(q *question) *command.Failure {
	stats := &s.registry.stats
	switch {
	case stats.questions.Load() >= maxQuestions:
		return tooManyQuestions()
	case stats.entries.Load() >= maxEntries:
		return tooManyEntries()
	case q.scan && s.index.scans() >= maxScans:
		return tooManyScans(s.model.Name())
	}
	return nil
}
