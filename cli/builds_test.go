package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/node/operator"
)

func state(s node.SegmentState) node.OwnedSegment { return node.OwnedSegment{SegmentState: s} }

func TestProcessorsTableShowsStatesOwnersAndBlockedRows(t *testing.T) {
	t.Parallel()
	r := processorsReport{
		Segments: []node.OwnedSegment{
			state(node.SegmentState{Projection: "listings", Build: 1, Fingerprint: "0123456789abcdef", Position: 10, Lag: 2, State: "active", Blocked: 1, Own: true}),
			state(node.SegmentState{Projection: "listings", Build: 2, Fingerprint: "fedcba98", Segment: 1, State: "building", Paused: true}),
			state(node.SegmentState{Projection: "listings", Build: 3, Fingerprint: "fedcba98", State: "active", Stopped: "other log"}),
		},
		Blocked: []node.BlockedRow{{Projection: "listings", Build: 1, Key: "42", Position: 7, Error: "panic: boom", Since: time.Unix(0, 0).UTC()}},
	}
	r.Outboxes = []node.OutboxState{
		{Process: "outbid", Commands: 3, Oldest: 1500 * time.Millisecond, Held: []node.HeldCommand{{Target: "client/bob", Command: "notify", Position: 7, Attempts: 5, Error: "boom"}}, Rejected: 12, LastRejected: time.Unix(60, 0).UTC()},
		{Process: "weekly"},
	}
	work := func(build int64, segment int, stopped string) operator.Segment {
		return operator.Segment{Projection: "listings", Build: build, Segment: segment, Stopped: stopped}
	}
	r.add("n1", node.ProjectionWork{
		Segments: []operator.Segment{work(1, 0, "unknown_event"), work(2, 1, "paused"), work(9, 0, "")},
		Memories: []operator.Memory{{Projection: "levels", Position: 9, Current: true}, {Projection: "sums", Position: 9, Stopped: true}},
	})
	r.add("n2", node.ProjectionWork{Segments: []operator.Segment{work(1, 0, "")}, Memories: []operator.Memory{{Projection: "levels", Position: 4}}})
	r.Silent = []string{"n3"}
	var out strings.Builder
	if err := r.write(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"listings     1       01234567      this      0         n1,n2   10         2     active, blocked 1, n1 waits: unknown_event\n",
		"listings     2       fedcba98      other     1         n1      0          0     building, paused\n",
		"listings     3       fedcba98      other     0         -       0          0     stopped: other log\n",
		"listings, build 1: 42 waits at position 7 since 1970-01-01T00:00:00Z: panic: boom\n",
		"PROCESS MANAGER   PENDING COMMANDS   OLDEST   HELD   REJECTED SINCE ITS FIRST RUN   LAST REJECTED\n" +
			"outbid            3                  2s       1      12                             1970-01-01T00:01:00Z\n" +
			"weekly            0                  0s       0      0                              -\n" +
			"outbid: client/bob is held at position 7 by the command notify, after 5 attempts: boom\n",
		"IN MEMORY   MEMBER   POSITION   STATE\n",
		"levels      n1       9          active\nlevels      n2       4          building\nsums        n1       9          stopped: an event cannot be folded\n",
		"n3 did not say what it works on",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing from\n%s", want, out.String())
		}
	}
	out.Reset()
	if err := (processorsReport{}).write(&out); err != nil || !strings.HasPrefix(out.String(), "no projection has a build") {
		t.Errorf("without builds: %q, %v", out.String(), err)
	}
}

func TestOwnersOfAnotherLogAreUnknown(t *testing.T) {
	t.Parallel()
	node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(node.ClusterStatus{Log: "one", Members: []node.MemberStatus{{ID: "n1", Projections: &node.ProjectionWork{}}, {ID: "n2"}}})
	}))
	defer node.Close()
	for log, want := range map[string]string{"one": "n2 did not say", "two": "owners are unknown: the node at " + node.URL + " has another log"} {
		var r processorsReport
		r.addOwners(t.Context(), urlFlag{node.URL}, log)
		var out strings.Builder
		if err := r.write(&out); err != nil || !strings.Contains(out.String(), want) {
			t.Errorf("of log %s: %v\n%s, want %q", log, err, out.String(), want)
		}
	}
	var r processorsReport
	r.addOwners(t.Context(), urlFlag{"http://127.0.0.1:1"}, "one")
	if !strings.Contains(r.Problem, "no node answers at http://127.0.0.1:1") {
		t.Errorf("without a node: %q", r.Problem)
	}
}
