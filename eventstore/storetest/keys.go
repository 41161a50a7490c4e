package storetest

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
)

// known appends a unit with known keys, and returns their first outcomes.
func (f fixture) known(u eventstore.Unit) []eventstore.First {
	f.t.Helper()
	_, err := f.Append(f.t.Context(), u)
	var known *eventstore.KnownKeysError
	if !errors.As(err, &known) {
		f.t.Fatalf("append: got %v, want known keys", err)
	}
	return known.Known
}

func testKeys(t *testing.T, log Log) {
	f := open(t, log)
	f.append(unit(stream(1), 0, command("a", 2)))
	f.append(unit(stream(2), 0, command("a", 1))) // another stream: another key
	f.append(unit(stream(1), 2, command("b", 1)))

	// The key of a command without events is looked up too, even if it is the
	// only one in its batch.
	for _, keep := range []bool{false, true} {
		none := command("b", 0)
		none.Keep = keep
		equal(t, "first outcome of a command without events", f.known(unit(stream(1), 3, none)),
			[]eventstore.First{{Index: 0, Place: eventstore.Place{Version: 3, Position: 4}}})
	}

	want := []eventstore.First{
		{Index: 0, Place: eventstore.Place{Version: 3, Position: 4}},
		{Index: 2, Place: eventstore.Place{Version: 2, Position: 2}},
	}
	again := unit(stream(1), 3, command("b", 1), command("c", 1), command("a", 0))
	equal(t, "first outcomes", f.known(again), want)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, log)
	equal(t, "first outcomes after a restart", f.known(again), want)
	f.wantKeys("a", "a", "b")
}

func testReused(t *testing.T, log Log) {
	f := open(t, log)
	f.append(unit(stream(1), 0, command("a", 1)))
	kept := eventstore.Command{Key: "no", Hash: eventstore.Hash{1}, At: epoch, Keep: true, Answer: json.RawMessage(`{"secret":1}`)}
	f.append(unit(stream(1), 1, kept))

	other := command("a", 1)
	other.Hash = eventstore.Hash{9} // another client, command or data
	otherKept := kept
	otherKept.Hash = eventstore.Hash{9}
	equal(t, "reused", f.known(unit(stream(1), 1, other, otherKept)),
		[]eventstore.First{{Index: 0, Reused: true}, {Index: 1, Reused: true}})
	f.wantKeys("a")
}

func testKeyBeforeVersion(t *testing.T, log Log) {
	f := open(t, log)
	f.append(unit(stream(1), 0, command("a", 1)))
	for _, expected := range []eventstore.Version{0, 1, 5} {
		equal(t, "first outcome", f.known(unit(stream(1), expected, command("a", 1))),
			[]eventstore.First{{Index: 0, Place: eventstore.Place{Version: 1, Position: 1}}})
	}
}

func testKeep(t *testing.T, log Log) {
	f := open(t, log)
	f.append(unit(stream(1), 0, command("a", 1)))
	no := eventstore.Command{Key: "no", Hash: eventstore.Hash{7}, At: epoch, Keep: true, Answer: json.RawMessage(`{"code": "too_low"}`)}
	mute := eventstore.Command{Key: "mute", Hash: eventstore.Hash{7}, At: epoch, Keep: true}
	passing := eventstore.Command{Key: "passing", Hash: eventstore.Hash{7}, At: epoch, Answer: json.RawMessage(`{"code": "too_low"}`)}
	equal(t, "places", f.append(unit(stream(1), 1, no, mute, passing, command("b", 1))),
		[]eventstore.Place{{Version: 1}, {Version: 1}, {Version: 1}, {Version: 2, Position: 2}})

	// The stream has moved, and the refused command gets the same answer.
	want := []eventstore.First{
		{Index: 0, Place: eventstore.Place{Version: 1}},
		{Index: 1, Place: eventstore.Place{Version: 1}, Answer: json.RawMessage(`{"code": "too_low"}`)},
	}
	emits := command("no", 1) // although the command would be accepted now
	emits.Hash = no.Hash
	equal(t, "first outcome of a kept key, alone", f.known(unit(stream(1), 2, emits)),
		[]eventstore.First{{Index: 0, Place: eventstore.Place{Version: 1}, Answer: json.RawMessage(`{"code": "too_low"}`)}})
	again := unit(stream(1), 2, mute, emits)
	equal(t, "first outcomes", f.known(again), want)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, log)
	equal(t, "first outcomes after a restart", f.known(again), want)

	// An outcome that was not kept may change.
	f.append(unit(stream(1), 2, eventstore.Command{Key: "passing", Hash: eventstore.Hash{7}, At: epoch, Events: command("", 1).Events}))
	f.wantKeys("a", "b", "passing")
}

func testOutcomeMoved(t *testing.T, log Log) {
	f := open(t, log)
	f.append(unit(stream(1), 0, command("a", 1)))
	for _, keep := range []bool{false, true} {
		no := eventstore.Command{Key: "no", At: epoch, Keep: keep, Answer: json.RawMessage(`1`)}
		_, err := f.Append(t.Context(), unit(stream(1), 0, no))
		var conflict *eventstore.ConflictError
		if !errors.As(err, &conflict) || conflict.Actual != 1 {
			t.Errorf("keep %v: got %v, want a conflict with version 1", keep, err)
		}
		equal(t, "places", f.append(unit(stream(1), 1, no)), []eventstore.Place{{Version: 1}})
	}
	// The append at the right version kept the outcome.
	equal(t, "first outcome", f.known(unit(stream(1), 1, eventstore.Command{Key: "no", At: epoch})),
		[]eventstore.First{{Index: 0, Place: eventstore.Place{Version: 1}, Answer: json.RawMessage(`1`)}})
}
