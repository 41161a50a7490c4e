package live

import "testing"

func TestRowThatReturnsUnchangedIsNotSentAgain(t *testing.T) {
	t.Parallel()
	w := window{limit: 2, slack: minSlack, complete: true}
	a, b := &row{key: "a"}, &row{key: "b"}
	w.put(-1, form{row: a, rank: "1", position: 1})
	w.put(-1, form{row: b, rank: "2", position: 2})
	w.settle(0)

	w.remove(0)
	w.put(-1, form{row: &row{key: "a"}, rank: "1", position: 1})
	if w.settle(0) {
		t.Errorf("a row that left and returned is change %d", w.seq)
	}
	w.remove(0)
	w.put(-1, form{row: a, rank: "3", position: 3})
	if before := w.seq; !w.settle(0) || w.seq != before+1 || w.items[len(w.items)-1].gone {
		t.Errorf("a row that left and returned with another form is %d changes, want 1", w.seq-before)
	}
	w.remove(1)
	if before := w.seq; !w.settle(0) || w.seq != before+1 || !w.items[len(w.items)-1].gone {
		t.Errorf("a row that left is %d changes, want 1", w.seq-before)
	}
}
