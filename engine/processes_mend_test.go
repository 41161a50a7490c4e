package engine

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// faulty returns a program that cannot handle the text "poison" while broken.
func faulty(t *testing.T, broken *atomic.Bool, change func(*process.Type[relayed])) func(*process.Type[relayed]) {
	t.Helper()
	return func(p *process.Type[relayed]) {
		p.On = process.Handlers[relayed]{process.On(func(at process.At, e orderPlaced, s *relayed) process.Commands {
			if e.Text == "poison" && broken.Load() {
				panic("poison")
			}
			s.Orders++
			return process.Commands{process.Send("ledger", e.Target, note{Text: e.Text, From: fmt.Sprint(at.ID, " ", at.Position)})}
		})}
		if change != nil {
			change(p)
		}
	}
}

func (n *marketNode) operations() *Operations {
	return NewOperations(OperationsConfig{Catalog: n.host.catalog, Store: n.store, Rows: n.store.Rows()})
}

func (n *marketNode) blocked(want int) {
	n.m.t.Helper()
	eventually(n.m.t, fmt.Sprint(want, " blocked sequences"), func() bool {
		found := 0
		for _, k := range n.own().Blocked {
			found += k
		}
		return found == want
	})
}

func (n *marketNode) retry() (events int) {
	n.m.t.Helper()
	eventually(n.m.t, "a retry", func() bool {
		err := n.operations().Retry(n.m.t.Context(), "relay", "", func(r Resumed) { events += r.Events })
		if err != nil && !strings.Contains(err.Error(), "try again in a moment") {
			n.m.t.Fatal(err)
		}
		return err == nil
	})
	return events
}

func TestBlockedSequenceSendsItsCommandsAfterARetry(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		var broken atomic.Bool
		broken.Store(true)
		n := m.start(relaying(t, faulty(t, &broken, nil)))
		n.begun()
		place := func(shop, key, text string) eventstore.Position {
			return n.place(shop, key, placeOrder{Target: "l", Text: text})
		}
		a, poison := place("s", "a", "a"), place("s", "p", "poison")
		n.blocked(1)
		b, other := place("s", "b", "b"), place("other", "o", "o")
		eventually(t, "notes of what is not blocked", func() bool { return len(n.notes("l")) == 2 })
		broken.Store(false)
		if events := n.retry(); events != 2 {
			t.Errorf("%d events were resumed, want 2", events)
		}
		n.drained()
		n.wantNotes("l", map[string][]eventstore.Position{"s": {a, poison, b}, "other": {other}})
		if got := n.state("s"); got != `{"orders":3,"refusals":0}` {
			t.Errorf("the state is %s", got)
		}
		if done, err := n.operations().Verify(t.Context(), "relay", func(d Difference) { t.Errorf("a state differs: %+v", d) }, nil); err != nil || done.Differences != 0 {
			t.Errorf("verified: %+v, %v", done, err)
		}
	})
}

// TestNewBuildContinuesWhatTheOldOneHasBlocked mends a handler and changes the shape:
// the events that waited cause their commands from the new build, and only once.
func TestNewBuildContinuesWhatTheOldOneHasBlocked(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		var broken, never atomic.Bool
		broken.Store(true)
		old := m.start(relaying(t, faulty(t, &broken, nil)))
		old.begun()
		place := func(shop, key, text string) eventstore.Position {
			return old.place(shop, key, placeOrder{Target: "l", Text: text})
		}
		a, poison, b, other := place("s", "a", "a"), place("s", "p", "poison"), place("s", "b", "b"), place("other", "o", "o")
		old.blocked(1)
		next := m.start(relaying(t, faulty(t, &never, func(p *process.Type[relayed]) { p.Segments = 3 })))
		eventually(t, "a handover", next.sends)
		next.blocked(1)
		c := place("s", "c", "c")
		if events := next.retry(); events < 2 {
			t.Errorf("%d events were resumed", events)
		}
		broken.Store(false)
		old.retry() // sends nothing: the new build has
		next.drained()
		next.wantNotes("l", map[string][]eventstore.Position{"s": {a, poison, b, c}, "other": {other}})
		if got := next.state("s"); got != `{"orders":4,"refusals":0}` {
			t.Errorf("the state is %s", got)
		}
	})
}

// TestVerifyListsCommandsThatTheLogLacks has one command that its aggregate refuses.
func TestVerifyListsCommandsThatTheLogLacks(t *testing.T) {
	t.Parallel()
	m := &market{t: t, dir: t.TempDir()}
	n := m.start(relaying(t, nil))
	n.begun()
	n.place("s", "a", placeOrder{Target: "l", Text: "a"})
	p := n.place("s", "b", placeOrder{Target: "l", Text: "rude"})
	n.place("other", "c", placeOrder{Target: "l", Text: "c"})
	n.drained()
	var found []Difference
	done, err := n.operations().Verify(t.Context(), "relay", func(d Difference) { found = append(found, d) }, nil)
	if err != nil || done.Differences != 0 || done.Missing != 1 || len(found) != 1 {
		t.Fatalf("verified: %+v, %+v, %v", done, found, err)
	}
	if d := found[0]; !d.Command || d.Key != "s" || !strings.Contains(d.Folded, fmt.Sprintf("the event at %d causes note to ledger/l", p)) {
		t.Errorf("found: %+v", d)
	}
}

