package live

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
	"github.com/ganglion-es/ganglion/proto/command"
)

const (
	// pollIdle and pollBehind are how often changes are read without an
	// announcement.
	pollIdle   = 500 * time.Millisecond
	pollBehind = 50 * time.Millisecond
	// pollAwaited is the same while a new follower waits for a position.
	pollAwaited = 10 * time.Millisecond
	// minRound is the least time from the begin of one read to the next one.
	minRound = 5 * time.Millisecond
	// lookEvery is how often a source looks whether another build serves.
	lookEvery = time.Second
)

// A source reads the changes of one projection's rows and keeps its questions.
type source struct {
	registry *Registry
	model    *projection.Definition
	ctx      context.Context
	stop     context.CancelFunc
	signal   chan struct{} // asks for a read
	timer    chan struct{} // asks for another pause
	idling   atomic.Bool   // it pauses for pollIdle
	at       atomic.Pointer[moment]
	loader   loader

	// These belong to the source's goroutine.
	looked time.Time // when it last looked for the build
	failed bool      // the last attempt failed, which was logged
	warned bool      // an evaluation failed since the last one that succeeded, which was logged

	mu        sync.Mutex
	users     int
	table     rows.Table // nil before the first build
	base      *moment    // of the last restart: changes up to it may be missing
	questions map[id]*question
	index     *index
	rows      map[string]*row
	orders    map[string]int
	touched   []*question // to be published
	blocked   bool        // the number of blocked rows has changed since the last publication
	visits    int64       // counts changes

	recording int      // evaluations under way
	recent    []change // what was applied since the first of them began
	forgotten int      // how many recent changes were dropped before recent[0]
	done      []*evaluation

	awaited int           // callers that wait for a moment
	look    bool          // one of them needs a look for another build
	begun   int           // reads that began
	ended   int           // the last of them that succeeded
	moved   chan struct{} // closed after a read; nil if no caller waits
}

func newSource(r *Registry, model *projection.Definition) *source {
	s := &source{
		registry: r, model: model, signal: make(chan struct{}, 1), timer: make(chan struct{}, 1),
		questions: map[id]*question{}, index: newIndex(), rows: map[string]*row{}, orders: map[string]int{},
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.loader.source = s
	go s.run()
	return s
}

func (s *source) poke()  { notify(s.signal) }
func (s *source) rearm() { notify(s.timer) }

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// join returns a question, and makes it if there is none.
func (s *source) join(id id, compiled query.Question) (*question, *command.Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.questions[id]
	if q == nil {
		q = newQuestion(s, id, compiled, s.orderOf(compiled.Order))
		if failure := s.admit(q); failure != nil {
			return nil, failure
		}
		s.questions[id] = q
		s.index.add(q)
		s.registry.stats.questions.Add(1)
		if q.scan {
			s.registry.stats.scans.Add(1)
		}
		s.evaluate(q)
		s.poke()
	}
	q.users++
	s.users++
	return q, nil
}

func (s *source) release(q *question) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users--
	if q.users--; q.users == 0 {
		s.remove(q)
	}
}

// remove ends a question.
func (s *source) remove(q *question) {
	if q.dropped {
		return
	}
	q.dropped = true
	delete(s.questions, q.id)
	s.index.remove(q)
	q.clear()
	s.registry.stats.questions.Add(-1)
	if q.scan {
		s.registry.stats.scans.Add(-1)
	}
}

// orderOf numbers the orders of the source's questions.
func (s *source) orderOf(order []query.Order) int {
	raw, err := json.Marshal(order)
	if err != nil {
		panic(err) // numbers and booleans
	}
	n, ok := s.orders[string(raw)]
	if !ok {
		n = len(s.orders)
		s.orders[string(raw)] = n
	}
	return n
}

// row returns the shared row of a change, and makes it if there is none.
func (s *source) row(c *change) *row {
	if c.row == nil {
		c.row = s.rows[c.key]
	}
	if c.row == nil {
		c.row = &row{key: c.key, hash: hash64(c.key), segment: c.segment}
		s.rows[c.key] = c.row
	}
	return c.row
}

// hold adds a question to the holders of a row. Holders that do not hold the row
// any more are removed when they are as many as the others.
func (s *source) hold(r *row, q *question) {
	s.rows[r.key] = r // it may have been dropped within the same change
	r.holders = append(r.holders, q)
	if len(r.holders) <= 2*r.entries+8 {
		return
	}
	kept := r.holders[:0]
	known := make(map[*question]bool, len(r.holders))
	for _, h := range r.holders {
		if !known[h] && (h == q || !h.dropped && h.find(r, r.rankIn(h.order)) >= 0) {
			known[h] = true
			kept = append(kept, h)
		}
	}
	clear(r.holders[len(kept):])
	r.holders = kept
}

