package live

import (
	"errors"
	"slices"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

const (
	// pageRows bounds the rows of one read: at most 8 MiB.
	pageRows = 512
	// minBulk is the least number of changed rows beyond which questions are
	// evaluated again instead.
	minBulk = 4 * pageRows
)

// errUnfinished reports that the rows changed while their pages were read.
var errUnfinished = errors.New("live: the read must continue")

// round reads what has changed since the source's moment, gives it to the
// questions, and publishes the moment of the read. Pages are reads of their own:
// rows beyond the first page's moment appear in later ones, and others may be
// missing. Then the questions concerned are not published, and the next round
// reads again.
//
// A crash of the database can take checkpoints back, since they are not committed
// durably. The fold makes the same rows again; round waits for that.
func (s *source) round() error {
	at, table, number := s.begin()
	var next *moment
	var edge rows.Edge
	beyond := false
	for read := 0; ; {
		c, err := table.Changes(s.ctx, at.positions, edge, pageRows)
		if err != nil {
			return err
		}
		if next == nil {
			next = momentOf(table.Build(), c.Checkpoints)
			next.blocked = at.blocked
		}
		if !next.reaches(at.positions) {
			s.mu.Lock()
			s.conclude(number)
			s.mu.Unlock()
			return nil
		}
		read += len(c.Rows)
		s.registry.stats.changes.Add(int64(len(c.Rows)))
		if next.mends != at.mends || at.purged(next) || c.More && read > s.bulk() {
			s.restart(table, next)
			return errUnfinished
		}
		beyond = s.applyAll(c.Rows, next) || beyond
		if !c.More {
			break
		}
		edge = rows.Edge{Position: c.Rows[len(c.Rows)-1].Position, Key: c.Rows[len(c.Rows)-1].Key}
	}
	if beyond {
		s.mu.Lock()
		s.at.Store(next)
		s.mu.Unlock()
		return errUnfinished
	}
	s.publish(next, number)
	return nil
}

func (s *source) begin() (at *moment, table rows.Table, number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun++
	return s.at.Load(), s.table, s.begun
}

// bulk is the number of changed rows beyond which evaluating the questions costs
// less than reading on.
func (s *source) bulk() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := 0
	for _, q := range s.questions {
		held += len(q.entries)
	}
	return max(2*held, minBulk)
}

// applyAll gives changed rows to the questions. It reports whether one of them is
// beyond a moment.
func (s *source) applyAll(list []rows.Row, next *moment) (beyond bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range list {
		c, err := changeOf(s.model, r)
		if err != nil {
			s.omits(r, err)
		}
		beyond = beyond || r.Position > positionOf(next, r.Segment)
		s.applyOne(&c)
		if s.recording > 0 {
			s.record(c)
		}
	}
	return beyond
}

// omits reports a row that no live query shows.
func (s *source) omits(r rows.Row, err error) {
	s.registry.cfg.Logger.Error("a stored row cannot be decoded: live queries omit it",
		"projection", s.model.Name(), "key", r.Key, "position", r.Position, "err", err)
}

func positionOf(m *moment, segment int) eventstore.Position {
	if segment < len(m.positions) {
		return m.positions[segment]
	}
	return 0
}

// applyOne gives a changed row to the questions that it concerns: questions whose
// condition it meets, and the holders of the row.
func (s *source) applyOne(c *change) {
	s.visits++
	c.row = s.rows[c.key]
	if !c.gone {
		s.index.each(c, func(q *question) { s.visit(q, c, s.meets(q, c)) })
	}
	if c.row == nil {
		return
	}
	holders := c.row.holders
	for _, q := range holders {
		s.visit(q, c, s.meets(q, c))
	}
}

func (s *source) visit(q *question, c *change, matches bool) {
	if q.visited == s.visits || q.dropped {
		return
	}
	q.visited = s.visits
	q.apply(c, matches)
	if matches && c.row != nil && c.row.entries > 0 && c.data != nil {
		s.keep(c, q, s.table.Build().ID)
	}
}

func (s *source) meets(q *question, c *change) bool {
	return !c.gone && q.asked.Filter.Matches(c.key, c.values)
}

// record keeps a change for evaluations under way.
func (s *source) record(c change) {
	c.data, c.row = nil, nil
	s.recent = append(s.recent, c)
	if len(s.recent) > maxRecent {
		half := len(s.recent) / 2
		s.forgotten += half
		s.recent = append([]change(nil), s.recent[half:]...)
	}
}

// publish makes a moment and the changes up to it visible.
func (s *source) publish(next *moment, number int) {
	s.mu.Lock()
	at := s.at.Load()
	if same(at, next) {
		next = at
	}
	s.at.Store(next)
	touched := s.touched
	s.touched = nil
	var wake []*Follower
	for _, q := range touched {
		if !q.touched || q.dropped {
			continue
		}
		q.touched = false
		if q.invalid {
			continue
		}
		s.index.reach(q)
		if q.short() {
			s.refill(q) // published by that
			continue
		}
		wake = append(wake, q.publish()...)
		q.becomeReady()
		s.refill(q)
	}
	if s.blocked {
		s.blocked = false
		wake = append(wake, s.idle()...)
	}
	s.conclude(number)
	s.mu.Unlock()
	wakeAll(wake)
}

// idle returns the followers of all questions that wait for parts, and counts them
// as woken.
func (s *source) idle() (wake []*Follower) {
	for _, q := range s.questions {
		q.mu.Lock()
		wake = append(wake, q.idle()...)
		q.mu.Unlock()
	}
	return wake
}

// conclude lets callers that wait for a read look again.
func (s *source) conclude(number int) {
	s.ended = number
	if s.moved != nil {
		close(s.moved)
		s.moved = nil
	}
}

// same reports whether two moments of one build are equal.
func same(a, b *moment) bool {
	return a.mends == b.mends && a.reaches(b.positions) && b.reaches(a.positions) && slices.Equal(a.floors, b.floors)
}
