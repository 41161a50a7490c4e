package loadgen

import (
	"cmp"
	"strings"
	"testing"
	"time"
)

// TestReportFindsEachBrokenPromise plants each kind of fault into the events of
// a subscriber and the acknowledgements of a client.
func TestReportFindsEachBrokenPromise(t *testing.T) {
	t.Parallel()
	type received struct {
		previous int // version that the subscriber had before
		version  uint64
		command  int
		time     int // when it was stored; 0 for a time of the command's own
	}
	whole := []received{{0, 1, 1, 0}, {1, 2, 2, 0}, {2, 3, 3, 0}}
	for name, c := range map[string]struct {
		events []received
		acks   []uint64 // by command
		want   string   // "" if no promise is broken
	}{
		"no fault":                               {whole, []uint64{1, 2, 3}, ""},
		"an acknowledgement is missing":          {whole, []uint64{1, 0, 3}, ""},
		"one command, two events":                {[]received{{0, 1, 1, 0}, {1, 2, 1, 0}, {2, 3, 2, 0}}, []uint64{2, 3, 0}, ""},
		"an event is lost":                       {[]received{{0, 1, 1, 0}, {1, 3, 3, 0}}, []uint64{1, 2, 3}, "got version 3 after version 1"},
		"the last event is lost":                 {whole[:2], []uint64{1, 2, 3}, "got only up to version 2, but version 3 was acknowledged"},
		"an event comes twice":                   {append(whole[:3:3], received{3, 3, 3, 0}), []uint64{1, 2, 3}, "got version 3 after version 3"},
		"a command happens twice":                {[]received{{0, 1, 1, 0}, {1, 2, 2, 0}, {2, 3, 1, 0}}, []uint64{1, 2, 0}, "command 1 happened twice"},
		"a command happens twice in a row":       {[]received{{0, 1, 1, 1}, {1, 2, 1, 2}, {2, 3, 2, 3}}, []uint64{1, 3, 0}, "command 1 happened twice"},
		"an acknowledgement has another version": {whole, []uint64{1, 3, 2}, "command 2 was acknowledged with version 3, which is of command 3"},
		"an event of an unknown command":         {[]received{{0, 1, 9, 0}}, []uint64{0, 0, 0}, "which is not a command of this run"},
		"two subscribers see other histories":    {append(whole[:3:3], received{0, 1, 2, 0}), []uint64{1, 2, 3}, "of command 1 for one subscriber and of 2"},
	} {
		l := New(Config{Aggregates: 1})
		s := l.streams[0]
		f := &follower{stream: s}
		s.followers = []*follower{f}
		for range c.acks {
			s.addCommand(time.Now())
		}
		for _, e := range c.events {
			s.observe(e.previous, e.version, newKey(e.command), time.Unix(int64(cmp.Or(e.time, 10*e.command)), 0))
			f.version = max(f.version, int(e.version))
		}
		for i, v := range c.acks {
			if v > 0 {
				s.acknowledge(i+1, v)
			}
		}
		r := l.Report()
		if got := strings.Join(r.Broken, "; "); (r.Violations > 0) != (c.want != "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: violations %q, want %q", name, got, c.want)
		}
		if err := r.Verdict(len(c.acks)); (err != nil) != (c.want != "") {
			t.Errorf("%s: the verdict is %v", name, err)
		}
	}
}

func TestVerdictFailsBeyondMaxErrors(t *testing.T) {
	t.Parallel()
	r := Report{Sent: 10, Acknowledged: 8}
	if err := r.Verdict(1); err == nil {
		t.Error("two commands failed, one may: no error")
	}
	if err := r.Verdict(2); err != nil {
		t.Errorf("two commands failed, two may: %v", err)
	}
}
