package domain

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/aggregate/aggregatetest"
)

// TestDomain runs every aggregate's scenarios and compares the stored forms of
// its events with the golden files in testdata/events. A new aggregate needs
// nothing here; "go test -update" writes its golden files.
func TestDomain(t *testing.T) {
	t.Parallel()
	aggregatetest.Run(t, &Catalog)
}

// TestPure keeps aggregates free of the outside world: they import only the
// standard library and the programming model, which itself has only the
// standard library.
func TestPure(t *testing.T) {
	t.Parallel()
	const model = "github.com/ganglion-es/ganglion/domain/aggregate"
	const format = "{{if not .Standard}}{{.ImportPath}}{{end}}"
	for pkg, allowed := range map[string]string{
		".":           model + " github.com/ganglion-es/ganglion/domain",
		"./aggregate": model,
	} {
		out, err := exec.Command("go", "list", "-deps", "-f", format, pkg).Output()
		if err != nil {
			t.Fatalf("go list %s: %v", pkg, err)
		}
		for _, dep := range strings.Fields(string(out)) {
			if !strings.Contains(" "+allowed+" ", " "+dep+" ") {
				t.Errorf("%s depends on %s: aggregates import only the standard library and domain/aggregate", pkg, dep)
			}
		}
	}
}

// TestNoOutsideWorld finds aggregates that read a clock, chance, or the
// machine, which Decide and Apply may not: what they need comes in the Call.
func TestNoOutsideWorld(t *testing.T) {
	t.Parallel()
	packages := map[string]bool{
		"crypto/rand": true, "io": true, "math/rand": true, "math/rand/v2": true,
		"net": true, "net/http": true, "os": true, "os/exec": true, "sync": true, "syscall": true,
	}
	clocks := map[string]bool{
		"After": true, "AfterFunc": true, "NewTicker": true, "NewTimer": true, "Now": true,
		"Since": true, "Sleep": true, "Tick": true, "Until": true, "Local": true,
	}
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files to look at: %v", err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ImportSpec:
				if packages[strings.Trim(n.Path.Value, `"`)] {
					t.Errorf("%s: imports %s: aggregates are pure", set.Position(n.Pos()), n.Path.Value)
				}
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && clocks[n.Sel.Name] {
					t.Errorf("%s: uses time.%s: the time comes in the Call", set.Position(n.Pos()), n.Sel.Name)
				}
			case *ast.GoStmt:
				t.Errorf("%s: starts a goroutine: aggregates are pure", set.Position(n.Pos()))
			}
			return true
		})
	}
}
