package live

import (
	"cmp"
	"slices"
)

// A bucket has the questions of a template with the same equal values, sorted by
// the bound of their range. A tree of the greatest reach below each node finds
// those among them that a rank is within.
type bucket struct {
	values string // as the template has them
	slots  []slot
	// tree has the reaches: that of slot i at len(tree)/2+i, and at i the greater
	// one of 2i and 2i+1. nil after slots were added or removed.
	tree []string
}

type slot struct {
	bound any // nil without a range
	q     *question
}

// everywhere is the reach of a question with all rows that meet its condition. No
// rank is greater: ranks have letters and digits.
const everywhere = "\xff"

func (q *question) reach() string {
	if q.complete {
		return everywhere
	}
	return q.horizon
}

func (b *bucket) add(bound any, q *question) {
	b.slots = slices.Insert(b.slots, b.after(bound), slot{bound, q})
	b.tree = nil
}

func (b *bucket) remove(bound any, q *question) {
	if i := b.find(bound, q); i >= 0 {
		b.slots = slices.Delete(b.slots, i, i+1)
		b.tree = nil
	}
}

// at returns the place of the first slot whose bound is not less than v.
func (b *bucket) at(v any) int {
	i, _ := slices.BinarySearchFunc(b.slots, v, func(s slot, v any) int { return compareBounds(s.bound, v) })
	return i
}

// after returns the place of the first slot whose bound is greater than v.
func (b *bucket) after(v any) int {
	i, _ := slices.BinarySearchFunc(b.slots, v, func(s slot, v any) int {
		if compareBounds(s.bound, v) <= 0 {
			return -1
		}
		return 1
	})
	return i
}

func (b *bucket) find(bound any, q *question) int {
	for i := b.at(bound); i < len(b.slots) && compareBounds(b.slots[i].bound, bound) == 0; i++ {
		if b.slots[i].q == q {
			return i
		}
	}
	return -1
}

// update takes over the reach of a question.
func (b *bucket) update(bound any, q *question) {
	if b.tree == nil {
		return
	}
	i := b.find(bound, q)
	if i < 0 {
		return
	}
	i += len(b.tree) / 2
	b.tree[i] = q.reach()
	for i /= 2; i > 0; i /= 2 {
		b.tree[i] = max(b.tree[2*i], b.tree[2*i+1])
	}
}

func (b *bucket) grow() {
	leaves := 1
	for leaves < len(b.slots) {
		leaves *= 2
	}
	b.tree = make([]string, 2*leaves)
	for i, s := range b.slots {
		b.tree[leaves+i] = s.q.reach()
	}
	for i := leaves - 1; i > 0; i-- {
		b.tree[i] = max(b.tree[2*i], b.tree[2*i+1])
	}
}

// within calls visit for the questions at the places from from to before to whose
// entries reach a rank.
func (b *bucket) within(from, to int, rank string, visit func(*question)) {
	if b.tree == nil {
		b.grow()
	}
	b.descend(1, 0, len(b.tree)/2, from, to, rank, visit)
}

// descend visits the leaves of a node, which are width places from start.
func (b *bucket) descend(node, start, width, from, to int, rank string, visit func(*question)) {
	if start >= to || start+width <= from || b.tree[node] < rank {
		return
	}
	if width == 1 {
		visit(b.slots[start].q)
		return
	}
	b.descend(2*node, start, width/2, from, to, rank, visit)
	b.descend(2*node+1, start+width/2, width/2, from, to, rank, visit)
}

// compareBounds orders two bounds of one column's kind.
func compareBounds(a, b any) int {
	switch a := a.(type) {
	case int64:
		return cmp.Compare(a, b.(int64))
	case float64:
		return cmp.Compare(a, b.(float64))
	case string:
		return cmp.Compare(a, b.(string))
	case bool:
		switch {
		case a == b.(bool):
			return 0
		case a:
			return 1
		}
		return -1
	}
	return 0 // without a range
}
