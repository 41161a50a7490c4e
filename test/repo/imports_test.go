package repo

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/ganglion-es/ganglion"

// mayImport lists, for each part of the repository, the parts that it may import.
// A part is a folder with its subfolders, except subfolders that are parts of their
// own. A package outside these folders fails the test.
var mayImport = map[string][]string{
	"eventstore":            {},
	"proto":                 {"eventstore"},
	"relay":                 {"eventstore", "proto"},
	"relay/nats":            {"eventstore", "relay"},
	"relay/rabbitmq":        {"eventstore", "relay"},
	"relay/rabbitmq/e2e":    {},
	"router":                {"eventstore", "proto"},
	"gateway":               {"eventstore", "proto"},
	"domain/aggregate":      {"domain/internal/shape"},
	"domain":                {"domain/aggregate", "domain/group", "domain/inbox", "domain/process", "domain/projection", "domain/query"},
	"engine":                {"domain/aggregate", "domain/group", "domain/process", "domain/projection", "domain/query", "eventstore", "proto", "relay"},
	"node/contract":         {"domain/aggregate", "proto"},
	"node/trust":            {"gateway"},
	"node/operator":         {"eventstore", "gateway", "node/trust", "proto", "router"},
	"node":                  {"client/go", "domain/aggregate", "engine", "eventstore", "gateway", "node/contract", "node/operator", "node/trust", "proto", "relay", "router", "web"},
	"examples":              {},
	"web":                   {},
	"client/go":             {},
	"cli":                   {"cli/internal/scaffold", "client/go", "domain/aggregate", "eventstore", "gateway", "node", "node/contract", "node/operator", "node/trust", "proto", "relay", "router"},
	"cli/internal/scaffold": {},
	// What new products import.
	"cli/internal/scaffold/product": {"cli", "client/go", "domain/aggregate", "domain/domaintest", "domain/process", "domain/projection", "domain/query", "node", "node/contract"},
	"cmd/ganglion":                  {"cli", "domain", "examples", "relay", "relay/nats", "relay/rabbitmq"},
	"bench":                         {"client/go", "domain/aggregate", "domain/group", "domain/process", "domain/projection", "domain/query", "engine", "eventstore", "node", "proto", "relay", "relay/rabbitmq", "test"},
	"test":                          {"cli", "client/go", "domain", "domain/aggregate", "domain/group", "domain/inbox", "domain/process", "engine", "eventstore", "gateway", "node", "node/contract", "proto", "router"},
	"tools":                         {},

	"domain/internal/shape":  {},
	"domain/internal/events": {"domain/aggregate"},
	"domain/domaintest":      {"domain/aggregate", "domain/process", "domain/projection"},
	"domain/group":           {"domain/aggregate", "domain/internal/shape"},
	"domain/inbox":           {"domain/aggregate"},
	"domain/process":         {"domain/aggregate", "domain/internal/events", "domain/internal/shape", "domain/projection"},
	"domain/projection":      {"domain/aggregate", "domain/internal/events", "domain/internal/shape"},
	"domain/query":           {"domain/aggregate", "domain/internal/shape", "domain/projection"},
}

// mayUse lists the third-party packages that a part may import. It has the
// application's aggregates and the packages that applications import; other parts
// may import any.
var mayUse = map[string][]string{
	"domain":           {},
	"domain/aggregate": {},
	"client/go":        {"github.com/coder/websocket"},

	"domain/internal/shape":  {},
	"domain/internal/events": {},
	"domain/domaintest":      {},
	"domain/group":           {},
	"domain/inbox":           {},
	"domain/process":         {},
	"domain/projection":      {},
	"domain/query":           {},
}

// TestImportDirections checks the import directions of docs/architecture.md, from
// top to bottom: cmd/ganglion, cli, node, then engine, gateway and router, which do
// not import each other, proto, eventstore. Only cmd/ganglion and tests import
// domain, which imports only domain/aggregate.
func TestImportDirections(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "work").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	packages := benchImports(t)
	for line := range strings.Lines(string(out)) {
		packages = append(packages, strings.Fields(line))
	}
	seen := 0
	for _, fields := range packages {
		from := part(fields[0])
		allowed, ok := mayImport[from]
		if !ok {
			t.Errorf("%s is in no part of the repository: add its folder to mayImport", fields[0])
			continue
		}
		for _, path := range fields[1:] {
			if !isOurs(path) {
				few, bounded := mayUse[from]
				if bounded && !slices.Contains(few, path) && strings.Contains(strings.SplitN(path, "/", 2)[0], ".") {
					t.Errorf("%s imports %s: it may import only the standard library and %q", fields[0], path, few)
				}
				continue
			}
			seen++
			if to := part(path); to != from && !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s: mayImport does not allow this for %s", fields[0], path, from)
			}
		}
	}
	if seen == 0 {
		t.Error("no imports were checked")
	}
}

// benchImports returns the import path and the imports of each file in bench. It
// reads the source, since go list would download the systems that bench compares.
func benchImports(t *testing.T) (list [][]string) {
	t.Helper()
	err := filepath.WalkDir("bench", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		fields := []string{module + "/" + filepath.ToSlash(filepath.Dir(path))}
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			fields = append(fields, imported)
		}
		list = append(list, fields)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func isOurs(path string) bool { return strings.HasPrefix(path, module+"/") }

// part returns the part of the repository that a package belongs to, or "?" and
// the package's folder if there is none.
func part(path string) string {
	folder := strings.TrimPrefix(path, module+"/")
	best := "?" + folder
	for p := range mayImport {
		if (folder == p || strings.HasPrefix(folder, p+"/")) && (best[0] == '?' || len(p) >= len(best)) {
			best = p
		}
	}
	return best
}
