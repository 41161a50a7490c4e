package engine

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/process"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
)

func TestProcessManagerSendsOneCommandForEachCause(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		n := m.start(relaying(t, nil))
		n.begun()
		want := map[string][]eventstore.Position{}
		for i := range 20 {
			shop := fmt.Sprint("s", i%3)
			want[shop] = append(want[shop], n.place(shop, fmt.Sprint("k", i), placeOrder{Target: "l", Text: "hello"}))
		}
		n.drained()
		n.wantNotes("l", want)
	})
}

// TestKilledBackendsLoseAndRepeatNoCommand lets two nodes fold and send for the same
// segments, while connections to the database are ended.
func TestKilledBackendsLoseAndRepeatNoCommand(t *testing.T) {
	t.Parallel()
	m := &market{t: t, url: postgrestest.URL(t)}
	program := relaying(t, nil)
	n := m.start(program)
	m.start(program)
	n.begun()
	var placed atomic.Int64
	stop := postgrestest.EndBackends(t, m.url, func() int64 { return placed.Load() / 5 })
	const shops, orders = 5, 60
	var all sync.WaitGroup
	var mu sync.Mutex
	want := [3]map[string][]eventstore.Position{{}, {}, {}}
	for s := range shops {
		all.Go(func() {
			for i := range orders {
				shop, target := fmt.Sprint("s", s), rand.IntN(3)
				p := n.place(shop, fmt.Sprint(shop, "-", i), placeOrder{Target: fmt.Sprint("l", target), Text: "hello"})
				placed.Add(1)
				mu.Lock()
				want[target][shop] = append(want[target][shop], p)
				mu.Unlock()
			}
		})
	}
	all.Wait()
	t.Logf("%d backends were ended", stop())
	n.drained()
	for target, of := range want {
		n.wantNotes(fmt.Sprint("l", target), of)
	}
}

func TestFirstBuildSendsNothingForThePast(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		plain := m.start(relaying(t, nil), func(n *marketNode) { n.owns = func(int) bool { return false } })
		past := plain.place("s", "past", placeOrder{Target: "l", Text: "past"})
		plain.stop()
		dropBuilds(t, m)
		n := m.start(relaying(t, nil))
		n.begun()
		later := n.place("s", "later", placeOrder{Target: "l", Text: "later"})
		n.drained()
		n.wantNotes("l", map[string][]eventstore.Position{"s": {later}})
		if row := n.state("s"); row != `{"orders":2,"refusals":0}` || later <= past {
			t.Errorf("the state is %s: it lacks the past", row)
		}
		n.stop()
		all := m.start(relaying(t, func(p *process.Type[relayed]) { p.Revision, p.FromTheBeginning = 1, true }))
		eventually(t, "a handover", all.sends)
		all.drained()
		all.wantNotes("l", map[string][]eventstore.Position{"s": {later}})
	})
}

// TestNewBuildTakesOverWithoutLossOrRepetition changes the program under load, to one
// that sends to other targets and has more segments, and back.
func TestNewBuildTakesOverWithoutLossOrRepetition(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		old := m.start(relaying(t, nil))
		old.begun()
		var stopped atomic.Bool
		var load sync.WaitGroup
		placed := make([]map[eventstore.Position]bool, 4)
		for s := range placed {
			placed[s] = map[eventstore.Position]bool{}
			load.Go(func() {
				for i := 0; !stopped.Load(); i++ {
					shop := fmt.Sprint("s", s)
					placed[s][old.place(shop, fmt.Sprint(shop, "-", i), placeOrder{Target: "old", Text: "hello"})] = true
				}
			})
		}
		eventually(t, "notes of the old build", func() bool { return len(old.notes("old")) > 10 })
		next := m.start(relaying(t, func(p *process.Type[relayed]) {
			p.Segments = 3
			p.On = process.Handlers[relayed]{process.On(func(at process.At, e orderPlaced, s *relayed) process.Commands {
				s.Orders++
				return process.Commands{process.Send("ledger", "new", note{Text: e.Text, From: fmt.Sprint(at.ID, " ", at.Position)})}
			})}
		}))
		eventually(t, "a handover", next.sends)
		eventually(t, "notes of the new build", func() bool { return len(next.notes("new")) > 10 })
		stopped.Store(true)
		load.Wait()
		old.drained()
		seen := map[eventstore.Position]bool{}
		for _, ledger := range []string{"old", "new"} {
			for _, e := range old.notes(ledger) {
				var shop string
				var p eventstore.Position
				if _, err := fmt.Sscan(e.From, &shop, &p); err != nil {
					t.Fatal(err)
				}
				if seen[p] {
					t.Errorf("the cause at %d has two notes", p)
				}
				seen[p] = true
			}
		}
		for s, of := range placed {
			for p := range of {
				if !seen[p] {
					t.Errorf("the cause at %d of shop %d has no note", p, s)
				}
			}
		}
		t.Logf("%d notes of the old build, %d of the new", len(old.notes("old")), len(old.notes("new")))
	})
}

