package check

import (
	"math/rand/v2"
	"slices"

	"github.com/ganglion-es/ganglion/eventstore"
)

// outbidPlants has the faults of the process manager outbid, as the log would show
// them.
var outbidPlants = []Plant{
	{"a row of the outbox is deleted early", []string{Told}, func(h *History, r *rand.Rand) bool {
		return h.onNotice(r, func(i int) bool { h.Log = slices.Delete(h.Log, i, i+1); return true })
	}},
	{"a key changes between two attempts", []string{Ours}, func(h *History, r *rand.Rand) bool {
		return h.onNotice(r, func(i int) bool {
			c := h.Log[i]
			c.Key += "0"
			h.Log = append(h.Log, c)
			return true
		})
	}},
	{"a build without from sends for the past, to another target", []string{Ours}, func(h *History, r *rand.Rand) bool {
		return h.onNotice(r, func(i int) bool {
			c := h.Log[i]
			c.Stream.ID += "-other"
			h.Log = append(h.Log, c)
			return true
		})
	}},
	{"a handler sees an old state", []string{Told}, func(h *History, r *rand.Rand) bool {
		return h.onNotice(r, func(i int) bool {
			h.Log[i].Events = []eventstore.Event{{Type: "notified", Data: []byte(`{"from":"~outbid","text":"you were outbid in auction x"}`)}}
			return true
		})
	}},
	{"two commands to one target are in flight", []string{ToldInOrder}, func(h *History, r *rand.Rand) bool {
		return h.onNotice(r, func(i int) bool {
			for j := i + 1; j < len(h.Log); j++ {
				if isNotice(&h.Log[j]) && h.Log[j].Stream == h.Log[i].Stream {
					h.Log[i].Key, h.Log[j].Key = h.Log[j].Key, h.Log[i].Key
					return true
				}
			}
			return false
		})
	}},
}

// onNotice applies do to the indices of random notices in the log until it returns
// true.
func (h *History) onNotice(r *rand.Rand, do func(i int) bool) bool {
	for _, i := range r.Perm(len(h.Log)) {
		if isNotice(&h.Log[i]) && do(i) {
			return true
		}
	}
	return false
}
