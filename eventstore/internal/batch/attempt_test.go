package batch

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore"
)

func TestTransitionOfEveryFailureAndState(t *testing.T) {
	t.Parallel()
	unavailable, unknown, wentBack := eventstore.ErrUnavailable, eventstore.ErrUnknown, eventstore.ErrWentBack
	for _, test := range []struct {
		kind      Kind
		state     state
		want      transition
		rejection []error // if the callers are rejected now
	}{
		{Down, notStored, transition{giveUp, notStored, false}, []error{unavailable}},
		{Down, mayBeStored, transition{retry, mayBeStored, false}, []error{unknown}},
		{Lost, notStored, transition{retry, mayBeStored, false}, []error{unknown}},
		{Lost, mayBeStored, transition{retry, mayBeStored, false}, []error{unknown}},
		{Busy, notStored, transition{retry, notStored, false}, []error{unavailable}},
		{Busy, mayBeStored, transition{retry, mayBeStored, false}, []error{unknown}},
		{Refused, notStored, transition{halve, notStored, true}, []error{unavailable}},
		{Refused, mayBeStored, transition{halve, mayBeStored, true}, []error{unknown}},
		{Broken, notStored, transition{giveUp, notStored, false}, []error{unavailable}},
		{Broken, mayBeStored, transition{retry, mayBeStored, false}, []error{unknown}},
		{WentBack, notStored, transition{giveUp, notStored, true}, []error{wentBack}},
		{WentBack, mayBeStored, transition{giveUp, mayBeStored, true}, []error{unknown, wentBack}},
	} {
		got := transitions[test.kind][test.state]
		if got != test.want {
			t.Errorf("failure %d in state %d: got %+v, want %+v", test.kind, test.state, got, test.want)
		}
		err := (&Failure{Kind: test.kind, Reason: "why"}).rejection(got.state)
		for _, sentinel := range test.rejection {
			if !errors.Is(err, sentinel) {
				t.Errorf("failure %d in state %d: rejected with %v, want %v", test.kind, test.state, err, sentinel)
			}
		}
	}
}

func TestPackageCommentHasTheTransitions(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("batch.go")
	if err != nil {
		t.Fatal(err)
	}
	describe := func(k Kind, s state) string {
		next := transitions[k][s]
		switch {
		case next.action == halve:
			return "halve"
		case next.action == retry && next.state != s:
			return "retry as may be stored"
		case next.action == retry:
			return "retry"
		case s == mayBeStored:
			return "reject as unknown"
		case k == WentBack:
			return "reject as gone back"
		}
		return "reject as unavailable"
	}
	for k, name := range []string{"Down", "Lost", "Busy", "Refused", "Broken", "WentBack"} {
		line := fmt.Sprintf("//\t%-10s %-24s %s\n", name, describe(Kind(k), notStored), describe(Kind(k), mayBeStored))
		if !strings.Contains(string(text), line) {
			t.Errorf("the package comment lacks the row %q", line)
		}
	}
}
