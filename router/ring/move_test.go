package ring

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// A cluster of three grows to five and shrinks back. The partitions of the two
// new members move, and at most 5 % more. At the end, the three own the same
// partitions as at the start.
func TestGrowingFromThreeToFiveAndBackMovesLittle(t *testing.T) {
	t.Parallel()
	clusters := 400
	if raceEnabled {
		clusters = 60
	}
	rng := rand.New(rand.NewPCG(3, 5))
	var all, worst, stepwise float64
	for n := range clusters {
		ids := names(5)
		if n > 0 { // usual names first, then random ones
			for i := range ids {
				ids[i] = fmt.Sprintf("%x-%d", rng.Uint64(), i)
			}
		}
		three, five := New(ids[:3]), New(ids)
		share := 0 // of the two members that join and leave
		for _, id := range ids[3:] {
			share += five.Counts()[id]
		}
		for _, step := range [][]*Ring{{three, five}, {five, New(ids[:3])}} {
			moved, _ := moves(step[0], step[1])
			ratio := float64(moved) / float64(share)
			all, worst = all+ratio/float64(2*clusters), max(worst, ratio)
			if ratio > 1.05 {
				t.Errorf("%v: from %d to %d members %d partitions moved, %.3f times the %d that the two hold",
					ids, len(step[0].members), len(step[1].members), moved, ratio, share)
			}
		}
		if !same(three, New(ids[:3])) {
			t.Fatalf("%v: the three do not own the same partitions as at the start", ids)
		}

		// Joining one by one, as nodes do in practice, moves a few more.
		four, needless := New(ids[:4]), 0
		for _, step := range [][]*Ring{{three, four}, {four, five}} {
			_, n := moves(step[0], step[1])
			needless += n
		}
		stepwise = max(stepwise, float64(needless)/float64(share))
	}
	if stepwise > 0.05 {
		t.Errorf("one after another, %.3f times the ideal share moved in vain", stepwise)
	}
	t.Logf("%d clusters from 3 to 5 members and back: %.4f times the ideal share moved, at worst %.4f; one after another at worst %.4f of it in vain",
		clusters, all, worst, stepwise)
}
