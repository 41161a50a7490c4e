package storetest

import (
	"errors"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/eventstore"
)

// everyMethod checks that no method does anything on a log that went back.
func (f fixture) everyMethod(want error) {
	f.t.Helper()
	ctx := f.t.Context()
	_, appendErr := f.Append(ctx, unit(stream(50), 0, command("x", 1)))
	_, readErr := f.Read(ctx, 0, 10)
	_, streamErr := f.ReadStream(ctx, stream(1), 0, 10)
	_, _, typeErr := f.ReadType(ctx, "counter", 0, 10, 10)
	_, headErr := f.Head(ctx)
	_, streamHeadErr := f.StreamHead(ctx, stream(1))
	_, _, loadErr := f.Load(ctx, stream(1), 10)
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
		t.Errorf("the log was %s, is %s, and calls itself %s", old, id, f.LogID())
	}
	if err := f.Check(t.Context()); err != nil {
		t.Errorf("after the loss was accepted: %v", err)
	}
	equal(t, "places", f.append(unit(stream(1), 1, command("c", 1))), []eventstore.Place{{Version: 2, Position: 2}})
	f.wantKeys("a", "c")

	// A store that never saw the lost events learns of them from other nodes.
	g := open(t, log)
	if g.LogID() != id {
		t.Errorf("a new store calls the log %s, want %s", g.LogID(), id)
	}
	g.Witness(7, "elsewhere")
	if _, err := g.Head(t.Context()); !errors.Is(err, eventstore.ErrWentBack) {
		t.Errorf("a head below what was witnessed: %v", err)
	}

	// Another commit in the place of one that was seen is no better.
	h := open(t, log)
	h.Witness(2, "b")
	h.everyMethod(eventstore.ErrWentBack)
}

func testWentBackAppend(t *testing.T, log Log) {
	f := open(t, log)
	f.append(unit(stream(1), 0, command("a", 1)))
	f.append(unit(stream(2), 0, command("b", 1)))
	log.SetBack(t, 1)
	// Nobody has looked yet: the append itself finds out, and writes nothing.
	// (The very first call may find its connection gone and say unavailable.)
	_, err := f.Append(t.Context(), unit(stream(3), 0, command("c", 1)))
	for errors.Is(err, eventstore.ErrUnavailable) {
		_, err = f.Append(t.Context(), unit(stream(3), 0, command("c", 1)))
	}
	if !errors.Is(err, eventstore.ErrWentBack) {
		t.Fatalf("append: got %v, want a log that went back", err)
	}
	g := open(t, log)
	g.wantKeys("a")

	// Restored after all: the log is as it was.
	g.append(unit(stream(2), 0, command("b", 1)))
	if err := f.Check(t.Context()); err != nil {
		t.Errorf("the events are back: %v", err)
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
	// A writer of snapshots had this one in its hands all the time.
	late := eventstore.Snapshot{Stream: stream(1), Version: 2, Position: 2, At: epoch, Fingerprint: "f", State: []byte(`"lost"`)}
	if err := f.SaveSnapshot(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	none := func(when string) {
		t.Helper()
		if s, _, err := f.Load(t.Context(), stream(1), 10); err != nil || s != nil {
			t.Errorf("%s, a snapshot of lost events is given out: %+v, %v", when, s, err)
		}
	}
	none("past the head")
	other := command("other", 1)
	other.At = epoch.Add(time.Second)
	f.append(unit(stream(1), 1, other))
	none("when another commit has its place")
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
			t.Errorf("%s: the first check says %v, want that the log went back", name, err)
		}
		if s.LogID() == id {
			t.Errorf("%s took the new log before it reported the loss", name)
		}
		if err := s.Check(t.Context()); err != nil || s.LogID() != id {
			t.Errorf("%s: the second check says %v and the log is %s, want %s", name, err, s.LogID(), id)
		}
		s.wantKeys("a")
	}
	f.append(unit(stream(1), 1, command("c", 1)))
	g.append(unit(stream(1), 2, command("d", 1)))
	operator.wantKeys("a", "c", "d")
}
