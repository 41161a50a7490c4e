package check

import (
	"math/rand/v2"
	"slices"
)

// rowPlants has the faults of the read side, each as clients would see it.
var rowPlants = []Plant{
	{"no fence: a rival overwrites a row with an older form", []string{RowsExact}, func(h *History, r *rand.Rand) bool {
		return h.onAnswer(r, func(a *Answer) bool {
			for i, row := range a.Rows {
				if older, ok := h.before(row); ok {
					a.Rows[i] = older
					return true
				}
			}
			return false
		})
	}},
	{"no fence: a batch is counted as written, but its row is missing", []string{RowsExact}, func(h *History, r *rand.Rand) bool {
		return h.onAnswer(r, func(a *Answer) bool {
			if len(a.Rows) == 0 {
				return false
			}
			a.Rows = slices.Delete(a.Rows, 0, 1)
			return true
		})
	}},
	{"an answer does not wait for the position", []string{RowsFresh}, func(h *History, r *rand.Rand) bool {
		return h.onAnswer(r, func(a *Answer) bool { a.AtLeast = a.Position + 1; return true })
	}},
	{"a cursor is off by one: the first change after it is lost", []string{LiveExact}, func(h *History, _ *rand.Rand) bool {
		return h.onResume(func(before, after *Snapshot) bool {
			for i, row := range after.Rows {
				if j := slices.IndexFunc(before.Rows, func(r Row) bool { return r.Key == row.Key && r.Position < row.Position }); j >= 0 {
					after.Rows[i] = before.Rows[j]
					return true
				}
			}
			return false
		})
	}},
	{"a cursor lacks the window's edge: an unchanged row that moved into the window is missing", []string{LiveExact}, func(h *History, _ *rand.Rand) bool {
		return h.onResume(func(before, after *Snapshot) bool {
			return after.drop(func(r Row) bool { return r.Position <= before.Position && !before.has(r.Key) })
		})
	}},
	{"the holders of a row are ignored: a row that left stays", []string{LiveExact}, func(h *History, _ *rand.Rand) bool {
		return h.onNext(func(before, after *Snapshot) bool { return after.keep(before) })
	}},
	{"a tombstone is dropped early: a row that left while the client was away stays", []string{LiveExact}, func(h *History, _ *rand.Rand) bool {
		return h.onResume(func(before, after *Snapshot) bool { return after.keep(before) })
	}},
	{"a retry without mends: the cursor has passed the change, and the old form stays", []string{LiveComplete}, func(h *History, _ *rand.Rand) bool {
		return h.onLast(func(s *Snapshot) bool {
			for i, row := range s.Rows {
				if older, ok := h.before(row); ok {
					s.Rows[i] = older
					return true
				}
			}
			return false
		})
	}},
	{"the last update of a live query is lost", []string{LiveComplete, LiveExact}, func(h *History, _ *rand.Rand) bool {
		return h.onLast(func(s *Snapshot) bool { return s.drop(func(Row) bool { return true }) })
	}},
	{"two rows of a live query are in the wrong order", []string{LiveExact}, func(h *History, _ *rand.Rand) bool {
		return h.onNext(func(_, after *Snapshot) bool {
			if len(after.Rows) < 2 {
				return false
			}
			after.Rows[0], after.Rows[1] = after.Rows[1], after.Rows[0]
			return true
		})
	}},
	{"a live query shows an older batch after a newer one", []string{LiveForward, LiveExact}, func(h *History, _ *rand.Rand) bool {
		return h.onNext(func(before, after *Snapshot) bool {
			if before.Position == after.Position {
				return false
			}
			*before, *after = *after, *before
			return true
		})
	}},
	{"a live query sends its rows again at each reconnect", []string{LiveOnce}, func(h *History, _ *rand.Rand) bool {
		for i := range h.Lives {
			repeats := 0
			for _, s := range h.Lives[i].Snapshots {
				if s.Resumed {
					repeats += len(s.Rows)
				}
			}
			if repeats > 2 {
				h.Lives[i].Repeats += repeats
				h.Lives[i].Updates += repeats
				return true
			}
		}
		return false
	}},
}

// before returns the form of an auction's row before its last change.
func (h *History) before(row Row) (Row, bool) {
	older := listings{log: h.Log, rows: map[string]Row{}}
	older.advance(row.Position - 1)
	r, ok := older.rows[row.Key]
	return r, ok && r.Price != row.Price
}

// onAnswer applies do to random answers until it returns true.
func (h *History) onAnswer(r *rand.Rand, do func(*Answer) bool) bool {
	for _, i := range r.Perm(len(h.Answers)) {
		a := h.Answers[i]
		a.Rows = slices.Clone(a.Rows)
		if do(&a) {
			h.Answers[i] = a
			return true
		}
	}
	return false
}

// onNext applies do to two successive snapshots of a live query, until it returns
// true.
func (h *History) onNext(do func(before, after *Snapshot) bool) bool {
	for i := range h.Lives {
		for j := 1; j < len(h.Lives[i].Snapshots); j++ {
			before, after := h.Lives[i].Snapshots[j-1].clone(), h.Lives[i].Snapshots[j].clone()
			if do(&before, &after) {
				h.Lives[i].Snapshots = slices.Clone(h.Lives[i].Snapshots)
				h.Lives[i].Snapshots[j-1], h.Lives[i].Snapshots[j] = before, after
				return true
			}
		}
	}
	return false
}

// onResume is onNext for the snapshots before and after a reconnect.
func (h *History) onResume(do func(before, after *Snapshot) bool) bool {
	return h.onNext(func(before, after *Snapshot) bool { return after.Resumed && do(before, after) })
}

// onLast applies do to the last snapshot of complete live queries, until it returns
// true.
func (h *History) onLast(do func(*Snapshot) bool) bool {
	for i := range h.Lives {
		l := &h.Lives[i]
		if n := len(l.Snapshots); l.Complete && n > 0 {
			last := l.Snapshots[n-1].clone()
			if do(&last) {
				l.Snapshots = append(slices.Clone(l.Snapshots[:n-1]), last)
				return true
			}
		}
	}
	return false
}

func (s Snapshot) clone() Snapshot {
	s.Rows = slices.Clone(s.Rows)
	return s
}

func (s *Snapshot) has(key string) bool {
	return slices.ContainsFunc(s.Rows, func(r Row) bool { return r.Key == key })
}

// drop removes the first row for which a function returns true.
func (s *Snapshot) drop(which func(Row) bool) bool {
	i := slices.IndexFunc(s.Rows, which)
	if i < 0 {
		return false
	}
	s.Rows = slices.Delete(s.Rows, i, i+1)
	return true
}

// keep adds a row that the snapshot before had and this one lacks.
func (s *Snapshot) keep(before *Snapshot) bool {
	i := slices.IndexFunc(before.Rows, func(r Row) bool { return !s.has(r.Key) })
	if i < 0 {
		return false
	}
	s.Rows = append(s.Rows, before.Rows[i])
	return true
}
