package cli

import (
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/group"
	"github.com/ganglion-es/ganglion/eventstore/groups"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
)

func TestDroppedGroupIsOneThatNoProgramAndNoMemberHas(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close() // embedded logs are shared within a process
	with, without := new(aggregate.Catalog), new(aggregate.Catalog)
	aggregate.Define(with, aggregate.Type[lamp]{
		Name: "lamp", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[lamp]{"toggle": toggle{}}, Events: aggregate.Events[lamp]{"toggled": toggled{}},
	})
	group.Define(with, group.Group{Name: "mailer", Reads: group.Reads{"lamp"}, Access: aggregate.Anyone})
	if err := with.Err(); err != nil {
		t.Fatal(err)
	}
	run := func(catalog *aggregate.Catalog, answer, wrong string, args ...string) {
		t.Helper()
		root := newRoot(&program{catalog: catalog})
		root.SetIn(strings.NewReader(answer))
		root.SetArgs(append(args, "--store", dir))
		err := root.ExecuteContext(t.Context())
		if wrong == "" && err != nil || wrong != "" && (err == nil || !strings.Contains(err.Error(), wrong)) {
			t.Errorf("%q: %v, want an error with %q", args, err, wrong)
		}
	}
	left := func(want int) {
		t.Helper()
		if list, err := store.Groups().Groups(t.Context()); err != nil || len(list) != want {
			t.Errorf("the log has %d groups, %v; want %d", len(list), err, want)
		}
	}
	run(without, "", "it has none", "group", "drop", "mailer", "--yes")
	for _, name := range []string{"mailer", "post"} {
		if _, err := store.Groups().Ensure(t.Context(), name, 2); err != nil {
			t.Fatal(err)
		}
	}
	g, err := store.Groups().Take(t.Context(), "mailer", "n1")
	if err != nil {
		t.Fatal(err)
	}
	to := groups.Holder{Client: "bob", Member: "m1", Session: "s", Gateway: "n2"}
	if _, err = store.Groups().Assign(t.Context(), "mailer", g.Generation, "n1", []groups.Change{{Segment: "1", To: to}}); err != nil {
		t.Fatal(err)
	}
	run(with, "", `the catalog of this program has the group "mailer"`, "group", "drop", "mailer", "--yes", "--members-left")
	run(without, "", `members hold segments of the group "mailer": bob/m1 at n2. Stop them`, "group", "drop", "mailer", "--yes")
	run(without, "", "use mailer, post", "group", "drop", "others", "--yes")
	run(with, "no\n", "nothing was changed", "group", "drop", "post")
	left(2)
	run(with, "yes\n", "", "group", "drop", "post")
	left(1)
	run(without, "", "", "group", "drop", "mailer", "--yes", "--members-left")
	left(0)
}
