package check

import (
	"math/rand/v2"
	"slices"
)

// groupPlants has the faults of consumer groups, as members and the group's table would
// show them.
var groupPlants = []Plant{
	{"an event is not sent to a member", []string{GroupOrdered}, func(h *History, r *rand.Rand) bool {
		return h.onTenure(r, func(t *Tenure) bool {
			if len(t.Got) < 3 {
				return false
			}
			t.Got = slices.Delete(t.Got, 1, 2)
			return true
		})
	}},
	{"two events of a segment change places", []string{GroupOrdered}, func(h *History, r *rand.Rand) bool {
		return h.onTenure(r, func(t *Tenure) bool {
			if len(t.Got) < 2 {
				return false
			}
			t.Got[0], t.Got[1] = t.Got[1], t.Got[0]
			return true
		})
	}},
	{"a segment is given to a second member while the first is alive", []string{GroupAlone}, func(h *History, r *rand.Rand) bool {
		return h.onTenure(r, func(t *Tenure) bool {
			if len(t.Got) == 0 || t.isHit(&h.Group, t.Got[0].At-int64(aliveFor), t.Got[0].At+1) {
				return false
			}
			second := *t
			second.Member, second.Epoch, second.Acks = "planted", t.Epoch+1, nil
			second.Got = []Got{t.Got[0]}
			second.Got[0].At++ // before any acknowledgement
			h.Group.Tenures = append(h.Group.Tenures, second)
			return true
		})
	}},
	{"two members have a segment under one epoch", []string{GroupAlone}, func(h *History, r *rand.Rand) bool {
		return h.onTenure(r, func(t *Tenure) bool {
			second := *t
			second.Member, second.Got, second.Acks = "planted", nil, nil
			h.Group.Tenures = append(h.Group.Tenures, second)
			return true
		})
	}},
	{"a segment's position passes an event that no member has acknowledged", []string{GroupFenced}, func(h *History, r *rand.Rand) bool {
		return h.onTenure(r, func(t *Tenure) bool {
			if len(t.Got) == 0 || len(t.Acks) == 0 || t.Got[0].Position > t.Acks[0].Cursor {
				return false
			}
			h.Group.Progress = append(h.Group.Progress, Progress{t.Begin, t.Segment, t.Epoch, t.Got[0].Position})
			return t.Begin < t.Acks[0].At && h.isFirst(t)
		})
	}},
	{"an epoch is not checked: an acknowledgement of a former member counts", []string{GroupFenced, GroupComplete}, func(h *History, r *rand.Rand) bool {
		return h.onRepeat(r, func(former, next *Tenure, e Got) bool {
			// The next member loses its acknowledgements, and the former one sends them later.
			if len(next.Acks) == 0 || next.Acks[len(next.Acks)-1].Cursor < e.Position {
				return false
			}
			former.Acks = append(former.Acks, Ack{At: next.Begin + 1, Cursor: e.Position})
			next.Acks = nil
			return true
		})
	}},
	{"what was not acknowledged is not sent again", []string{GroupComplete}, func(h *History, _ *rand.Rand) bool {
		last := -1
		for i, t := range h.Group.Tenures {
			if (last < 0 || t.Epoch > h.Group.Tenures[last].Epoch) && h.acksAlone(&t) {
				last = i
			}
		}
		if last < 0 || !h.Group.Complete {
			return false
		}
		h.Group.Tenures[last].Acks = nil
		return true
	}},
	{"an acknowledgement under an old epoch is not refused", []string{GroupFenced}, func(h *History, r *rand.Rand) bool {
		return h.onTenure(r, func(t *Tenure) bool {
			h.Group.Late = append(h.Group.Late, Late{t.Member, t.Segment, t.Epoch, "error"})
			return true
		})
	}},
}

// acksAlone reports whether a tenure has acknowledged an event that no other tenure has.
func (h *History) acksAlone(t *Tenure) bool {
	return slices.ContainsFunc(t.Got, func(e Got) bool {
		return t.acks(e) && !slices.ContainsFunc(h.Group.Tenures, func(other Tenure) bool {
			return other.Segment == t.Segment && other.Epoch != t.Epoch && other.acks(e)
		})
	})
}

// acks reports whether a tenure has acknowledged an event.
func (t *Tenure) acks(e Got) bool {
	return len(t.Acks) > 0 && t.Acks[len(t.Acks)-1].Cursor >= e.Position &&
		slices.ContainsFunc(t.Got, func(got Got) bool { return got.Position == e.Position })
}

// isFirst reports whether no other tenure got the tenure's first event.
func (h *History) isFirst(t *Tenure) bool {
	n := 0
	for _, other := range h.Group.Tenures {
		if slices.ContainsFunc(other.Got, func(e Got) bool { return e.Position == t.Got[0].Position }) {
			n++
		}
	}
	return n == 1
}

// onTenure applies do to random tenures until it returns true.
func (h *History) onTenure(r *rand.Rand, do func(*Tenure) bool) bool {
	for _, i := range r.Perm(len(h.Group.Tenures)) {
		t := h.Group.Tenures[i]
		t.Got, t.Acks = slices.Clone(t.Got), slices.Clone(t.Acks)
		if do(&t) {
			h.Group.Tenures[i] = t
			return true
		}
	}
	return false
}

// onRepeat applies do to a tenure, the next one that got an event of it again, and the
// event, until it returns true.
func (h *History) onRepeat(r *rand.Rand, do func(former, next *Tenure, e Got) bool) bool {
	for _, i := range r.Perm(len(h.Group.Tenures)) {
		for j := range h.Group.Tenures {
			former, next := &h.Group.Tenures[i], &h.Group.Tenures[j]
			if former.Segment != next.Segment || former.Epoch >= next.Epoch || len(next.Got) == 0 {
				continue
			}
			e := next.Got[0]
			if slices.ContainsFunc(former.Got, func(f Got) bool { return f.Position == e.Position }) && do(former, next, e) {
				return true
			}
		}
	}
	return false
}
