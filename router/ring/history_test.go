package ring

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A cluster's history is a walk of joins and leaves. After different histories
// that end with the same members, nodes must agree on every owner. Each step must
// move few partitions and keep the bound on loads.
func TestRandomHistories(t *testing.T) {
	t.Parallel()
	histories := 2000
	if raceEnabled {
		histories = 200 // the race detector makes a rebuild ten times as slow
	}
	rng := rand.New(rand.NewPCG(7, 8))
	costs := make(map[int][]time.Duration) // of a rebuild, by members
	build := func(ids []string) *Ring {
		began := time.Now()
		r := New(ids)
		costs[len(r.members)] = append(costs[len(r.members)], time.Since(began))
		return r
	}
	var steps, moved, needless int // steps between 3 and 10 members
	var heaviest float64
	for h := range histories {
		h := history{rng: rng, prefix: fmt.Sprintf("h%d-", h)}
		h.walk(size(rng))
		ring := build(h.ids)
		checkTable(t, ring)

		// Another node learned of the same members in another order, and of
		// some twice.
		other := slices.Concat(h.ids, h.ids[:rng.IntN(len(h.ids)+1)])
		rng.Shuffle(len(other), func(i, j int) { other[i], other[j] = other[j], other[i] })
		if !same(ring, build(other)) {
			t.Fatalf("history %s: the order of %d members makes a difference", h.prefix, len(h.ids))
		}

		// One more step: a member joins or leaves.
		h.walk(1)
		next := build(h.ids)
		checkTable(t, next)
		if lo, hi := bounds(len(ring.members), len(next.members)); lo >= 3 && hi <= 10 {
			m, n := moves(ring, next)
			steps, moved, needless = steps+1, moved+m, needless+n
			most := slices.Max(slices.Collect(maps.Values(next.Counts())))
			heaviest = max(heaviest, float64(most)*float64(len(next.members))/Partitions)
		}
	}

	share := float64(needless) / float64(steps) / Partitions
	t.Logf("%d histories; from 3 to 10 members, %d steps: %.1f %% of the partitions moved, %.3f %% needlessly; heaviest member %.3f × the mean",
		histories, steps, 100*float64(moved)/float64(steps)/Partitions, 100*share, heaviest)
	if share > 0.003 {
		t.Errorf("%.3f %% of the partitions moved needlessly, at most 0.3 %% should", 100*share)
	}
	if heaviest > 1.26 {
		t.Errorf("a member owns %.3f × the mean", heaviest)
	}
	for _, n := range slices.Sorted(maps.Keys(costs)) {
		if c := costs[n]; n%10 == 0 || n == 3 {
			slices.Sort(c)
			t.Logf("rebuild for %d members: %v (median of %d)", n, c[len(c)/2], len(c))
		}
	}
}

// size returns a random number of members: usually a common size of a cluster,
// sometimes about a hundred.
func size(rng *rand.Rand) int {
	switch rng.IntN(100) {
	case 0:
		return 200
	case 1, 2:
		return 11 + rng.IntN(60)
	}
	return rng.IntN(14)
}

type history struct {
	rng    *rand.Rand
	prefix string
	born   int
	ids    []string
}

// walk makes n steps: a member joins or, with probability 1/4, leaves.
func (h *history) walk(n int) {
	for range n {
		if len(h.ids) > 0 && h.rng.IntN(4) == 0 {
			i := h.rng.IntN(len(h.ids))
			h.ids = slices.Delete(slices.Clone(h.ids), i, i+1)
			continue
		}
		h.ids = append(slices.Clone(h.ids), fmt.Sprint(h.prefix, h.born))
		h.born++
	}
}

func bounds(a, b int) (lo, hi int) { return min(a, b), max(a, b) }

// moves counts the partitions that change owner, and those among them that move
// needlessly: from a member that stays to one that was there before.
func moves(from, to *Ring) (moved, needless int) {
	for _, m := range Moves(from, to) {
		moved += m.Partitions
		if slices.Contains(to.members, m.From) && slices.Contains(from.members, m.To) {
			needless += m.Partitions
		}
	}
	return moved, needless
}
