package ring

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/test/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

// names returns ids that differ only in a number, as people choose them.
func names(n int) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("node-%d", i)
	}
	return ids
}

// checkTable fails the test unless every partition has an owner and no member
// exceeds its bound.
func checkTable(t *testing.T, r *Ring) {
	t.Helper()
	n := len(r.members)
	if n == 0 {
		if len(r.owners) != 0 {
			t.Fatalf("no members, but %d owned partitions", len(r.owners))
		}
		return
	}
	if len(r.owners) != Partitions {
		t.Fatalf("%d partitions have an owner, want %d", len(r.owners), Partitions)
	}
	most := (5*Partitions + 4*n - 1) / (4 * n) // 1.25 × the mean, rounded up
	for m, got := range r.Counts() {
		if got > most {
			t.Fatalf("%s owns %d of %d partitions with %d members, at most %d are allowed", m, got, Partitions, n, most)
		}
	}
}

func same(a, b *Ring) bool {
	return a.signature == b.signature && slices.Equal(a.members, b.members) && slices.Equal(a.owners, b.owners)
}

func TestAnyNumberOfMembersMakesTable(t *testing.T) {
	t.Parallel()
	sizes := []int{60, 100, 200}
	for n := range 31 {
		sizes = append(sizes, n)
	}
	for _, n := range sizes {
		checkTable(t, New(names(n)))
	}
}

func TestNoMembersNoOwner(t *testing.T) {
	t.Parallel()
	for _, r := range []*Ring{New(nil), New([]string{}), New([]string{"a"}).Without("a")} {
		if id, ok := r.Owner(eventstore.StreamID{Type: "auction", ID: "42"}); ok || id != "" {
			t.Errorf("an empty ring names the owner %q", id)
		}
		if p := r.Partition(eventstore.StreamID{Type: "auction", ID: "42"}); p < 0 || p >= Partitions {
			t.Errorf("partition %d", p)
		}
		if len(r.Members()) != 0 || len(r.Counts()) != 0 || r.Signature() == 0 || r.Without("a") != r {
			t.Errorf("an empty ring with members %v, counts %v, signature %d", r.Members(), r.Counts(), r.Signature())
		}
	}
}

func TestOrderAndRepetitionsMakeNoDifference(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 12 {
		ids := names(n)
		want := New(ids)
		for range 5 {
			rng.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
			if got := New(append(ids, ids...)); !same(got, want) {
				t.Fatalf("%v makes another ring than %v", ids, want.members)
			}
		}
	}
}

func TestNewCopiesItsMembers(t *testing.T) {
	t.Parallel()
	ids := []string{"a", "b", "c"}
	r := New(ids)
	ids[0] = "z"
	r.Members()[0] = "y"
	if got := r.Members(); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("the members changed to %v", got)
	}
}

func TestSignaturesDifferByMembers(t *testing.T) {
	t.Parallel()
	seen := make(map[uint64][]string)
	for _, ids := range [][]string{nil, {""}, {"a"}, {"b"}, {"ab"}, {"a", "b"}, {"a", "b", "c"}, {"ab", "c"}, {"a", "bc"}} {
		sig := New(ids).Signature()
		if other, ok := seen[sig]; ok {
			t.Errorf("%q and %q have the same signature", ids, other)
		}
		seen[sig] = ids
	}
}

// Nodes whose builds have different tables forward commands to each other. So the
// table may change only together with the marker.
func TestTheTableIsPinned(t *testing.T) {
	t.Parallel()
	r := New([]string{"n1", "n2", "n3"})
	const want = 0x7ce3e8bf70aa43d3
	if got := r.Signature(); got != want {
		t.Errorf("the signature is %#x, want %#x: if an owner changed, change the marker", got, uint64(want))
	}
	for id, want := range map[string]struct {
		partition int
		owner     string
	}{
		"1":     {38, "n1"},
		"2":     {502, "n2"},
		"42":    {45, "n3"},
		"lot-7": {382, "n2"},
	} {
		s := eventstore.StreamID{Type: "auction", ID: id}
		if p, owner := r.Partition(s), first(r.Owner(s)); p != want.partition || owner != want.owner {
			t.Errorf("%v is in partition %d, owned by %s; it was in %d, owned by %s", s, p, owner, want.partition, want.owner)
		}
	}
}

