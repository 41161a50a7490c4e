package main

import (
	"slices"
	"strings"
	"testing"
)

func TestCheckFindsEveryKindOfFault(t *testing.T) {
	t.Parallel()
	ada := &writer{name: "ada", stream: "counter/1", versions: []uint64{1, 3}}
	bob := &writer{name: "bob", stream: "counter/1", versions: []uint64{2, 4}}
	// entry is what command i of a writer leaves in the log.
	entry := func(w *writer, i int, at uint64) event {
		return event{stream: w.stream, cause: w.key(i), version: at, position: at, by: int64(i)}
	}
	sound := []event{entry(ada, 1, 1), entry(bob, 1, 2), entry(ada, 2, 3), entry(bob, 2, 4)}

	for name, test := range map[string]struct {
		damage func(log []event) []event
		want   string
	}{
		"a sound log":           {func(log []event) []event { return log }, ""},
		"an event lost":         {func(log []event) []event { return log[:3] }, "nothing of bob-2"},
		"an event doubled":      {func(log []event) []event { return append(log, entry(bob, 2, 5)) }, "nobody sent, or twice"},
		"one doubled for one":   {func(log []event) []event { log[3] = entry(bob, 1, 4); return log }, "nobody sent, or twice"},
		"a version left out":    {func(log []event) []event { log[3].version = 5; return log }, "version 5 where 4 belongs"},
		"a position set back":   {func(log []event) []event { log[3].position = 3; return log }, "position 3 after 3"},
		"another command's":     {func(log []event) []event { log[1].by = 2; return log }, "it adds 2"},
		"on another counter":    {func(log []event) []event { log[0].stream, log[2].version = "counter/2", 2; return log }, "counter/2 has version 1 of ada-1"},
		"not where it was said": {func(log []event) []event { log[0], log[1] = entry(bob, 1, 1), entry(ada, 1, 2); return log }, "its writer was told"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			expect(t, checkLog(test.damage(slices.Clone(sound)), []*writer{ada, bob}), test.want)
		})
	}

	t.Run("commands out of order", func(t *testing.T) {
		t.Parallel()
		eve := &writer{name: "eve", stream: "counter/1", versions: []uint64{2, 1}}
		expect(t, checkLog([]event{entry(eve, 2, 1), entry(eve, 1, 2)}, []*writer{eve}), "another order")
	})
	t.Run("followers", func(t *testing.T) {
		t.Parallel()
		log := append(slices.Clone(sound), event{stream: "counter/2", cause: "x", version: 1, position: 5})
		expect(t, checkFollower(&follower{got: log}, log), "")
		expect(t, checkFollower(&follower{got: sound, stream: "counter/1"}, log), "")
		expect(t, checkFollower(&follower{got: sound}, log), "4 events instead of 5")
		expect(t, checkFollower(&follower{got: append(slices.Clone(log), log[4])}, log), "6 events instead of 5")
		expect(t, checkFollower(&follower{got: slices.Concat(log[:1], log[2:])}, log), "instead of")
	})
}

// expect compares an error with a part of what it should say; nothing is no error.
func expect(t *testing.T, err error, want string) {
	t.Helper()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("got %v, want %q", err, want)
	}
}
