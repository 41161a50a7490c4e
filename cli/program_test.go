package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate"
)

type lamp struct {
	On bool `json:"on"`
}

type (
	toggle  struct{}
	toggled struct{}
)

func (toggle) Decide(aggregate.Call, lamp) (aggregate.Decision[lamp], error) {
	return aggregate.Emit(toggled{})
}

func (toggled) Apply(l *lamp) { l.On = !l.On }

// TestCommandsUseCatalogOfProgram runs the command line of a program with its own
// aggregates and without pages.
func TestCommandsUseCatalogOfProgram(t *testing.T) {
	t.Parallel()
	var catalog aggregate.Catalog
	aggregate.Define(&catalog, aggregate.Type[lamp]{
		Name: "lamp", Doc: "A lamp.", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[lamp]{"toggle": toggle{}}, Events: aggregate.Events[lamp]{"toggled": toggled{}},
	})
	root := newRoot(newProgram(&catalog, Options{}))
	file := filepath.Join(t.TempDir(), "schema.json")
	root.SetArgs([]string{"schema", "--out", file})
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var schema struct{ Aggregates map[string]any }
	if err := json.Unmarshal(raw, &schema); err != nil || len(schema.Aggregates) != 1 || schema.Aggregates["lamp"] == nil {
		t.Errorf("the schema has %v: %v", schema.Aggregates, err)
	}
	node, _, err := root.Find([]string{"node"})
	if err != nil || node.Flag("examples") != nil {
		t.Errorf("a program without pages has --examples: %v", err)
	}
}

// TestContractOfWrongCatalogIsNotWritten has a type that is not registered, so a contract
// would lack it.
func TestContractOfWrongCatalogIsNotWritten(t *testing.T) {
	t.Parallel()
	var catalog aggregate.Catalog
	aggregate.Define(&catalog, aggregate.Type[lamp]{
		Name: "Lamp", Access: aggregate.Access{Send: aggregate.Anyone, Read: aggregate.Anyone},
		Commands: aggregate.Commands[lamp]{"toggle": toggle{}}, Events: aggregate.Events[lamp]{"toggled": toggled{}},
	})
	for _, args := range [][]string{{"schema"}, {"gen", "ts"}} {
		root := newRoot(newProgram(&catalog, Options{}))
		file := filepath.Join(t.TempDir(), "contract")
		root.SetArgs(append(args, "--out", file))
		if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), `"Lamp"`) {
			t.Errorf("%s: %v", args, err)
		}
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s has written a file", args)
		}
	}
}
