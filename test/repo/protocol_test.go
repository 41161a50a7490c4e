package repo

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestEveryRowOfTheProtocolHasATest reads docs/protocol.md, and the comments
// of tests. A test names the rows that it shows in its comment, on lines of
// the form
//
//	// protocol: client hello, gateway welcome, error forbidden, close 4001
//	// protocol: http POST /v1/commands, status 409
//	// protocol: rule Exactly once
//
// where a rule is the beginning of a list item. A row without a test fails,
// and so does a name without a row.
func TestEveryRowOfTheProtocolHasATest(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := protocolRows(string(page))
	if len(rows) < 60 {
		t.Fatalf("only %d rows were found: %q", len(rows), rows)
	}
	shown := map[string]bool{}
	for name, by := range namedRows(t) {
		found := false
		for _, row := range rows {
			if row == name || strings.HasPrefix(name, "rule ") && strings.HasPrefix(row, name) {
				shown[row], found = true, true
			}
		}
		if !found {
			t.Errorf("%s names %q, which docs/protocol.md does not have", by, name)
		}
	}
	for _, row := range rows {
		if !shown[row] {
			t.Errorf("no test names '%.60s'", row)
		}
	}
}

var (
	quoted    = regexp.MustCompile("`([^`]+)`")
	number    = regexp.MustCompile(`\b[0-9]{3,4}\b`)
	endpoint  = regexp.MustCompile("`((?:GET|POST) /v1/[^`?]*)")
	aside     = regexp.MustCompile(`\([^)]*\)`)
	statusRow = regexp.MustCompile(`(?s)Statuses: (.*?)\.\n`)
)

// protocolRows finds what the page promises: rows of its tables, codes, list
// items, endpoints and statuses.
func protocolRows(page string) []string {
	rows := map[string]bool{}
	for _, section := range strings.Split(page, "\n## ") {
		title, text, _ := strings.Cut(section, "\n")
		side := map[string]string{"Client to gateway": "client ", "Gateway to client": "gateway "}[title]
		for line := range strings.Lines(text) {
			cells := strings.Split(line, "|")
			if side == "" || len(cells) < 3 {
				continue
			}
			for _, op := range quoted.FindAllStringSubmatch(cells[1], -1) {
				rows[side+op[1]] = true
			}
		}
		for _, item := range strings.Split("\n"+text, "\n- ")[1:] {
			rows["rule "+strings.NewReplacer("*", "", "`", "", "\n", " ").Replace(item)] = true
		}
		for paragraph := range strings.SplitSeq(text, "\n\n") {
			paragraph = strings.TrimSpace(paragraph)
			if codes, ok := strings.CutPrefix(paragraph, "Codes of `error`:"); ok {
				for _, code := range quoted.FindAllStringSubmatch(aside.ReplaceAllString(codes, ""), -1) {
					rows["error "+code[1]] = true
				}
			}
			if codes, ok := strings.CutPrefix(paragraph, "Close codes:"); ok {
				for _, code := range number.FindAllString(codes, -1) {
					rows["close "+code] = true
				}
			}
		}
		for _, e := range endpoint.FindAllStringSubmatch(text, -1) {
			rows["http "+e[1]] = true
		}
		for _, statuses := range statusRow.FindAllStringSubmatch(text, -1) {
			for _, status := range number.FindAllString(statuses[1], -1) {
				rows["status "+status] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(rows))
}

// namedRows are the rows that tests say they show, and one test for each.
func namedRows(t *testing.T) map[string]string {
	named := map[string]string{}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || len(d.Name()) > 1 && d.Name()[0] == '.'):
			return fs.SkipDir
		case !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range file.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || !strings.HasPrefix(f.Name.Name, "Test") || f.Doc == nil || f.Name.Name == t.Name() {
				continue
			}
			for _, comment := range f.Doc.List {
				names, ok := strings.CutPrefix(comment.Text, "// protocol: ")
				if !ok {
					continue
				}
				if strings.HasPrefix(names, "rule ") { // may have commas of its own
					named[names] = f.Name.Name
					continue
				}
				for name := range strings.SplitSeq(names, ", ") {
					named[name] = f.Name.Name
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return named
}
