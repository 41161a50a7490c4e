package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/cli"
	"github.com/ganglion-es/ganglion/domain"
	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/group"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/domain/query"
)

// programs are programs other than ganglion, by name. The test binary is one of
// them when it is started under its name.
var programs = map[string]func() *aggregate.Catalog{
	"notes": func() *aggregate.Catalog {
		return notesCatalog(func(e noteWritten, n *noteRow) { *n = noteRow{joined(n.Text, e.Text), e.Team, e.Rank} })
	},
	"notes-poisoned": func() *aggregate.Catalog {
		return notesCatalog(func(e noteWritten, n *noteRow) {
			if e.Text == "poison" {
				panic("a note that this program cannot read")
			}
			*n = noteRow{joined(n.Text, e.Text), e.Team, e.Rank}
		})
	},
	"copies":           func() *aggregate.Catalog { return copying("copy-", 2) },
	"copies-elsewhere": func() *aggregate.Catalog { return copying("moved-", 3) }, // a later release, with other segments
	"notes-read": func() *aggregate.Catalog {
		c := notesCatalog(func(e noteWritten, n *noteRow) { *n = noteRow{joined(n.Text, e.Text), e.Team, e.Rank} })
		group.Define(c, group.Group{Name: "readers", Access: aggregate.Authenticated, Reads: group.Reads{"note"}, Segments: 8, AckWithin: 3 * time.Second})
		return c
	},
	"notes-written": writing,
	"ticking":       ticking,
	"market": func() *aggregate.Catalog { // ganglion's own, with a group
		group.Define(&domain.Catalog, group.Group{Name: "readers", Access: aggregate.Authenticated, Reads: group.Reads{"auction", "client"}, Segments: 8, AckWithin: 3 * time.Second})
		return &domain.Catalog
	},
	"notes-longer": func() *aggregate.Catalog { // a later release, with another row type
		return notesCatalog(func(e noteWritten, n *longerRow) {
			text := joined(n.Text, e.Text)
			*n = longerRow{text, e.Team, e.Rank, len(text)}
		})
	},
}

type (
	note      struct{ Texts int }
	writeNote struct {
		Text string `json:"text"`
		Team string `json:"team"`
		Rank int64  `json:"rank"`
	}
	noteWritten writeNote

	noteRow struct {
		Text string `json:"text"` // of all events
		Team string `json:"team"`
		Rank int64  `json:"rank"`
	}
	longerRow struct {
		Text   string `json:"text"`
		Team   string `json:"team"`
		Rank   int64  `json:"rank"`
		Length int    `json:"length"`
	}
	notesUpTo struct {
		Rank int64 `json:"rank,omitzero"` // 0: all
	}
)

func (c writeNote) Decide(aggregate.Call, note) (aggregate.Decision[note], error) {
	return aggregate.Emit[note](noteWritten(c))
}

func (e noteWritten) Apply(n *note) { n.Texts++ }

func joined(texts, text string) string { return strings.TrimPrefix(texts+","+text, ",") }

// notesCatalog has the projection "notes", and the queries "notes", which anyone
// may ask, and "team_notes", which gives those of the team in the caller's token.
func notesCatalog[R any](apply func(noteWritten, *R)) *aggregate.Catalog {
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[note]{
		Name:     "note",
		Access:   aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[note]{"write": writeNote{}},
		Events:   aggregate.Events[note]{"written": noteWritten{}},
	})
	rows := projection.Define(c, projection.Table[R]{
		Name:    "notes",
		On:      projection.Handlers[R]{projection.On(func(_ projection.At, e noteWritten, n *R) { apply(e, n) })},
		Indexes: [][]string{{"rank"}, {"team", "rank"}},
	})
	upTo := func(q notesUpTo) query.Cond { return query.AtMost("rank", q.Rank).If(q.Rank > 0) }
	query.Define(c, query.Rows[notesUpTo, R]{
		Name: "notes", Access: aggregate.Anyone, From: rows, Order: []string{"rank"},
		Where: func(_ query.Call, q notesUpTo) query.Cond { return upTo(q) },
	})
	query.Define(c, query.Rows[notesUpTo, R]{
		Name: "team_notes", Access: aggregate.Authenticated, From: rows, Order: []string{"rank"},
		Where: func(call query.Call, q notesUpTo) query.Cond {
			team, _ := call.Claims["team"].(string)
			return query.All(query.Is("team", team), upTo(q))
		},
	})
	return c
}

// runProgram runs the command line of a program and ends the process, if it was
// started under the program's name.
func runProgram() {
	if filepath.Base(os.Args[0]) == consumerProgram {
		consumeForever(os.Args[1], os.Args[2:])
	}
	if filepath.Base(os.Args[0]) == goConsumerProgram {
		consumeWithLibrary(os.Args[1], os.Args[2:])
	}
	if catalog, ok := programs[filepath.Base(os.Args[0])]; ok {
		os.Exit(cli.Main(catalog(), cli.Options{}))
	}
}

// programAt returns the path of a program.
func programAt(t *testing.T, name string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.Symlink(self, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// startTrioOf starts three nodes of a program.
func startTrioOf(t *testing.T, store, program string) *cluster {
	t.Helper()
	c := &cluster{t: t, store: store}
	for range 3 {
		c.members[c.add("")].binary = program
	}
	c.startAll()
	return c
}

// operate runs a command of a program on the cluster's log, which must exit with a
// status, and returns its output.
func (c *cluster) operate(program string, status int, args ...string) string {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), program, append(args, "--store", c.store)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		c.t.Fatal(err)
	}
	if code := cmd.ProcessState.ExitCode(); code != status {
		c.t.Fatalf("%s: exit %d, want %d: %s", strings.Join(args, " "), code, status, out)
	}
	return string(out)
}
