package rowstest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/rows"
)

// processSpec is a build of a process manager.
func processSpec(fingerprint string, segments int) rows.Spec {
	return rows.Spec{
		Projection: "out-bid", Fingerprint: fingerprint, Segments: segments,
		Columns: []rows.Column{rows.DueColumn}, Process: true, FromTheBeginning: true,
	}
}

// state returns a row of a process manager.
func state(key string, segment int, p eventstore.Position, due time.Time) rows.Row {
	r := rows.Row{Key: key, Segment: segment, Position: p, Values: []any{nil}, Data: []byte(fmt.Sprintf(`{"at":%d}`, p))}
	if !due.IsZero() {
		r.Values[0] = due.UnixMicro()
	}
	return r
}

func command(p eventstore.Position, k, n int, target string) rows.Command {
	return rows.Command{CommandID: rows.CommandID{Position: p, K: k, N: n}, Sequence: "42", Target: target, Name: "notify", Data: []byte(`{"text": "\u0000 ü"}`), Depth: 3}
}

// advance writes a batch of a process manager from where the checkpoint is.
func advance(t *testing.T, table rows.Table, segment int, to eventstore.Position, b rows.Batch) {
	t.Helper()
	c := checkpoints(t, table)[segment]
	b.Segment, b.From, b.To, b.Mends, b.Term = segment, c.Position, to, c.Mends, c.Term
	write(t, table, b)
}

