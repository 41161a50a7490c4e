package main

import (
	"slices"
	"strings"
	"testing"
)

func TestCheckFindsEveryKindOfDamage(t *testing.T) {
	t.Parallel()
	ada := &writer{name: "ada", stream: "counter/1", versions: []uint64{1, 3}}
	bob := &writer{name: "bob", stream: "counter/1", versions: []uint64{2, 4}}
	// entry returns the event of command i of a writer.
	entry := func(w *writer, i int, at uint64) event {
		return event{stream: w.stream, cause: w.key(i), version: at, position: at, by: int64(i)}
	}
	sound := []event{entry(ada, 1, 1), entry(bob, 1, 2), entry(ada, 2, 3), entry(bob, 2, 4)}

	for name, test := range map[string]struct {
		damage func(log []event) []event
		want   string
	}{
		"a correct log":                   {func(log []event) []event { return log }, ""},
		"an event lost":                   {func(log []event) []event { return log[:3] }, "lacks bob-2"},
		"an event doubled":                {func(log []event) []event { return append(log, entry(bob, 2, 5)) }, "not sent or is stored twice"},
		"one doubled for one":             {func(log []event) []event { log[3] = entry(bob, 1, 4); return log }, "not sent or is stored twice"},
		"a version left out":              {func(log []event) []event { log[3].version = 5; return log }, "version 5, want 4"},
		"a position set back":             {func(log []event) []event { log[3].position = 3; return log }, "position 3 after 3"},
		"another command's":               {func(log []event) []event { log[1].by = 2; return log }, "but adds 2"},
		"on another counter":              {func(log []event) []event { log[0].stream, log[2].version = "counter/2", 2; return log }, "version 1 of counter/2 is of ada-1"},
		"not at the version of the reply": {func(log []event) []event { log[0], log[1] = entry(bob, 1, 1), entry(ada, 1, 2); return log }, "the reply had"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			expect(t, checkLog(test.damage(slices.Clone(sound)), []*writer{ada, bob}), test.want)
		})
	}

	t.Run("commands out of order", func(t *testing.T) {
		t.Parallel()
		eve := &writer{name: "eve", stream: "counter/1", versions: []uint64{2, 1}}
		expect(t, checkLog([]event{entry(eve, 2, 1), entry(eve, 1, 2)}, []*writer{eve}), "opposite order")
	})
	t.Run("followers", func(t *testing.T) {
		t.Parallel()
		log := append(slices.Clone(sound), event{stream: "counter/2", cause: "x", version: 1, position: 5})
		expect(t, checkFollower(&follower{got: log}, log), "")
		expect(t, checkFollower(&follower{got: sound, stream: "counter/1"}, log), "")
		expect(t, checkFollower(&follower{got: sound}, log), "4 events, want 5")
		expect(t, checkFollower(&follower{got: append(slices.Clone(log), log[4])}, log), "6 events, want 5")
		expect(t, checkFollower(&follower{got: slices.Concat(log[:1], log[2:])}, log), "received")
	})
}

// expect checks that an error contains want, or that there is none if want is empty.
func expect(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("got %v, want %q", err, want)
	}
}
