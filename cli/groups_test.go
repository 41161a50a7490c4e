package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/node"
)

// TestOperatorsRepairAConsumerGroup runs the commands on the log of a node that has
// stopped, whose group has a parked sequence.
func TestOperatorsRepairAConsumerGroup(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close() // embedded logs are shared within a process
	for i := range 5 {
		u := eventstore.Unit{Stream: eventstore.StreamID{Type: "lamp", ID: "desk"}, Expected: eventstore.Version(i), Commands: []eventstore.Command{{
			Key: string(rune('a' + i)), At: time.Unix(1, 0), Events: []eventstore.Event{{Type: "toggled", Data: []byte("{}")}},
		}}}
		if _, err := store.Append(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	run := func(wrong string, args ...string) {
		t.Helper()
		root := newRoot(newProgram(new(aggregate.Catalog), Options{}))
		root.SetArgs(append(args, "--store", dir))
		err := root.ExecuteContext(t.Context())
		if wrong == "" && err != nil || wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong)) {
			t.Errorf("%q: %v, want an error with %q", args, err, wrong)
		}
	}
	shows := func(want string) {
		t.Helper()
		o := node.OperateGroups(store)
		var r groupsReport
		var err error
		if r.Segments, err = o.Segments(t.Context()); err == nil {
			r.Parked, err = o.Parked(t.Context(), 10)
		}
		var out bytes.Buffer
		if err != nil || r.write(&out) != nil {
			t.Fatal(err)
		}
		flat := strings.Join(strings.Fields(out.String()), " ")
		if !strings.Contains(flat, want) {
			t.Errorf("ganglion groups prints %q, want %q", flat, want)
		}
	}
	run("", "groups")
	shows("no consumer group is stored")
	run("it has none", "group", "pause", "mailer")
	g, err := store.Groups().Ensure(t.Context(), "mailer", 2)
	if err != nil {
		t.Fatal(err)
	}
	shows("mailer 0 - - 5 0 1 0 no member")
	run("use mailer", "group", "pause", "post")
	run("", "group", "pause", "mailer")
	shows("stopped: paused")
	run("", "group", "resume", "mailer")
	run("--to is missing", "group", "reset", "mailer")
	run("use a position, start, head or keep", "group", "reset", "mailer", "--to", "x")
	run("the log ends at 5: use a position from 0 to 5", "group", "reset", "mailer", "--to", "6")
	run("", "group", "reset", "mailer", "--to", "head")
	run("", "group", "reset", "mailer", "--to", "keep")
	run("", "group", "reset", "mailer", "--to", "start")
	shows("mailer 1 - - 0 5")
	if g, err = store.Groups().Take(t.Context(), "mailer", "n1"); err != nil {
		t.Fatal(err)
	}
	to := groups.Holder{Client: "bob", Member: "m1", Session: "s", Gateway: "n2"}
	if g, err = store.Groups().Assign(t.Context(), "mailer", g.Generation, "n1", []groups.Change{{Segment: "0", To: to}}); err != nil {
		t.Fatal(err)
	}
	shows("mailer 0 bob/m1 n2 0 5")
	if err := store.Groups().Park(t.Context(), "mailer", "0", g.Segments[0].Epoch, groups.Park{Sequence: "lamp/desk", Position: 3, Reason: "burnt out"}); err != nil {
		t.Fatal(err)
	}
	shows("mailer: lamp/desk is parked at position 3 since")
	run("", "groups", "--json")
	run("no such parked sequence", "group", "retry", "mailer", "--sequence", "lamp/hall")
	run("--position is missing", "group", "skip", "mailer", "--sequence", "lamp/desk")
	run("no such parked sequence", "group", "skip", "mailer", "--sequence", "lamp/desk", "--position", "4")
	run("", "group", "skip", "mailer", "--sequence", "lamp/desk", "--position", "3")
	shows("mailer ~lamp/desk - - 3 2")
	run("", "group", "retry", "mailer")
	run("a group has 1 to 256 segments, not 257", "group", "resize", "mailer", "--segments", "257")
	run("", "group", "resize", "mailer", "--segments", "3")
	shows("mailer 2 - - 0 5")
	run("", "group", "retry", "mailer")
	if _, err := store.AcceptLoss(t.Context()); err != nil {
		t.Fatal(err)
	}
	shows("stopped: log")
}