func first(id string, _ bool) string { return id }

func TestAnAggregateStaysInItsPartition(t *testing.T) {
	t.Parallel()
	var used [Partitions]int
	rings := []*Ring{New(nil), New(names(1)), New(names(7))}
	for i := range 200_000 {
		s := eventstore.StreamID{Type: "auction", ID: fmt.Sprint(i)}
		p := rings[0].Partition(s)
		if p != rings[1].Partition(s) || p != rings[2].Partition(s) {
			t.Fatalf("%v is in several partitions", s)
		}
		used[p]++
	}
	// The mean is 196, the standard deviation 14.
	if least, most := slices.Min(used[:]), slices.Max(used[:]); least < 120 || most > 280 {
		t.Errorf("partitions hold from %d to %d of 200,000 aggregates", least, most)
	}
}

func TestWithoutEqualsRingOfRemainingMembers(t *testing.T) {
	t.Parallel()
	r := New(names(9))
	for i, id := range r.Members() {
		want := New(slices.Delete(r.Members(), i, i+1))
		if got := r.Without(id); !same(got, want) {
			t.Errorf("without %s it is another ring", id)
		}
	}
	if r.Without("stranger") != r {
		t.Error("without a stranger it is another ring")
	}
}

func TestWithoutIsBuiltOnceForAll(t *testing.T) {
	t.Parallel()
	r := New(names(5))
	got := make([]*Ring, 16)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() { got[i] = r.Without("node-3") })
	}
	wg.Wait()
	for _, w := range got {
		if w != got[0] || w == nil {
			t.Fatal("concurrent callers got different rings")
		}
	}
}

func BenchmarkNew(b *testing.B) {
	for _, n := range []int{3, 10, 30, 100} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			ids := names(n)
			for b.Loop() {
				New(ids)
			}
		})
	}
}

func BenchmarkOwner(b *testing.B) {
	r := New(names(10))
	for _, id := range []string{"42", "0190f5e2-7b1e-7cc0-8a3e-2f6d1c9b4a55"} {
		b.Run(fmt.Sprintf("bytes=%d", len(id)), func(b *testing.B) {
			s := eventstore.StreamID{Type: "auction", ID: id}
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := r.Owner(s); !ok {
					b.Fatal("no owner")
				}
			}
		})
	}
}

// A member's new share is its old share, less the partitions that it hands over,
// plus the partitions that it gets.
func TestMovesAddUpToTheNewShares(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ from, to []string }{
		{[]string{"n1", "n2", "n3"}, []string{"n1", "n2", "n3", "n4"}},
		{[]string{"n1", "n2", "n3"}, []string{"n1", "n3"}},
		{[]string{"n1", "n2"}, []string{"n3"}},
		{nil, []string{"n1", "n2"}},
		{[]string{"n1"}, nil},
		{nil, nil},
		{[]string{"n1", "n2"}, []string{"n2", "n1"}},
	} {
		from, to := New(c.from), New(c.to)
		have := from.Counts()
		for _, m := range Moves(from, to) {
			if m.From == m.To || m.Partitions <= 0 {
				t.Errorf("from %v to %v: %+v is no move", c.from, c.to, m)
			}
			have[m.From] -= m.Partitions
			have[m.To] += m.Partitions
		}
		delete(have, "") // partitions without an owner
		for id, n := range have {
			if n != to.Counts()[id] {
				t.Errorf("from %v to %v: %s ends with %d partitions, want %d", c.from, c.to, id, n, to.Counts()[id])
			}
		}
	}
}
