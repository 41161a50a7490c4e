package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/eventstore/wakes"
	"github.com/ganglion-es/ganglion/node"
)

func TestWakesListPauseResumeAndRetry(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open := func() *sqlite.Store {
		s, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	refused := eventstore.StreamID{Type: "auction", ID: "refused"}
	if _, err := s.Wakes().Begin(t.Context(), "f", 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Wakes().Write(t.Context(), wakes.Batch{Fingerprint: "f", To: 1, Key: "k", Asks: []wakes.Ask{
		{Stream: refused, Version: 3, At: time.Now()},
		{Stream: eventstore.StreamID{Type: "auction", ID: "later"}, Version: 4, At: time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC)},
	}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Wakes().Change(t.Context(), []wakes.Change{{Stream: refused, Version: 3, Refused: "quiet: not now"}}); err != nil {
		t.Fatal(err)
	}
	s.Close()

	run := func(args ...string) error {
		root := newRoot(newProgram(&aggregate.Catalog{}, Options{}))
		root.SetArgs(append(args, "--store", dir))
		return root.ExecuteContext(t.Context())
	}
	shows := func(want ...string) {
		t.Helper()
		s := open()
		defer s.Close()
		var r wakesReport
		var err error
		if r.Wakes, r.Paused, err = node.OperateWakes(s).List(t.Context(), "", 100); err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if err := r.write(&text, time.Date(2098, 12, 31, 23, 0, 0, 0, time.UTC)); err != nil {
			t.Fatal(err)
		}
		for _, line := range want {
			if !strings.Contains(strings.Join(strings.Fields(text.String()), " "), line) {
				t.Errorf("the list does not contain %q:\n%s", line, &text)
			}
		}
	}
	shows("AGGREGATE VERSION DUE IN REFUSED auction/refused 3 - - quiet: not now auction/later 4 2099-01-01T00:00:00Z 1h0m0s -")
	for _, args := range []string{"wakes", "wakes auction/later --json", "wake pause"} {
		if err := run(strings.Fields(args)...); err != nil {
			t.Errorf("%s: %v", args, err)
		}
	}
	shows("wake-ups are paused")
	for _, args := range []string{"wake resume", "wake retry", "wake retry"} {
		if err := run(strings.Fields(args)...); err != nil {
			t.Errorf("%s: %v", args, err)
		}
	}
	shows("AGGREGATE VERSION DUE IN REFUSED auction/refused 3 20")
	for args, problem := range map[string]string{
		"wakes 42": "type/id", "wakes --limit 0": "--limit is 0", "wake retry auction/later": "auction/later has no refused wake-up", "wake": "a command is missing",
	} {
		err := run(strings.Fields(args)...)
		if args == "wake" {
			root := newRoot(newProgram(&aggregate.Catalog{}, Options{}))
			root.SetArgs([]string{"wake"})
			err = root.Execute()
		}
		if err == nil || !strings.Contains(err.Error(), problem) {
			t.Errorf("%s: got %v, want an error with %q", args, err, problem)
		}
	}
}
