package main

import (
	"cmp"
	"math"
	"strings"
	"testing"
	"time"
)

// TestBenchFindsBrokenPromises plants each kind of fault into what a
// subscriber gets and a client is told.
func TestBenchFindsBrokenPromises(t *testing.T) {
	t.Parallel()
	type event struct {
		at      int // what the subscriber had before
		version uint64
		command int
		time    int // at which it was stored, unless every command has its own
	}
	whole := []event{{0, 1, 1, 0}, {1, 2, 2, 0}, {2, 3, 3, 0}}
	for name, c := range map[string]struct {
		events []event
		acks   []uint64 // by command
		says   string   // empty: nothing is broken
	}{
		"nothing":                             {whole, []uint64{1, 2, 3}, ""},
		"an answer is missing":                {whole, []uint64{1, 0, 3}, ""},
		"one command, two events":             {[]event{{0, 1, 1, 0}, {1, 2, 1, 0}, {2, 3, 2, 0}}, []uint64{2, 3, 0}, ""},
		"an event is lost":                    {[]event{{0, 1, 1, 0}, {1, 3, 3, 0}}, []uint64{1, 2, 3}, "got version 3 after version 1"},
		"the last event is lost":              {whole[:2], []uint64{1, 2, 3}, "got up to version 2, 3 was acknowledged"},
		"an event comes twice":                {append(whole[:3:3], event{3, 3, 3, 0}), []uint64{1, 2, 3}, "got version 3 after version 3"},
		"a command happens twice":             {[]event{{0, 1, 1, 0}, {1, 2, 2, 0}, {2, 3, 1, 0}}, []uint64{1, 2, 0}, "command 1 happened twice"},
		"and does so right away":              {[]event{{0, 1, 1, 1}, {1, 2, 1, 2}, {2, 3, 2, 3}}, []uint64{1, 3, 0}, "command 1 happened twice"},
		"an answer names another version":     {whole, []uint64{1, 3, 2}, "command 2 was acknowledged with version 3, which is of command 3"},
		"an event of nobody":                  {[]event{{0, 1, 9, 0}}, []uint64{0, 0, 0}, "comes from nobody here"},
		"two subscribers see other histories": {append(whole[:3:3], event{0, 1, 2, 0}), []uint64{1, 2, 3}, "of command 1 for one subscriber and of 2"},
	} {
		b := newBench(benchCmd{Aggregates: 1})
		s := b.streams[0]
		f := &benchFollower{stream: s}
		s.followers = []*benchFollower{f}
		for range c.acks {
			s.begin(time.Now())
		}
		for _, e := range c.events {
			s.seen(e.at, e.version, benchKey(e.command), time.Unix(int64(cmp.Or(e.time, 10*e.command)), 0))
			f.at = max(f.at, int(e.version))
		}
		for i, v := range c.acks {
			if v > 0 {
				s.acknowledged(i+1, v)
			}
		}
		r := b.report()
		if said := strings.Join(r.Broken, "; "); (r.Violations > 0) != (c.says != "") || !strings.Contains(said, c.says) {
			t.Errorf("%s: it says %q, want %q", name, said, c.says)
		}
		if err := r.verdict(len(c.acks)); (err != nil) != (c.says != "") {
			t.Errorf("%s: the verdict is %v", name, err)
		}
	}
}

func TestBenchRefusesRatesThatAreNone(t *testing.T) {
	t.Parallel()
	for rate, good := range map[float64]bool{0: false, -1: false, 1e-12: false, math.Inf(1): false, math.NaN(): false, 0.5: true, 2000: true} {
		err := benchCmd{Duration: 1, Rate: rate, Connections: 1, Aggregates: 1, Timeout: 1, Data: "{}"}.validate()
		if (err == nil) != good || err != nil && !strings.Contains(err.Error(), "--rate is") {
			t.Errorf("a rate of %v: %v", rate, err)
		}
	}
}

func TestBenchFailsOnMoreErrorsThanAllowed(t *testing.T) {
	t.Parallel()
	r := benchReport{Sent: 10, Acknowledged: 8}
	if err := r.verdict(1); err == nil {
		t.Error("two commands failed, one may: no error")
	}
	if err := r.verdict(2); err != nil {
		t.Errorf("two commands failed, two may: %v", err)
	}
}