func TestReturnToOldCodeSendsFromWhereTheNewStopped(t *testing.T) {
	t.Parallel()
	m := &market{t: t, url: postgrestest.URL(t)}
	first := relaying(t, nil)
	old := m.start(first)
	old.begun()
	a := old.place("s", "a", placeOrder{Target: "l", Text: "a"})
	old.drained()
	next := m.start(relaying(t, func(p *process.Type[relayed]) { p.Revision = 1 }))
	eventually(t, "a handover", next.sends)
	old.stop()
	b := next.place("s", "b", placeOrder{Target: "l", Text: "b"})
	next.drained()
	next.stop()
	again := m.start(first)
	c := again.place("s", "c", placeOrder{Target: "l", Text: "c"}) // makes the other build stand still behind the head
	eventually(t, "a handover back", again.sends)
	again.drained()
	again.wantNotes("l", map[string][]eventstore.Position{"s": {a, b, c}})
}

func TestRefusedCommandReachesRejectedOnce(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		program := relaying(t, func(p *process.Type[relayed]) {
			p.Rejected = func(_ process.At, r process.Rejection, s *relayed) process.Commands {
				s.Refusals++
				return process.Commands{process.Send("ledger", "l", note{Text: "refused", From: fmt.Sprintf("%s/%s %s %s %d", r.Type, r.ID, r.Code, r.Reason, r.Position)})}
			}
		})
		n := m.start(program)
		m.start(program)
		n.begun()
		p := n.place("s", "a", placeOrder{Target: "l", Text: "rude"})
		n.drained()
		list := n.notes("l")
		if len(list) != 1 || list[0].From != fmt.Sprintf("ledger/l rejected rude %d", p) {
			t.Errorf("the ledger has %v", list)
		}
		if of, err := n.operations().Outboxes(t.Context(), MostHeld); err != nil || len(of) != 1 || of[0].Rejected != 1 || of[0].LastRejected.IsZero() {
			t.Errorf("the outboxes of both nodes are %+v, %v; want one rejected command", of, err)
		}
		if got := n.state("s"); got != `{"orders":1,"refusals":1}` {
			t.Errorf("the state is %s", got)
		}
	})
}

func TestLoopOfCausesEndsAtItsDepth(t *testing.T) {
	t.Parallel()
	m := &market{t: t, dir: t.TempDir()}
	n := m.start(relaying(t, func(p *process.Type[relayed]) {
		p.MaxDepth = 10
		p.On = process.Handlers[relayed]{process.On(func(at process.At, e orderPlaced, s *relayed) process.Commands {
			s.Orders++
			return process.Commands{process.Send("shop", at.ID, placeOrder{Text: "again"})}
		})}
	}))
	n.begun()
	n.place("s", "a", placeOrder{Text: "first"})
	eventually(t, "a blocked sequence", func() bool { b := n.own(); return b.Blocked[0]+b.Blocked[1] == 1 })
	if head, err := n.store.Head(t.Context()); err != nil || head != 11 {
		t.Errorf("the log has %d events, %v; want the first and 10 that followed", head, err)
	}
	blocked, err := NewOperations(OperationsConfig{Catalog: n.host.catalog, Store: n.store, Rows: n.store.Rows()}).Blocked(t.Context(), 100)
	if err != nil || len(blocked) != 1 || blocked[0].Key != "s" || !strings.Contains(blocked[0].Error, "chain of 10 causes") {
		t.Errorf("blocked: %+v, %v", blocked, err)
	}
}

