package storetest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// everyMethod checks that all methods return want.
func (f fixture) everyMethod(want error) {
	f.t.Helper()
	ctx := f.t.Context()
	_, appendErr := f.Append(ctx, unit(stream(50), 0, command("x", 1)))
	_, readErr := f.Read(ctx, 0, 10)
	_, streamErr := f.ReadStream(ctx, stream(1), 0, 10)
	_, _, typeErr := f.ReadType(ctx, "counter", 0, 10, 10)
	_, headErr := f.Head(ctx)
	_, streamHeadErr := f.StreamHead(ctx, stream(1))
	_, loadErr := f.Load(ctx, eventstore.LoadRequest{Stream: stream(1), Limit: 10})
	saveErr := f.SaveSnapshot(ctx, eventstore.Snapshot{Stream: stream(1), Fingerprint: "f", State: []byte(`1`)})
	for name, err := range map[string]error{
		"Append": appendErr, "Read": readErr, "ReadStream": streamErr, "ReadType": typeErr, "Head": headErr,
		"StreamHead": streamHeadErr, "Load": loadErr, "SaveSnapshot": saveErr, "Check": f.Check(ctx),
	} {
		if !errors.Is(err, want) {
			f.t.Errorf("%s: got %v, want %v", name, err, want)
		}
	}
}