func (s *source) drop(r *row) {
	r.holders = nil
	if s.rows[r.key] == r {
		delete(s.rows, r.key)
	}
}

// run reads changes until the source is stopped.
func (s *source) run() {
	for {
		began := time.Now()
		pause := s.work()
		pause = max(pause, minRound-time.Since(began))
		if !s.sleep(began, pause) {
			return
		}
	}
}

// sleep waits for a signal, but at least until minRound after began, and reports
// false once the source is stopped.
func (s *source) sleep(began time.Time, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	if s.idling.Store(pause == pollIdle); pause == pollIdle && s.behind() {
		timer.Reset(pollBehind) // the head moved before idling was set
	}
	for {
		select {
		case <-s.ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-s.timer:
			timer.Reset(min(pause, pollBehind))
		case <-s.signal:
			rest := minRound - time.Since(began)
			if rest <= 0 {
				return true
			}
			timer.Reset(rest)
		}
	}
}

// work looks for the build, reads changes once, and returns the pause until the
// next read.
func (s *source) work() time.Duration {
	err := s.adopt()
	if err == nil && s.at.Load() != nil {
		s.collect()
		err = s.round()
	}
	switch {
	case errors.Is(err, errUnfinished):
		return 0
	case err != nil && s.ctx.Err() == nil:
		if !s.failed {
			s.registry.logError("read changes", s.model, err)
		}
		s.failed = true
		s.registry.cfg.Forget(s.model.Name())
		s.looked = time.Time{}
		return pollBehind
	}
	s.failed = false
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.awaited > 0:
		return pollAwaited
	case s.behind():
		return pollBehind
	}
	return pollIdle
}

// behind reports whether the rows show less of the log than the node has
// received.
func (s *source) behind() bool {
	at := s.at.Load()
	return at == nil || at.lowest() < eventstore.Position(s.registry.head.Load())
}

// lacks reports whether the source has not read up to a position yet.
func (s *source) lacks(build int64, segment int, p eventstore.Position) bool {
	at := s.at.Load()
	return at != nil && at.build == build && segment >= 0 && segment < len(at.positions) && at.positions[segment] < p
}

// adopt makes the source read another build if that serves now. It does not
// before that build shows at least what the questions show.
func (s *source) adopt() error {
	s.mu.Lock()
	look := s.look
	s.look = false
	s.mu.Unlock()
	if s.at.Load() != nil && time.Since(s.looked) < lookEvery && !look {
		return nil
	}
	table, err := s.registry.cfg.Serving(s.ctx, s.model)
	if err != nil || table == nil {
		return err
	}
	s.looked = time.Now()
	at := s.at.Load()
	if b := table.Build(); at != nil && at.build == b.ID && at.log == b.LogID {
		return s.countBlocked(table)
	}
	list, err := table.Checkpoints(s.ctx)
	if err != nil {
		return err
	}
	next := momentOf(table.Build(), list)
	if at != nil && at.log == next.log && !next.reaches(at.positions) {
		return nil
	}
	s.restart(table, next)
	return nil
}

// countBlocked keeps the number of blocked rows with the moment.
func (s *source) countBlocked(table rows.Table) error {
	blocks, err := table.Blocks(s.ctx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noteBlocked(len(blocks))
	return nil
}

// restart evaluates all questions again: from another table, or because the
// changes do not tell the difference.
func (s *source) restart(table rows.Table, next *moment) {
	s.mu.Lock()
	at := s.at.Load()
	s.table, s.base = table, next
	if at != nil && at.log != next.log {
		s.registry.cache.clear()
	}
	var wake []*Follower
	for _, q := range s.questions {
		q.mu.Lock()
		q.stale = true
		if at != nil && at.log != next.log {
			for f := range q.followers {
				f.demand(resetLog)
			}
			wake = append(wake, q.idle()...)
		}
		q.mu.Unlock()
		q.touched, q.invalid = false, true
		s.evaluate(q)
	}
	s.touched = nil
	s.forgotten += len(s.recent)
	s.recent = nil
	s.at.Store(next)
	s.mu.Unlock()
	wakeAll(wake)
}

func wakeAll(followers []*Follower) {
	for _, f := range followers {
		f.wake()
	}
}
