package cli

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/domain/projection"
	"github.com/ganglion-es/ganglion/engine"
	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/eventstore/sqlite"
	"github.com/ganglion-es/ganglion/node"
)

type lampRow struct {
	Toggles int `json:"toggles"`
}

// poisoned returns a catalog whose projection fails at the second event of a lamp
// while broken.
func poisoned(broken *atomic.Bool) *aggregate.Catalog {
	c := new(aggregate.Catalog)
	aggregate.Define(c, aggregate.Type[lamp]{
		Name: "lamp", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[lamp]{"toggle": toggle{}}, Events: aggregate.Events[lamp]{"toggled": toggled{}},
	})
	projection.Define(c, projection.Table[lampRow]{
		Name: "lamps",
		On: projection.Handlers[lampRow]{projection.On(func(at projection.At, _ toggled, r *lampRow) {
			if r.Toggles++; at.Version == 2 && broken.Load() {
				panic("burnt out")
			}
		})},
	})
	return c
}

// TestOperatorsRepairAProjection runs the commands on the log of a node that has
// stopped, whose projection has a blocked row.
func TestOperatorsRepairAProjection(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var broken atomic.Bool
	broken.Store(true)
	catalog := poisoned(&broken)
	fold(t, dir, catalog, 4)
	run := func(args ...string) error {
		root := newRoot(newProgram(catalog, Options{}))
		root.SetArgs(append(args, "--store", dir))
		return root.ExecuteContext(t.Context())
	}
	wantError := func(err error, text string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want an error with %q", err, text)
		}
	}
	if err := run("processors"); err != nil {
		t.Error(err)
	}
	if err := run("processor", "verify", "lamps"); err != nil {
		t.Error(err)
	}
	wantError(run("processor", "verify", "others"), `no projection and no process manager "others": use lamps`)
	wantError(run("processor", "pause", "others"), `no projection and no process manager "others": use lamps`)
	wantError(run("processor", "skip", "lamps", "--key", "desk"), "--position is missing")
	wantError(run("processor", "skip", "lamps", "--key", "desk", "--position", "3"), `blocked at position 2, not 3`)
	wantError(run("processor", "skip", "lamps", "--key", "hall", "--position", "2"), `row "hall" of projection "lamps" is not blocked`)
	wantError(run("processor", "retry", "lamps"), "1 rows of lamps still wait")
	wantToggles(t, dir, catalog, "1 rows, 1 blocked")
	broken.Store(false)
	if err := run("processor", "retry", "lamps", "--key", "desk"); err != nil {
		t.Error(err)
	}
	wantToggles(t, dir, catalog, "1 rows, 0 blocked")
	for _, command := range []string{"pause", "resume", "rebuild", "retry"} {
		if err := run("processor", command, "lamps"); err != nil {
			t.Errorf("%s: %v", command, err)
		}
	}
	if err := run("processors", "--json"); err != nil {
		t.Error(err)
	}
}

// fold appends events of one lamp, one commit each, and folds them.
func fold(t *testing.T, dir string, catalog *aggregate.Catalog, events int) {
	t.Helper()
	if err := catalog.Err(); err != nil {
		t.Fatal(err)
	}
	store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for i := range events {
		u := eventstore.Unit{Stream: eventstore.StreamID{Type: "lamp", ID: "desk"}, Expected: eventstore.Version(i), Commands: []eventstore.Command{{
			Key: string(rune('a' + i)), At: time.Unix(1, 0), Events: []eventstore.Event{{Type: "toggled", Data: []byte("{}")}},
		}}}
		if _, err := store.Append(t.Context(), u); err != nil {
			t.Fatal(err)
		}
	}
	p := engine.NewProjections(engine.ProjectionsConfig{
		Catalog: catalog, Store: store, Rows: store.Rows(), Owns: func(string, int) bool { return true }, Logger: slog.New(slog.DiscardHandler),
	})
	p.Begin(eventstore.Position(events))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- p.Run(ctx) }()
	o, err := node.OperateProcessors(store, catalog)
	if err != nil {
		t.Fatal(err)
	}
	for {
		list, err := o.Segments(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(list) > 0 && list[0].Lag == 0 && list[0].State == "active" {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// wantToggles verifies the rows and compares a summary.
func wantToggles(t *testing.T, dir string, catalog *aggregate.Catalog, want string) {
	t.Helper()
	store, err := sqlite.Open(t.Context(), sqlite.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	o, err := node.OperateProcessors(store, catalog)
	if err != nil {
		t.Fatal(err)
	}
	done, err := o.Verify(t.Context(), "lamps", func(d node.RowDifference) { t.Errorf("%+v differs", d) }, nil)
	if err != nil {
		t.Fatal(err)
	}
	blocked, err := o.Blocked(t.Context(), 10)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join([]string{count(done.Rows, "rows"), count(len(blocked), "blocked")}, ", "); got != want {
		t.Errorf("the projection has %s, want %s", got, want)
	}
}

func count(n int, what string) string { return string(rune('0'+n)) + " " + what }
