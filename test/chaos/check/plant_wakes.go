package check

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// wakePlants has the faults of wake-ups, as the log would show them.
var wakePlants = []Plant{
	{"a wake-up is decided by a clock that is ahead", []string{EndInDue}, func(h *History, r *rand.Rand) bool {
		return h.onEnd(r, func(i int, closes time.Time) bool {
			h.StoredAt[h.Log[i].Position] = closes.Add(-time.Second)
			return true
		})
	}},
	{"an auction is woken twice", []string{EndOnce}, func(h *History, r *rand.Rand) bool {
		return h.onEnd(r, func(i int, _ time.Time) bool {
			h.Log = append(h.Log, h.Log[i])
			return true
		})
	}},
	{"a wake-up is decided on an old state", []string{EndOnce}, func(h *History, r *rand.Rand) bool {
		return h.onEnd(r, func(i int, _ time.Time) bool {
			h.Log[i].Events = []eventstore.Event{{Type: "closed", Data: []byte(`{"winner":"planted","amount":7}`)}}
			return true
		})
	}},
	{"a wake-up is forgotten", []string{EndAll}, func(h *History, r *rand.Rand) bool {
		return h.HasEnds && h.onEnd(r, func(i int, _ time.Time) bool { h.Log = slices.Delete(h.Log, i, i+1); return true })
	}},
}

// onEnd applies do to the indices of random commits of wake-ups, with the time that
// their auctions close, until it returns true.
func (h *History) onEnd(r *rand.Rand, do func(i int, closes time.Time) bool) bool {
	closes := closingTimes(h.Log)
	for _, i := range r.Perm(len(h.Log)) {
		if isWakeUp(&h.Log[i]) && do(i, closes[h.Log[i].Stream]) {
			return true
		}
	}
	return false
}
