package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// event is what command i of a writer leaves in the log.
func event(w *writer, i int, version uint64) frame {
	return frame{
		Version: version, Position: version, Event: "added", Cause: w.key(i),
		Data: json.RawMessage(fmt.Sprintf(`{"by":%d}`, i)),
	}
}

func TestCheckLogFindsEveryKindOfFault(t *testing.T) {
	t.Parallel()
	ada := &writer{name: "ada", sent: 2, versions: []uint64{1, 3}}
	bob := &writer{name: "bob", sent: 2, versions: []uint64{2, 4}}
	sound := []frame{event(ada, 1, 1), event(bob, 1, 2), event(ada, 2, 3), event(bob, 2, 4)}

	for name, test := range map[string]struct {
		damage func(log []frame) []frame
		want   string
	}{
		"a sound log":          {func(log []frame) []frame { return log }, ""},
		"an event lost":        {func(log []frame) []frame { return log[:3] }, "3 events of 4 commands"},
		"an event doubled":     {func(log []frame) []frame { return append(log, event(bob, 2, 5)) }, "5 events of 4 commands"},
		"one doubled for one":  {func(log []frame) []frame { log[3] = event(bob, 1, 4); return log }, "nobody sent, or twice"},
		"a version left out":   {func(log []frame) []frame { log[3].Version = 5; return log }, "version 5 where 4 belongs"},
		"another command's":    {func(log []frame) []frame { log[1].Data = log[2].Data; return log }, "instead of added"},
		"not where it is said": {func(log []frame) []frame { log[0], log[1] = event(bob, 1, 1), event(ada, 1, 2); return log }, "its writer was told"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := checkLog("counter/1", test.damage(slices.Clone(sound)), []*writer{ada, bob})
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("checkLog said %v, want %q", err, test.want)
			}
		})
	}
}

func TestCheckLogFindsCommandsOutOfOrder(t *testing.T) {
	t.Parallel()
	ada := &writer{name: "ada", sent: 2, versions: []uint64{2, 1}}
	err := checkLog("counter/1", []frame{event(ada, 2, 1), event(ada, 1, 2)}, []*writer{ada})
	if err == nil || !strings.Contains(err.Error(), "another order") {
		t.Errorf("checkLog said %v", err)
	}
}

func TestSubscriberRefusesWhatIsNotNext(t *testing.T) {
	t.Parallel()
	l := &load{id: "x"}
	at := func(position, version uint64) frame {
		return frame{Stream: l.prefix() + "1", Position: position, Version: version}
	}
	for name, test := range map[string]struct {
		frames []frame
		want   string
	}{
		"in order":     {[]frame{at(1, 1), at(3, 2)}, ""},
		"one twice":    {[]frame{at(1, 1), at(1, 1)}, "position 1 after 1"},
		"one left out": {[]frame{at(1, 1), at(3, 3)}, "version 3 of"},
		"an older one": {[]frame{at(2, 1), at(1, 2)}, "position 1 after 2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &subscriber{load: l, name: "sub", got: map[string][]frame{}}
			var err error
			for _, f := range test.frames {
				if err == nil {
					err = s.take(f)
				}
			}
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("take said %v, want %q", err, test.want)
			}
		})
	}
}
