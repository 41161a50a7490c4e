package live

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	"github.com/ganglion-es/ganglion/domain/query"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// TestIndexFindsEveryQuestionThatARowEnters compares the index with the evaluation
// of every condition, while questions come and their reach changes.
func TestIndexFindsEveryQuestionThatARowEnters(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteRows(t), 5, 5, 12)
	s := &source{model: w.model, index: newIndex(), orders: map[string]int{}}
	random := rand.New(rand.NewPCG(1, 9))
	known := map[id]*question{}
	owners := []string{"", "ada", "bob", "eve"}
	found, all := 0, 0
	for range 600 {
		limit := []int{5, 12}[random.IntN(2)]
		data, err := json.Marshal(search{Owner: owners[random.IntN(4)], Most: random.Int64N(9), Form: random.IntN(5)})
		if err != nil {
			t.Fatal(err)
		}
		asked, err := w.query[limit].Question(query.Call{}, data)
		if err != nil {
			t.Fatal(err)
		}
		q := newQuestion(s, identity(asked), asked, s.orderOf(asked.Order))
		if old := known[q.id]; old != nil && random.IntN(3) == 0 {
			s.index.remove(old)
			delete(known, q.id)
		} else if old == nil {
			known[q.id] = q
			s.index.add(q)
		}
		c := changed(t, w, random.IntN(100))
		for _, q := range known {
			if random.IntN(4) == 0 {
				other := changed(t, w, random.IntN(100))
				q.complete, q.horizon = random.IntN(4) == 0, other.rank(q)
				s.index.reach(q)
			}
		}
		visited := map[*question]bool{}
		s.index.each(&c, func(q *question) { visited[q] = true })
		for _, q := range known {
			all++
			if visited[q] {
				found++
			}
			if s.meets(q, &c) && q.knows(c.rank(q)) && !visited[q] {
				t.Fatalf("the index omits %+v for %v", q.asked.Filter, c.values)
			}
		}
		if len(visited) > len(known) {
			t.Fatal("the index has questions that were removed")
		}
	}
	t.Logf("the index finds %d of %d questions", found, all)
	if found*2 > all {
		t.Errorf("the index finds %d of %d questions, more than half", found, all)
	}
	for _, q := range known {
		s.index.remove(q)
	}
	if len(s.index.templates) != 0 || len(s.index.places) != 0 || s.index.scans() != 0 {
		t.Error("an empty index keeps something")
	}
}

func changed(t *testing.T, w *world, key int) change {
	t.Helper()
	name, segment := w.key(key)
	r := w.stored(name, segment, 1)
	c, err := changeOf(w.model, rows.Row{Key: r.Key, Segment: r.Segment, Position: 1, Data: r.Data})
	if err != nil {
		t.Fatal(err)
	}
	return c
}