func TestRebuildSendsNothingForThePast(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		n := m.start(relaying(t, nil))
		n.begun()
		a := n.place("s", "a", placeOrder{Target: "l", Text: "a"})
		n.drained()
		again, err := n.operations().Rebuild(t.Context(), "relay")
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "a handover to the rebuild", func() bool { b := n.own(); return b.ID == again.ID && n.sends() })
		b := n.place("s", "b", placeOrder{Target: "l", Text: "b"})
		n.drained()
		n.wantNotes("l", map[string][]eventstore.Position{"s": {a, b}})
		if got := n.state("s"); got != `{"orders":2,"refusals":0}` {
			t.Errorf("the state is %s", got)
		}
	})
}

func TestCopyOfALogSendsNothingUntilItIsResumed(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		s := m.open()
		if err := s.Rows().Pause(t.Context(), rows.PauseProcesses, true); err != nil {
			t.Fatal(err)
		}
		s.Close()
		n := m.start(relaying(t, nil))
		n.begun()
		p := n.place("s", "a", placeOrder{Target: "l", Text: "a"})
		for _, c := range n.own().Checkpoints {
			if !c.Paused || c.Position != 0 {
				t.Errorf("a checkpoint of a copy is %+v", c)
			}
		}
		if err := n.operations().Pause(t.Context(), "relay", false); err != nil {
			t.Fatal(err)
		}
		n.drained()
		n.wantNotes("l", map[string][]eventstore.Position{"s": {p}})
	})
}

// byTarget makes the target of an order its sequence.
func byTarget(t *testing.T, broken *atomic.Bool) func(*process.Type[relayed]) {
	t.Helper()
	return func(p *process.Type[relayed]) {
		p.On = process.Handlers[relayed]{process.OnKeys(
			func(_ process.At, e orderPlaced) []string { return strings.Split(e.Target, " ") },
			func(at process.At, e orderPlaced, s *relayed) process.Commands {
				if e.Text == "poison" && broken.Load() {
					panic("poison")
				}
				s.Orders++
				return process.Commands{process.Send("ledger", "l", note{Text: e.Text, From: fmt.Sprint(at.ID, " ", at.Position)})}
			},
		)}
	}
}

// TestRetryRefusesASequenceThatTheNewShapeDoesNotHave changes what a sequence is while
// one is blocked.
func TestRetryRefusesASequenceThatTheNewShapeDoesNotHave(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		var broken, never atomic.Bool
		broken.Store(true)
		old := m.start(relaying(t, faulty(t, &broken, nil)))
		old.begun()
		poison := old.place("s", "p", placeOrder{Target: "l", Text: "poison"})
		old.blocked(1)
		next := m.start(relaying(t, byTarget(t, &never)))
		eventually(t, "a handover", next.sends)
		next.blocked(1)
		var err error
		eventually(t, "an answer", func() bool {
			err = next.operations().Retry(t.Context(), "relay", "", func(r Resumed) { t.Errorf("resumed %+v", r) })
			return err == nil || !strings.Contains(err.Error(), "try again in a moment")
		})
		want := fmt.Sprintf("the event at %d concerns l instead: send the commands of its events from %d on by hand, then skip it", poison, poison)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Fatalf("the retry: %v, want %q", err, want)
		}
		if err := next.operations().Skip(t.Context(), "relay", "s", poison, func(Resumed) {}); err != nil {
			t.Fatal(err)
		}
		next.blocked(0)
		next.drained()
		next.wantNotes("l", nil)
	})
}

// TestHandedOverSequenceUsesNoKeyOfAnother has a new build in which a sequence has the
// index that another one had in the old build, at the same event.
func TestHandedOverSequenceUsesNoKeyOfAnother(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		var broken atomic.Bool
		broken.Store(true)
		// Its second order blocks a sequence.
		pair := func(change func(keys []string) []string) func(*process.Type[relayed]) {
			return func(p *process.Type[relayed]) {
				p.On = process.Handlers[relayed]{process.OnKeys(
					func(_ process.At, e orderPlaced) []string { return change(strings.Split(e.Target, " ")) },
					func(at process.At, e orderPlaced, s *relayed) process.Commands {
						if s.Orders > 0 && broken.Load() {
							panic("poison")
						}
						s.Orders++
						return process.Commands{process.Send("ledger", "l", note{Text: e.Text, From: fmt.Sprint(at.ID, " ", at.Position)})}
					},
				)}
			}
		}
		old := m.start(relaying(t, pair(func(keys []string) []string { return keys })))
		old.begun()
		first := old.place("s", "first", placeOrder{Target: "b"})
		eventually(t, "the note of b", func() bool { return len(old.notes("l")) == 1 }) // a may be of another segment
		both := old.place("s", "both", placeOrder{Target: "a b"})                       // a has index 0, b has 1
		old.blocked(1)
		eventually(t, "the note of a", func() bool { return len(old.notes("l")) == 2 })
		next := m.start(relaying(t, func(p *process.Type[relayed]) {
			pair(func(keys []string) []string { return keys[len(keys)-1:] })(p) // b has index 0
			p.Revision = 1
		}))
		eventually(t, "a handover", next.sends)
		next.blocked(1)
		broken.Store(false)
		next.retry()
		next.drained()
		next.wantNotes("l", map[string][]eventstore.Position{"s": {first, both, both}})
	})
}
