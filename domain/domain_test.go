package domain

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/domain/domaintest"
)

// A new aggregate needs no code here: "go test -update" writes its golden files.
func TestScenariosHoldAndStoredFormsStayReadable(t *testing.T) {
	t.Parallel()
	domaintest.Run(t, &Catalog)
}

func TestDomainDependsOnlyOnTheStandardLibrary(t *testing.T) {
	t.Parallel()
	const shape = "github.com/ganglion-es/ganglion/domain/internal/shape"
	const aggregates = shape + " github.com/ganglion-es/ganglion/domain/aggregate"
	const projections = aggregates + " github.com/ganglion-es/ganglion/domain/projection github.com/ganglion-es/ganglion/domain/internal/events"
	const processes = projections + " github.com/ganglion-es/ganglion/domain/process"
	const queries = projections + " github.com/ganglion-es/ganglion/domain/query"
	const format = "{{if not .Standard}}{{.ImportPath}}{{end}}"
	for pkg, allowed := range map[string]string{
		".":            queries + " " + processes + " github.com/ganglion-es/ganglion/domain/group github.com/ganglion-es/ganglion/domain/inbox github.com/ganglion-es/ganglion/domain/topic github.com/ganglion-es/ganglion/domain",
		"./inbox":      aggregates + " github.com/ganglion-es/ganglion/domain/inbox",
		"./topic":      aggregates + " github.com/ganglion-es/ganglion/domain/topic",
		"./aggregate":  aggregates,
		"./group":      aggregates + " github.com/ganglion-es/ganglion/domain/group",
		"./projection": projections,
		"./query":      queries,
		"./process":    processes,
	} {
		out, err := exec.Command("go", "list", "-deps", "-f", format, pkg).Output()
		if err != nil {
			t.Fatalf("go list %s: %v", pkg, err)
		}
		for _, dep := range strings.Fields(string(out)) {
			if !strings.Contains(" "+allowed+" ", " "+dep+" ") {
				t.Errorf("%s depends on %s: the domain imports only the standard library and its own programming models", pkg, dep)
			}
		}
	}
}

// Decide and Apply may use only their arguments.
func TestAggregatesUseNoClockChanceOrGoroutine(t *testing.T) {
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
	files = append(files, "inbox/inbox.go", "topic/topic.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files found: %v", err)
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
					t.Errorf("%s: uses time.%s: use the time of the Call", set.Position(n.Pos()), n.Sel.Name)
				}
			case *ast.GoStmt:
				t.Errorf("%s: starts a goroutine: aggregates are pure", set.Position(n.Pos()))
			}
			return true
		})
	}
}
