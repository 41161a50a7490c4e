package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// texts returns the texts of rows of notes, by key.
func texts(rows []harness.Row) string {
	var b strings.Builder
	for _, r := range rows {
		var n noteRow
		if err := json.Unmarshal(r.Data, &n); err != nil {
			n.Text = err.Error()
		}
		fmt.Fprintf(&b, "%s=%s;", r.Key, n.Text)
	}
	return b.String()
}

// TestPoisonEventHoldsOneRowUntilItIsRetriedOrSkipped runs nodes whose handler
// panics for some events, and then nodes of a program that can read them.
func TestPoisonEventHoldsOneRowUntilItIsRetriedOrSkipped(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), hungAfter)
	defer cancel()
	poisoned, mended := programAt(t, "notes-poisoned"), programAt(t, "notes")
	c := startTrioOf(t, database(t), poisoned)
	writer := &harness.Client{ID: "ada", URLs: c.wsURLs()}
	defer writer.Leave()
	written := 0
	write := func(id, text string) (position uint64) {
		t.Helper()
		written++
		f, err := writer.Do(ctx, "note/"+id, "write", fmt.Sprint("k", written), writeNote{Text: text, Team: "red", Rank: int64(id[0])})
		if err != nil {
			t.Fatal(err)
		}
		return f.Position
	}
	v := newViewer("viewer", "notes", struct{}{})
	shown := func(gateway int, want string, blocked int) {
		t.Helper()
		head := write("z", "end")
		s, err := harness.Dial(ctx, c.wsURLs()[gateway], "eve", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var page struct {
			Rows    []harness.Row
			Blocked int
		}
		harness.Eventually(t, "the answer shows "+want, func() error {
			f, err := s.Call(ctx, map[string]any{"op": "query", "query": "notes", "data": struct{}{}, "at_least": head, "timeout_ms": 30000})
			if err == nil && f.Op == "result" {
				err = json.Unmarshal(f.Data, &page)
			}
			rows, _, _ := strings.Cut(texts(page.Rows), "z=")
			if err != nil || f.Op != "result" || rows != want || page.Blocked != blocked {
				return fmt.Errorf("it is %s %s, %q with %d blocked: %w", f.Op, f.Message, rows, page.Blocked, err)
			}
			return nil
		})
		if err := v.view(ctx, c.wsURLs()[(gateway+1)%3], func() bool {
			rows, _, _ := strings.Cut(texts(v.ordered()), "z=")
			return rows == want && v.position >= head
		}); err != nil {
			t.Fatalf("the live query shows %s at %d: %v", texts(v.rowsNow()), v.position, err)
		}
	}

	write("a", "one")
	write("b", "one")
	shown(0, "a=one;b=one;", 0)
	atA := write("a", "poison")
	atC := write("c", "poison")
	write("a", "three")
	write("b", "two")
	write("c", "four")
	shown(1, "a=one;b=one,two;", 2)
	write("a", "five")
	shown(2, "a=one;b=one,two;", 2)
	listed := c.operate(poisoned, 0, "processors")
	for key, position := range map[string]uint64{"a": atA, "c": atC} {
		if want := fmt.Sprintf("%s waits at position %d since", key, position); !strings.Contains(listed, want) {
			t.Errorf("processors does not print %q:\n%s", want, listed)
		}
	}

	if out := c.operate(poisoned, 1, "processor", "retry", "notes"); strings.Count(out, "waits at position") != 2 {
		t.Errorf("retry by the program that cannot read them prints %s", out)
	}
	c.operate(mended, 2, "processor", "skip", "notes", "--key", "c")
	c.operate(mended, 2, "processor", "skip", "--key", "c", "--position", fmt.Sprint(atC))
	c.operate(mended, 1, "processor", "skip", "notes", "--key", "c", "--position", fmt.Sprint(atC+1))
	c.operate(mended, 1, "processor", "skip", "notes", "--key", "b", "--position", fmt.Sprint(atC))
	shown(0, "a=one;b=one,two;", 2)
	c.operate(mended, 0, "processor", "skip", "notes", "--key", "c", "--position", fmt.Sprint(atC))
	shown(1, "a=one;b=one,two;c=four;", 1)

	for i := range c.members { // the mended program has the same build
		c.leave(i)
		c.members[i].binary = mended
		c.start(i)
		c.settled()
	}
	shown(2, "a=one;b=one,two;c=four;", 1)
	c.operate(mended, 0, "processor", "retry", "notes", "--key", "a")
	shown(0, "a=one,poison,three,five;b=one,two;c=four;", 0)
	write("a", "six")
	write("c", "poison")
	shown(1, "a=one,poison,three,five,six;b=one,two;c=four,poison;", 0)
	if got := fmt.Sprint(v.resets); got != "[mended mended]" {
		t.Errorf("the live query was reset: %s", got)
	}
	if err := v.err(); err != nil {
		t.Error(err)
	}
}