func TestSequenceIsWokenWhenItsTimeHasCome(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		program := relaying(t, func(p *process.Type[relayed]) {
			p.Wake = func(s relayed) time.Time { return s.Due }
			p.Woken = func(at process.At, s *relayed) process.Commands {
				due := s.Due
				s.Due = time.Time{}
				return process.Commands{process.Send("ledger", "woken", note{Text: due.UTC().Format(time.RFC3339), From: at.ID})}
			}
		})
		n := m.start(program)
		m.start(program)
		n.begun()
		n.place("past", "a", placeOrder{Target: "l", Text: "a", Due: time.Now().Add(-time.Hour)})
		n.place("never", "c", placeOrder{Target: "l", Text: "c", Due: time.Now().Add(time.Hour)})
		moved, due := "", time.Time{}
		for within := time.Second; moved == ""; within *= 2 { // until the second order is handled before the first one's time
			id := fmt.Sprint("moved", within)
			due = time.Now().Add(within)
			n.place(id, "d", placeOrder{Target: "l", Text: "d", Due: due})
			n.place(id, "e", placeOrder{Target: "l", Text: "e", Due: due.Add(time.Hour)})
			eventually(t, "two orders", func() bool { return strings.Contains(n.state(id), `"orders":2,`) })
			if time.Now().Before(due) {
				moved = id
			}
		}
		n.place("soon", "b", placeOrder{Target: "l", Text: "b", Due: due.Add(time.Millisecond)})
		woken := func() (list []string) {
			for _, e := range n.notes("woken") {
				list = append(list, e.From)
			}
			return list
		}
		eventually(t, "two notes", func() bool { list := woken(); return slices.Contains(list, "past") && slices.Contains(list, "soon") })
		n.drained()
		list := slices.DeleteFunc(woken(), func(id string) bool { return strings.HasPrefix(id, "moved") && id != moved })
		slices.Sort(list) // commands of different segments have no order
		if !slices.Equal(list, []string{"past", "soon"}) {
			t.Errorf("woken: %v", list)
		}
		if commits, err := n.store.ReadStream(t.Context(), eventstore.StreamID{Type: "relay", ID: "past"}, 0, 10); err != nil || len(commits) != 1 || commits[0].Meta.Client != "~relay" {
			t.Errorf("the process manager's stream has %+v, %v", commits, err)
		}
	})
}

// TestScheduleRunsEachPlannedTimeOnce lets two nodes record the planned times of one
// schedule.
func TestScheduleRunsEachPlannedTimeOnce(t *testing.T) {
	t.Parallel()
	eachMarket(t, func(t *testing.T, m *market) {
		program := relaying(t, nil, process.Every{
			Name: "ticker", Interval: time.Second, Missed: process.Each,
			Run: func(at process.At, planned time.Time) process.Commands {
				return process.Commands{process.Send("ledger", "ticks", note{Text: planned.Format(time.RFC3339), From: at.ID})}
			},
		})
		n := m.start(program)
		m.start(program)
		eventually(t, "three runs", func() bool { return len(n.notes("ticks")) >= 3 })
		var first, last time.Time
		for _, e := range n.notes("ticks") {
			at, err := time.Parse(time.RFC3339, e.Text)
			if err != nil || !last.IsZero() && at.Sub(last) != time.Second {
				t.Errorf("a run at %s follows one at %s, %v", e.Text, last, err)
			}
			if last = at; first.IsZero() {
				first = at
			}
		}
		commits, err := n.store.ReadStream(t.Context(), eventstore.StreamID{Type: "ticker", ID: process.TickSequence}, 0, 1)
		if err != nil || len(commits) != 1 || commits[0].At.Before(first.Add(-10*time.Second)) || commits[0].Meta.Client != "~ticker" {
			t.Errorf("the schedule's stream begins with %+v, %v", commits, err)
		}
	})
}
