package check

import (
	"math/rand/v2"
	"slices"

	"github.com/ganglion-es/ganglion/eventstore"
)

// receiptPlants has the faults of builds, as the log would show them.
var receiptPlants = []Plant{
	{"the next build sends again, to its own target", []string{ReceiptOnce}, func(h *History, r *rand.Rand) bool {
		return h.onReceipt(r, func(i int) bool {
			c := h.Log[i]
			c.Stream.ID = Office(9)
			h.Log = append(h.Log, c)
			return true
		})
	}},
	{"a build without from: the first sends for the past", []string{ReceiptNotPast}, func(h *History, r *rand.Rand) bool {
		return h.onReceipt(r, func(i int) bool { h.Past = causeOf(&h.Log[i]); return true })
	}},
	{"a handover leaves an event out", []string{ReceiptAll}, func(h *History, r *rand.Rand) bool {
		first := eventstore.Position(0)
		return h.HasEnds && h.onReceipt(r, func(i int) bool {
			for j := range h.Log {
				if isReceipt(&h.Log[j]) && (first == 0 || causeOf(&h.Log[j]) < first) {
					first = causeOf(&h.Log[j])
				}
			}
			if causeOf(&h.Log[i]) == first {
				return false
			}
			h.Log = slices.Delete(h.Log, i, i+1)
			return true
		})
	}},
}

// onReceipt applies do to the indices of random commits of receipts until it returns
// true.
func (h *History) onReceipt(r *rand.Rand, do func(i int) bool) bool {
	for _, i := range r.Perm(len(h.Log)) {
		if isReceipt(&h.Log[i]) && do(i) {
			return true
		}
	}
	return false
}