func testWentBack(t *testing.T, log Log) {
	f := open(t, log)
	f.append(unit(stream(1), 0, command("a", 1)))
	f.append(unit(stream(1), 1, command("b", 2)))
	old := f.LogID()
	if err := f.Check(t.Context()); err != nil {
		t.Fatalf("a sound log: %v", err)
	}

	log.SetBack(t, 1)
	if err := f.Check(t.Context()); !errors.Is(err, eventstore.ErrWentBack) {
		t.Fatalf("a log that went back: %v", err)
	}
	f.everyMethod(eventstore.ErrWentBack)

	id, err := f.AcceptLoss(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if id == old || id != f.LogID() {
		t.Errorf("the id was %s, is %s, and LogID returns %s", old, id, f.LogID())
	}
	if err := f.Check(t.Context()); err != nil {
		t.Errorf("after the loss was accepted: %v", err)
	}
	equal(t, "places", f.append(unit(stream(1), 1, command("c", 1))), []eventstore.Place{{Version: 2, Position: 2}})
	f.wantKeys("a", "c")

	// A store that has not seen the lost events learns of them from other nodes.
	g := open(t, log)
	if g.LogID() != id {
		t.Errorf("a new store has the log %s, want %s", g.LogID(), id)
	}
	g.Witness(g.LogID(), &eventstore.Commit{Position: 7, Stream: stream(1), Version: 7, Key: "elsewhere", At: epoch})
	if _, err := g.Head(t.Context()); !errors.Is(err, eventstore.ErrWentBack) {
		t.Errorf("a head below the witnessed position: %v", err)
	}

	// Another commit at a seen position is also a loss.
	h := open(t, log)
	h.Witness(h.LogID(), &eventstore.Commit{Position: 2, Stream: stream(1), Version: 2, Key: "b", At: epoch})
	h.everyMethod(eventstore.ErrWentBack)
}

// testReplacedCommit replaces the newest seen commit with another one at the same
// position, in most cases with the same key.
func testReplacedCommit(t *testing.T, log Log) {
	later := command("open", 1)
	later.At = epoch.Add(time.Millisecond)
	replacements := map[string]func(g fixture, base int){
		"another stream": func(g fixture, base int) { g.append(unit(stream(base+1), 0, command("open", 2))) },
		"another version": func(g fixture, base int) {
			g.append(unit(stream(base+1), 0, command("first", 1)))
			g.append(unit(stream(base), 0, command("open", 1)))
		},
		"another time": func(g fixture, base int) {
			g.append(unit(stream(base), 0, command("first", 1)))
			g.append(unit(stream(base), 1, later))
		},
		"another key": func(g fixture, base int) {
			g.append(unit(stream(base), 0, command("first", 1)))
			g.append(unit(stream(base), 1, command("other", 1)))
		},
	}
	methods := map[string]func(f fixture, p eventstore.Position) error{
		"Check": func(f fixture, _ eventstore.Position) error { return f.Check(t.Context()) },
		"Head":  func(f fixture, _ eventstore.Position) error { _, err := f.Head(t.Context()); return err },
		"Read":  func(f fixture, p eventstore.Position) error { _, err := f.Read(t.Context(), p-1, 10); return err },
		"Append": func(f fixture, _ eventstore.Position) error {
			_, err := f.Append(t.Context(), unit(stream(0), 0, command("x", 1)))
			return err
		},
	}
	base := 10
	for what, replace := range replacements {
		for method, call := range methods {
			f := open(t, log)
			f.append(unit(stream(base), 0, command("first", 1)))
			p := f.append(unit(stream(base), 1, command("open", 1)))[0].Position
			log.Exec(t, fmt.Sprintf(`delete from "commit" where pos >= %d`, p-1))
			g := open(t, log)
			replace(g, base)
			if head, err := g.Head(t.Context()); err != nil || head != p {
				t.Fatalf("the log ends at %d, %v, want %d", head, err, p)
			}
			if err := call(f, p); !errors.Is(err, eventstore.ErrWentBack) {
				t.Errorf("a commit with %s replaced the newest seen one: %s returns %v, want that the log went back", what, method, err)
			}
			base += 10
		}
	}
}

func testWentBackAppend(t *testing.T, log Log) {
	f := open(t, log)
	f.append(unit(stream(1), 0, command("a", 1)))
	f.append(unit(stream(2), 0, command("b", 1)))
	log.SetBack(t, 1)
	// The append itself detects the loss, and writes nothing. The first call may
	// find its connection gone and return unavailable.
	_, err := f.Append(t.Context(), unit(stream(3), 0, command("c", 1)))
	for errors.Is(err, eventstore.ErrUnavailable) {
		_, err = f.Append(t.Context(), unit(stream(3), 0, command("c", 1)))
	}
	if !errors.Is(err, eventstore.ErrWentBack) {
		t.Fatalf("append: got %v, want a log that went back", err)
	}
	g := open(t, log)
	g.wantKeys("a")

	// The lost events are restored.
	g.append(unit(stream(2), 0, command("b", 1)))
	f.everyMethod(eventstore.ErrWentBack)
	if head, err := f.Resume(t.Context()); err != nil || head != 2 {
		t.Errorf("the events are back: %v, head %d", err, head)
	}
	f.wantKeys("a", "b")
}

func testSnapshotOfLostEvents(t *testing.T, log Log) {
	f := open(t, log)
	f.append(unit(stream(1), 0, command("a", 1)))
	f.append(unit(stream(1), 1, command("lost", 1)))
	log.SetBack(t, 1)
	if err := f.Check(t.Context()); !errors.Is(err, eventstore.ErrWentBack) {
		t.Fatalf("a log that went back: %v", err)
	}
	if _, err := f.AcceptLoss(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A writer took this snapshot before the loss and saves it only now.
	late := eventstore.Snapshot{Stream: stream(1), Version: 2, Position: 2, At: epoch, Fingerprint: "f", State: []byte(`"lost"`)}
	if err := f.SaveSnapshot(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	none := func(when string) {
		t.Helper()
		l, err := f.Load(t.Context(), eventstore.LoadRequest{Stream: stream(1), Fingerprint: "f", Limit: 10})
		if err != nil || l.Snapshot != nil {
			t.Errorf("%s: a snapshot of lost events is loaded: %+v, %v", when, l.Snapshot, err)
		}
	}
	none("above the head")
	other := command("other", 1)
	other.At = epoch.Add(time.Second)
	f.append(unit(stream(1), 1, other))
	none("with another commit at its position")
}

func testAcceptLossElsewhere(t *testing.T, log Log) {
	f := open(t, log) // has seen the lost events
	g := open(t, log) // has not
	f.append(unit(stream(1), 0, command("a", 1)))
	if _, err := g.Head(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.append(unit(stream(1), 1, command("b", 1)))
	log.SetBack(t, 1)
	operator := open(t, log)
	id, err := operator.AcceptLoss(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]fixture{"the store that saw the loss": f, "the store that did not": g} {
		if err := s.Check(t.Context()); !errors.Is(err, eventstore.ErrWentBack) {
			t.Errorf("%s: Check returns %v, want that the log went back", name, err)
		}
		s.everyMethod(eventstore.ErrWentBack)
		if s.LogID() == id {
			t.Errorf("%s accepted the new log before Resume", name)
		}
		if head, err := s.Resume(t.Context()); err != nil || head != 1 || s.LogID() != id {
			t.Errorf("%s: Resume returns %v, head %d, and the log is %s, want %s", name, err, head, s.LogID(), id)
		}
		s.wantKeys("a")
	}
	f.append(unit(stream(1), 1, command("c", 1)))
	g.append(unit(stream(1), 2, command("d", 1)))
	operator.wantKeys("a", "c", "d")
}
