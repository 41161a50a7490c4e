package repo

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/ganglion-es/ganglion"

// mayImport says which other parts of the house each part may import; a part
// is a folder, and the longest match holds. What is not listed here fails.
var mayImport = map[string][]string{
	"eventstore":       {},
	"proto":            {"eventstore"},
	"router":           {"eventstore", "proto"},
	"gateway":          {"eventstore", "proto"},
	"domain/aggregate": {},
	"domain":           {"domain/aggregate"},
	"engine":           {"domain/aggregate", "eventstore", "proto"},
	"node/contract":    {"domain/aggregate", "proto"},
	"node":             {"domain", "domain/aggregate", "engine", "eventstore", "gateway", "node/contract", "proto", "router"},
	"examples":         {},
	"client/go":        {},
	"cmd/ganglion":     {"client/go", "domain", "examples", "eventstore", "gateway", "node", "node/contract", "proto", "router"},
	"bench":            {"domain/aggregate", "eventstore", "node"},
	"test":             {"client/go", "domain", "domain/aggregate", "engine", "eventstore", "gateway", "node", "node/contract", "proto", "router"},
	"tools":            {},
}

// mayUse says which packages of others the parts may import that have few: the
// application's aggregates, and what applications build on.
var mayUse = map[string][]string{
	"domain":           {},
	"domain/aggregate": {},
	"client/go":        {"github.com/coder/websocket"},
}

// TestImportDirections keeps the arrows of docs/architecture.md: cmd/ganglion,
// node, then engine, gateway and router, which do not know each other, proto,
// eventstore; domain beside them; domain/aggregate below all.
func TestImportDirections(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "work").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		from := part(fields[0])
		allowed, ok := mayImport[from]
		if !ok {
			t.Errorf("%s is in no known part of the house", fields[0])
			continue
		}
		for _, path := range fields[1:] {
			if !ours(path) {
				few, bounded := mayUse[from]
				if bounded && !slices.Contains(few, path) && strings.Contains(strings.SplitN(path, "/", 2)[0], ".") {
					t.Errorf("%s imports %s: only the standard library and %q are allowed there", fields[0], path, few)
				}
				continue
			}
			seen++
			if to := part(path); to != from && !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s: that arrow points the wrong way", fields[0], path)
			}
		}
	}
	if seen == 0 {
		t.Error("no imports were checked")
	}
}

func ours(path string) bool { return strings.HasPrefix(path, module+"/") }

// part is the part of the house that a package belongs to: the longest
// listed folder that holds it.
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