func pending(t *testing.T, s rows.Store, table rows.Table, segment int) (ids []string) {
	t.Helper()
	list, err := s.Pending(t.Context(), "out-bid", table.Build().ID, segment, rows.CommandID{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list {
		ids = append(ids, fmt.Sprintf("%d.%d:%d %s", c.Position, c.K, c.N, c.Target))
	}
	return ids
}

func testCommands(t *testing.T, s rows.Store) {
	table := opened(t, s, processSpec("one", 2))
	advance(t, table, 1, 5, rows.Batch{
		Rows:     []rows.Row{state("42", 1, 5, time.Time{})},
		Commands: []rows.Command{command(4, 0, 0, "client/bob"), command(4, 0, 1, "client/eve"), command(5, 1, 0, "client/bob")},
	})
	list, err := s.Pending(t.Context(), "out-bid", table.Build().ID, 1, rows.CommandID{}, 10)
	if err != nil || len(list) != 3 {
		t.Fatalf("pending: %v, %v", list, err)
	}
	for i := range list {
		if list[i].At.IsZero() {
			t.Error("a command has no time")
		}
		list[i].At = time.Time{}
	}
	want := command(5, 1, 0, "client/bob")
	want.Build, want.Segment = table.Build().ID, 1
	equal(t, "the last command", list[2], want)
	c := checkpoints(t, table)[1]
	for name, b := range map[string]rows.Batch{
		"elsewhere":    {Segment: 1, From: 4, To: 6, Term: c.Term},
		"another term": {Segment: 1, From: 5, To: 6, Term: rows.Term{From: c.Term.From, Until: 5}},
		"another from": {Segment: 1, From: 5, To: 6, Term: rows.Term{From: rows.Origin{{1}}, Until: rows.Endless}},
	} {
		b.Key, b.Commands, b.Rows = "k", []rows.Command{command(6, 0, 0, "client/bob")}, []rows.Row{state("42", 1, 6, time.Time{})}
		for _, call := range []func() error{func() error { return table.Try(t.Context(), b) }, func() error { return table.Write(t.Context(), b) }} {
			if err := call(); !errors.Is(err, rows.ErrFenced) {
				t.Errorf("a batch from %s: got %v, want ErrFenced", name, err)
			}
		}
	}
	again := rows.Batch{Segment: 1, From: 5, To: 6, Term: c.Term, Key: "k", Commands: []rows.Command{command(5, 1, 0, "client/bob")}}
	if err := table.Write(t.Context(), again); err == nil {
		t.Error("a command was written twice under one name")
	}
	equal(t, "the outbox", pending(t, s, table, 1), []string{"4.0:0 client/bob", "4.0:1 client/eve", "5.1:0 client/bob"})
	equal(t, "the row", load(t, table, "42"), map[string]string{"42": `1 5 {"at":5}`})
	equal(t, "the other segment", pending(t, s, table, 0), []string(nil))
	if err := s.Drop(t.Context(), table.Build().ID); err != nil {
		t.Fatal(err)
	}
	equal(t, "the outbox of a build that was dropped", len(pending(t, s, table, 1)), 3)
}

func testOutbox(t *testing.T, s rows.Store) {
	table := opened(t, s, processSpec("one", 2))
	var list []rows.Command
	for p := eventstore.Position(1); p <= 10; p++ {
		list = append(list, command(p, 0, 0, "client/bob"), command(p, 0, 1, "client/eve"))
	}
	advance(t, table, 0, 10, rows.Batch{Commands: list})
	advance(t, table, 1, 10, rows.Batch{Commands: []rows.Command{command(3, 1, 0, "client/bob")}})
	var got []string
	after := rows.CommandID{}
	for {
		page, err := s.Pending(t.Context(), "out-bid", table.Build().ID, 0, after, 3)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, c := range page {
			if !after.Before(c.CommandID) || c.CommandID.Before(after) {
				t.Errorf("%v comes after %v", c.CommandID, after)
			}
			got, after = append(got, fmt.Sprint(c.CommandID)), c.CommandID
		}
	}
	equal(t, "how many commands are pending", len(got), 20)
	if err := s.Sent(t.Context(), "out-bid", sent(false, rows.CommandID{Position: 1}, rows.CommandID{Position: 1, N: 1}, rows.CommandID{Position: 99})); err != nil {
		t.Fatal(err)
	}
	if err := s.Sent(t.Context(), "other", sent(false, rows.CommandID{Position: 2})); err != nil {
		t.Fatal(err)
	}
	senders, err := s.Senders(t.Context(), "out-bid")
	if err != nil || len(senders) != 2 {
		t.Fatalf("senders: %v, %v", senders, err)
	}
	for i := range senders {
		if senders[i].Age < 0 || senders[i].Age > time.Hour {
			t.Errorf("the age is %v", senders[i].Age)
		}
		senders[i].Age = 0
	}
	equal(t, "the senders", senders, []rows.Sender{{Build: table.Build().ID, Segment: 0, Commands: 18}, {Build: table.Build().ID, Segment: 1, Commands: 1}})
	if err := s.Pause(t.Context(), "out-bid", true); err != nil {
		t.Fatal(err)
	}
	if list, err := s.Pending(t.Context(), "out-bid", table.Build().ID, 0, rows.CommandID{}, 1); !errors.Is(err, rows.ErrPaused) || len(list) != 1 {
		t.Errorf("pending commands of a paused process manager: got %v, %v, want one and ErrPaused", list, err)
	}
}

func sent(rejected bool, ids ...rows.CommandID) (list []rows.Sent) {
	for _, id := range ids {
		list = append(list, rows.Sent{CommandID: id, Rejected: rejected})
	}
	return list
}

func testRejected(t *testing.T, s rows.Store) {
	table := opened(t, s, processSpec("one", 1))
	var list []rows.Command
	for p := eventstore.Position(1); p <= 6; p++ {
		list = append(list, command(p, 0, 0, "client/bob"))
	}
	advance(t, table, 0, 6, rows.Batch{Commands: list})
	counts := func(process string, want uint64) {
		t.Helper()
		got, last, err := s.Rejected(t.Context(), process)
		if err != nil || got != want || last.IsZero() != (want == 0) || time.Since(last) > time.Hour && want > 0 {
			t.Errorf("%s has %d rejected commands, the last at %v, %v; want %d", process, got, last, err, want)
		}
	}
	remove := func(process string, list ...rows.Sent) {
		t.Helper()
		if err := s.Sent(t.Context(), process, list); err != nil {
			t.Fatal(err)
		}
	}
	counts("out-bid", 0)
	remove("out-bid", sent(false, rows.CommandID{Position: 1})...)
	counts("out-bid", 0)
	remove("out-bid", slices.Concat(sent(true, rows.CommandID{Position: 2}, rows.CommandID{Position: 3}), sent(false, rows.CommandID{Position: 4}))...)
	counts("out-bid", 2)
	remove("out-bid", sent(true, rows.CommandID{Position: 2}, rows.CommandID{Position: 5})...) // another sender has removed the first
	counts("out-bid", 3)
	remove("other", sent(true, rows.CommandID{Position: 6})...)
	counts("other", 0)
	equal(t, "the outbox", pending(t, s, table, 0), []string{"6.0:0 client/bob"})
}

func testAhead(t *testing.T, s rows.Store) {
	old, next := opened(t, s, processSpec("one", 2)), opened(t, s, processSpec("two", 1))
	ahead := func(limit int, want ...string) {
		t.Helper()
		targets, held, err := s.Ahead(t.Context(), "out-bid", next.Build().ID, limit)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "what is ahead", append(targets, fmt.Sprint(held)), want)
	}
	ahead(9, "true")
	advance(t, old, 0, 10, rows.Batch{Commands: []rows.Command{
		command(1, 0, 0, "client/bob"), command(2, 0, 0, "client/bob"), command(3, 0, 0, "client/eve"),
	}})
	advance(t, old, 1, 10, rows.Batch{Commands: []rows.Command{command(4, 0, 0, "client/bob")}})
	ahead(9, "client/bob", "client/eve", "false")
	hold := func(p eventstore.Position) {
		t.Helper()
		if err := s.Fail(t.Context(), "out-bid", rows.CommandID{Position: p}, 5, true, "boom"); err != nil {
			t.Fatal(err)
		}
	}
	hold(1)
	ahead(9, "client/bob", "client/eve", "false")
	hold(3)
	ahead(9, "client/bob", "client/eve", "false") // another segment's command to bob is sent
	ahead(1, "client/bob", "false")
	hold(4)
	ahead(9, "client/bob", "client/eve", "true")
	if err := s.Sent(t.Context(), "out-bid", sent(false, rows.CommandID{Position: 1})); err != nil {
		t.Fatal(err)
	}
	ahead(9, "client/bob", "client/eve", "false") // the second is not held
	if targets, held, err := s.Ahead(t.Context(), "other", next.Build().ID, 9); err != nil || len(targets) > 0 || !held {
		t.Errorf("another process manager has %v, %v, %v", targets, held, err)
	}
}

func testHeld(t *testing.T, s rows.Store) {
	table := opened(t, s, processSpec("one", 1))
	advance(t, table, 0, 3, rows.Batch{Commands: []rows.Command{command(1, 0, 0, "client/bob"), command(2, 0, 0, "client/bob"), command(3, 0, 0, "client/bob")}})
	first, second := rows.CommandID{Position: 1}, rows.CommandID{Position: 2}
	if err := s.Fail(t.Context(), "out-bid", first, 5, true, "boom"); err != nil {
		t.Fatal(err)
	}
	if err := s.Fail(t.Context(), "out-bid", second, 2, false, "bang"); err != nil {
		t.Fatal(err)
	}
	held := func() (list []string) {
		t.Helper()
		found, err := s.Held(t.Context(), "out-bid", 10)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range found {
			list = append(list, fmt.Sprintf("%d %s %d %s %v", c.Position, c.Target, c.Attempts, c.Error, c.Held))
		}
		return list
	}
	equal(t, "what is held", held(), []string{"1 client/bob 5 boom true"})
	decide := func(name string, call func() (bool, error), want bool) {
		t.Helper()
		if got, err := call(); err != nil || got != want {
			t.Errorf("%s: got %v, %v; want %v", name, got, err, want)
		}
	}
	decide("discard a command that is not held", func() (bool, error) { return s.Discard(t.Context(), "out-bid", second) }, false)
	decide("release it", func() (bool, error) { return s.Release(t.Context(), "out-bid", second) }, false)
	decide("release a held command", func() (bool, error) { return s.Release(t.Context(), "out-bid", first) }, true)
	equal(t, "what is held then", held(), []string(nil))
	equal(t, "the outbox", len(pending(t, s, table, 0)), 3)
	if err := s.Fail(t.Context(), "out-bid", first, 5, true, "boom"); err != nil {
		t.Fatal(err)
	}
	decide("discard a held command", func() (bool, error) { return s.Discard(t.Context(), "out-bid", first) }, true)
	equal(t, "the outbox", pending(t, s, table, 0), []string{"2.0:0 client/bob", "3.0:0 client/bob"})
}

func testOrigin(t *testing.T, s rows.Store) {
	first, second := opened(t, s, processSpec("one", 2)), opened(t, s, processSpec("two", 3))
	for _, c := range checkpoints(t, first) {
		equal(t, "the first term", c.Term, rows.Term{From: rows.Origin{{0}}, Until: rows.Endless})
		if !c.Term.Current() || !c.Term.Sends("a", 1) {
			t.Error("the first build does not send")
		}
	}
	for _, c := range checkpoints(t, second) {
		if c.Term.Current() || c.Term.Sends("a", 1) {
			t.Errorf("the second build sends: %+v", c.Term)
		}
	}
	again, err := s.Rebuild(t.Context(), processSpec("one", 2))
	if err != nil {
		t.Fatal(err)
	}
	rebuilt, err := s.Open(t.Context(), processSpec("one", 2), again.ID)
	if err != nil {
		t.Fatal(err)
	}
	if checkpoints(t, rebuilt)[0].Term.Sends("a", 1) {
		t.Error("a rebuild sends")
	}
	if err := s.SetState(t.Context(), second.Build().ID, rows.Active); err != nil {
		t.Fatal(err)
	}
	for _, id := range []int64{again.ID, second.Build().ID} { // later than the first
		if err := s.Use(t.Context(), []int64{id}); err != nil {
			t.Fatal(err)
		}
	}
	if expired, err := s.Expire(t.Context(), "out-bid", 0); err != nil || fmt.Sprint(expired) != fmt.Sprint([]int64{again.ID}) {
		t.Errorf("expired %v, %v; want the rebuild, and not the build that sends", expired, err)
	}
	if plain := checkpoints(t, opened(t, s, spec("one")))[0].Term; plain.Current() {
		t.Errorf("a projection has the term %+v", plain)
	}
}

func testCopy(t *testing.T, s rows.Store) {
	if err := s.Pause(t.Context(), rows.PauseProcesses, true); err != nil {
		t.Fatal(err)
	}
	table := opened(t, s, processSpec("one", 1))
	if !checkpoints(t, table)[0].Paused || checkpoints(t, opened(t, s, spec("one")))[0].Paused {
		t.Error("the process manager is not paused, or a projection is")
	}
	if relay := opened(t, s, rows.Spec{Projection: "~relay/orders", Fingerprint: "relay", Segments: 1, Relay: true}); !checkpoints(t, relay)[0].Paused {
		t.Error("the relay is not paused")
	}
	if err := s.Pause(t.Context(), "out-bid", false); err != nil {
		t.Fatal(err)
	}
	opened(t, s, processSpec("two", 1)) // not the first one
	if checkpoints(t, table)[0].Paused {
		t.Error("the process manager is paused again")
	}
}

func handover(t *testing.T, s rows.Store, from, to rows.Table) {
	t.Helper()
	if err := s.Handover(t.Context(), from.Build().ID, to.Build().ID); err != nil {
		t.Fatal(err)
	}
}

func testHandover(t *testing.T, s rows.Store) {
	old, next := opened(t, s, processSpec("one", 2)), opened(t, s, processSpec("two", 3))
	other := opened(t, s, spec("one"))
	advance(t, old, 0, 10, rows.Batch{})
	advance(t, old, 1, 14, rows.Batch{})
	advance(t, next, 2, 11, rows.Batch{})
	refused := func(from, to rows.Table) {
		t.Helper()
		if err := s.Handover(t.Context(), from.Build().ID, to.Build().ID); !errors.Is(err, rows.ErrNoHandover) {
			t.Errorf("a handover from %s to %s: got %v, want ErrNoHandover", from.Build().Fingerprint, to.Build().Fingerprint, err)
		}
	}
	refused(old, next) // which is ahead of a segment
	refused(next, old)
	refused(old, old)
	refused(old, other)
	advance(t, old, 0, 12, rows.Batch{})
	seen := checkpoints(t, old)[1]
	handover(t, s, old, next)
	for _, c := range checkpoints(t, old) {
		if c.Term.Until != c.Position || c.Term.Current() {
			t.Errorf("the former build has the checkpoint %+v", c)
		}
	}
	for _, c := range checkpoints(t, next) {
		equal(t, "the term", c.Term, rows.Term{From: rows.Origin{{12, 14}}, Until: rows.Endless})
		for key, after := range map[string]eventstore.Position{"a": 12, "b": 14} {
			if rows.SegmentOf(key, 2) == 0 {
				after = 12
			} else {
				after = 14
			}
			if c.Term.Sends(key, after) || !c.Term.Sends(key, after+1) {
				t.Errorf("row %s sends after %d, want %d", key, c.Term.From.After(key), after)
			}
		}
	}
	late := rows.Batch{Segment: 1, From: 14, To: 15, Key: "k", Term: seen.Term, Commands: []rows.Command{command(15, 0, 0, "client/bob")}}
	if err := old.Write(t.Context(), late); !errors.Is(err, rows.ErrFenced) {
		t.Errorf("a writer that has not seen the handover: got %v, want ErrFenced", err)
	}
	refused(old, next) // again
	builds, err := s.Builds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(builds, func(b rows.Build) bool { return b.ID == next.Build().ID }); builds[i].State != rows.Active {
		t.Errorf("the build that took over is %s", builds[i].State)
	}
}

// testHandoverRivals lets the writers of two builds write one command for each event
// for which they send, while a third program hands over.
func testHandoverRivals(t *testing.T, s rows.Store) {
	const last = 120
	old, next := opened(t, s, processSpec("one", 1)), opened(t, s, processSpec("two", 1))
	var all sync.WaitGroup
	fold := func(table rows.Table, bound func() eventstore.Position) {
		for !t.Failed() {
			c := checkpoints(t, table)[0]
			for at := c.Position; at < min(last, bound()); at++ {
				b := rows.Batch{From: at, To: at + 1, Term: c.Term, Key: "k"}
				if c.Term.Sends("a", at+1) {
					b.Commands = []rows.Command{command(at+1, 0, 0, "client/bob")}
				}
				if err := table.Write(t.Context(), b); errors.Is(err, rows.ErrFenced) {
					break
				} else if err != nil {
					t.Error(err)
					return
				}
			}
			if checkpoints(t, table)[0].Position == last {
				return
			}
		}
	}
	all.Go(func() { fold(old, func() eventstore.Position { return last }) })
	all.Go(func() {
		fold(next, func() eventstore.Position {
			if checkpoints(t, next)[0].Term.Current() {
				return last
			}
			return checkpoints(t, old)[0].Position / 2
		})
	})
	all.Go(func() {
		for checkpoints(t, old)[0].Position < last/4 && !t.Failed() {
		}
		if err := s.Handover(t.Context(), old.Build().ID, next.Build().ID); err != nil {
			t.Error(err)
		}
	})
	all.Wait()
	found := slices.Concat(pending(t, s, old, 0), pending(t, s, next, 0))
	var want []string
	for p := 1; p <= last; p++ {
		want = append(want, fmt.Sprintf("%d.0:0 client/bob", p))
	}
	equal(t, "the commands", found, want)
}

// blocksOf returns what is blocked in a build: the key, the position, and after
// which position a row that was handed over sends.
func blocksOf(t *testing.T, table rows.Table) string {
	t.Helper()
	list, err := table.Blocks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, b := range list {
		text := fmt.Sprintf("%s/%d@%d", b.Key, b.Segment, b.Position)
		if b.HandedOver && b.After == rows.Endless {
			text += " never"
		} else if b.HandedOver {
			text += fmt.Sprint(" after ", b.After)
		}
		found = append(found, text)
	}
	slices.Sort(found)
	return strings.Join(found, ", ")
}

func testHandoverOfBlocks(t *testing.T, s rows.Store) {
	old, next := opened(t, s, processSpec("one", 1)), opened(t, s, processSpec("two", 2))
	advance(t, old, 0, 100, rows.Batch{Block: []rows.Block{{Key: "a", Position: 50, Error: "boom"}, {Key: "b", Position: 60}, {Key: "~auction/7", Position: 70}}})
	segment := func(key string) int { return rows.SegmentOf(key, 2) }
	advance(t, next, segment("a"), 90, rows.Batch{Block: []rows.Block{{Key: "a", Position: 40}}})
	advance(t, next, segment("c"), max(90, checkpoints(t, next)[segment("c")].Position+1), rows.Batch{Block: []rows.Block{{Key: "c", Position: 30}}})
	handover(t, s, old, next)
	equal(t, "what the former build has blocked", blocksOf(t, old), "a/0@50 never, b/0@60 never, ~auction/7/0@70 never")
	equal(t, "what is blocked then", blocksOf(t, next), fmt.Sprintf("a/%d@40 after 49, b/%d@60 after 59, c/%d@30, ~auction/7/0@70 after 69, ~auction/7/1@70 after 69",
		segment("a"), segment("b"), segment("c")))
	advance(t, next, segment("b"), 101, rows.Batch{Block: []rows.Block{{Key: "b", Position: 61, HandedOver: true, After: 60}}, Unblock: []string{"~auction/7"}})
	if got, want := blocksOf(t, next), fmt.Sprintf("b/%d@61 after 60", segment("b")); !strings.Contains(got, want) {
		t.Errorf("a row that is blocked again: %s, want %s", got, want)
	}
}

func testHandBack(t *testing.T, s rows.Store) {
	old, next := opened(t, s, processSpec("one", 2)), opened(t, s, processSpec("two", 2))
	for segment := range 2 {
		advance(t, old, segment, 10, rows.Batch{})
	}
	handover(t, s, old, next)
	for segment := range 2 {
		advance(t, next, segment, eventstore.Position(20+segment), rows.Batch{})
		advance(t, old, segment, 15, rows.Batch{}) // in silence
	}
	handover(t, s, next, old)
	equal(t, "the term of the first build", checkpoints(t, old)[0].Term, rows.Term{From: rows.Origin{{20, 21}}, Until: rows.Endless})
	equal(t, "the term of the other", checkpoints(t, next)[1].Term, rows.Term{From: rows.Origin{{10, 10}}, Until: 21})
	// A build that takes over before the other has reached its own beginning also
	// keeps that one's.
	handover(t, s, old, opened(t, s, processSpec("three", 1)))
	third := opened(t, s, processSpec("three", 1))
	equal(t, "the term of a third", checkpoints(t, third)[0].Term.From, rows.Origin{{20, 21}, {15, 15}})
}

func testDue(t *testing.T, s rows.Store) {
	table := opened(t, s, processSpec("one", 2))
	past := time.Date(2026, 5, 1, 12, 0, 0, 123456000, time.UTC)
	far := time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)
	due := func(after rows.Wake, limit int) (keys []string, d rows.Due) {
		t.Helper()
		d, err := table.Due(t.Context(), 0, after, limit)
		if err != nil {
			t.Fatal(err)
		}
		if since := time.Since(d.Now); since < -time.Hour || since > time.Hour {
			t.Errorf("the database's clock is %v", d.Now)
		}
		for _, w := range d.Wakes {
			keys = append(keys, w.Key)
		}
		return keys, d
	}
	if keys, d := due(rows.Wake{}, 10); len(keys) != 0 || !d.Next.IsZero() {
		t.Errorf("an empty table: %v is due, the next at %v", keys, d.Next)
	}
	advance(t, table, 0, 9, rows.Batch{Rows: []rows.Row{
		state("late", 0, 1, past.Add(time.Hour)), state("b", 0, 2, past), state("a", 0, 3, past), state("never", 0, 4, time.Time{}), state("far", 0, 5, far),
	}})
	advance(t, table, 1, 9, rows.Batch{Rows: []rows.Row{state("elsewhere", 1, 1, past)}})
	keys, d := due(rows.Wake{}, 10)
	equal(t, "what is due", keys, []string{"a", "b", "late"})
	equal(t, "the first", d.Wakes[0], rows.Wake{Key: "a", Position: 3, Due: past})
	equal(t, "the next", d.Next, far)
	keys, d = due(rows.Wake{}, 2)
	equal(t, "the first page", keys, []string{"a", "b"})
	equal(t, "what follows the page", d.Next, past.Add(time.Hour))
	keys, _ = due(d.Wakes[1], 2)
	equal(t, "the second page", keys, []string{"late"})
	advance(t, table, 0, 10, rows.Batch{Rows: []rows.Row{state("a", 0, 10, time.Time{}), {Key: "b", Position: 10, Gone: true}}})
	keys, _ = due(rows.Wake{}, 10)
	equal(t, "what is due after a change", keys, []string{"late"})
}
