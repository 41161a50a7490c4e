package live

import (
	"errors"
	"time"

	"github.com/ganglion-es/ganglion/engine/internal/planner"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

const (
	// evaluateRetry is the pause after an evaluation failed.
	evaluateRetry = 250 * time.Millisecond
	// maxRecent bounds the list of recent changes. An evaluation that takes longer
	// than that many changes starts again.
	maxRecent = 4096
)

// An evaluation is a question that was asked in the database.
type evaluation struct {
	q     *question
	table rows.Table
	// start is the number of the first change that it may not have seen, once it
	// is recording.
	start     int
	recording bool
	// least is what the source showed when the evaluation began.
	least   *moment
	at      *moment
	changes []change
	// complete says that these are all rows that meet the condition.
	complete bool
	err      error
}

// evaluate asks a question in the database, in another goroutine. Collect takes
// the result. The caller holds s.mu.
func (s *source) evaluate(q *question) {
	if q.evaluating || q.dropped || s.table == nil { // restart evaluates all questions
		return
	}
	q.evaluating = true
	go func() {
		e := &evaluation{q: q}
		e.err = s.ask(e)
		s.mu.Lock()
		s.done = append(s.done, e)
		s.mu.Unlock()
		s.poke()
	}()
}

// begin prepares to ask: from now on, changes are recorded. It reports false if no
// follower needs the question any more.
func (e *evaluation) begin(s *source) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.table = s.table; e.q.dropped {
		return false
	}
	s.recording++
	e.recording, e.start, e.least = true, s.forgotten+len(s.recent), s.at.Load()
	return true
}

func (s *source) ask(e *evaluation) error {
	ctx, q := s.ctx, e.q
	if err := s.registry.evaluations.acquire(ctx); err != nil {
		return err
	}
	defer s.registry.evaluations.release()
	if !e.begin(s) {
		return nil
	}
	question := planner.Question(q.asked)
	question.Limit = q.limit + q.slack
	a, err := e.table.Ask(ctx, question)
	if err != nil {
		return err
	}
	s.registry.stats.evaluations.Add(1)
	e.at = momentOf(e.table.Build(), a.Checkpoints)
	e.at.blocked = a.Blocked
	e.complete = len(a.Rows) < question.Limit
	e.changes = make([]change, 0, len(a.Rows))
	for i, r := range a.Rows {
		c, err := changeOf(s.model, r)
		if err != nil {
			s.omits(r, err)
			continue
		}
		if i < q.limit {
			s.keep(&c, q, e.at.build)
		}
		c.data = nil
		e.changes = append(e.changes, c)
	}
	return nil
}

// keep puts a row's encoded form into the cache.
func (s *source) keep(c *change, q *question, build int64) {
	for len(c.kept) <= q.order {
		c.kept = append(c.kept, false)
	}
	if c.kept[q.order] {
		return
	}
	c.kept[q.order] = true
	k := tailKey{build: build, order: q.order, key: c.key, position: c.position, digest: c.digest}
	if !s.registry.cache.has(k) {
		s.registry.cache.put(k, rowTail(c.key, c.rank(q), c.position, c.data))
	}
}

// collect installs the evaluations that are done.
func (s *source) collect() {
	s.mu.Lock()
	done := s.done
	s.done = nil
	for _, e := range done {
		s.finish(e)
	}
	if s.recording == 0 {
		s.forgotten += len(s.recent)
		s.recent = nil
	}
	s.mu.Unlock()
}

// finish installs an evaluation, or begins another one if that is of no use.
func (s *source) finish(e *evaluation) {
	q := e.q
	q.evaluating = false
	if e.recording {
		s.recording--
	}
	switch {
	case q.dropped:
		return
	case e.err != nil && e.table == s.table:
		s.evaluationFailed(e)
		return
	case e.table != s.table, e.start < s.forgotten, e.at.mends < s.base.mends, !e.at.reaches(s.base.positions):
		s.evaluate(q)
		return
	case !e.at.reaches(e.least.positions):
		s.evaluateLater(q) // a crash took the checkpoints back: see round
		return
	case !q.isReady() && s.registry.stats.entries.Load()+int64(len(e.changes)) > maxEntries:
		s.refuse(q, tooManyEntries())
		return
	}
	s.warned = false
	s.noteBlocked(e.at.blocked)
	q.invalid = false
	q.install(e)
	for i := e.start - s.forgotten; i < len(s.recent); i++ {
		c := s.recent[i]
		c.row = s.rows[c.key]
		q.apply(&c, s.meets(q, &c))
	}
	s.index.reach(q)
}

// evaluationFailed gives up a new question, and tries again for others. If the
// build was dropped, it tries again for all.
func (s *source) evaluationFailed(e *evaluation) {
	q, dropped := e.q, errors.Is(e.err, rows.ErrDropped)
	switch {
	case !q.isReady() && !dropped:
		s.refuse(q, e.err)
		return
	case s.ctx.Err() != nil:
		return
	case dropped:
		s.look = true // another build must serve
	case !s.warned:
		s.warned = true
		s.registry.logError("evaluate a question", s.model, e.err)
	}
	s.evaluateLater(q)
}

// refuse gives up a new question. Its callers get the reason.
func (s *source) refuse(q *question, reason error) {
	q.failure = reason
	s.remove(q)
	close(q.ready)
}

// evaluateLater evaluates a question after a pause.
func (s *source) evaluateLater(q *question) {
	time.AfterFunc(evaluateRetry, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.ctx.Err() == nil {
			s.evaluate(q)
		}
	})
}

// refill evaluates a question whose rows beyond the window run out. Until that
// is done, a window that lacks rows is not sent.
func (s *source) refill(q *question) {
	if !q.scarce() || q.evaluating {
		return
	}
	if q.short() {
		q.mu.Lock()
		q.stale = true
		q.mu.Unlock()
	}
	s.evaluate(q)
}

// noteBlocked keeps the number of blocked rows with the moment. If it has changed,
// the next publication wakes all followers. The caller holds s.mu.
func (s *source) noteBlocked(n int) {
	if at := s.at.Load(); at.blocked != n {
		other := *at
		other.blocked = n
		s.at.Store(&other)
		s.blocked = true
	}
}
