package repo

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestEveryRowOfTheProtocolHasATest compares docs/protocol.md with the comments of
// tests. A test names rows of the page in lines of its doc comment:
//
//	// protocol: client hello, gateway welcome, error forbidden, close 4001
//	// protocol: http POST /v1/commands, status 409
//	// protocol: rule Exactly once
//
// A rule is the start of a list item. The test fails if a row has no test, or if a
// comment names a row that the page does not have.
func TestEveryRowOfTheProtocolHasATest(t *testing.T) {
	t.Parallel()
	rows := protocolRows(readText(t, "docs/protocol.md"))
	if len(rows) < 60 {
		t.Fatalf("found only %d rows: %q", len(rows), rows)
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
			t.Errorf("%s names %q, which is not in docs/protocol.md", by, name)
		}
	}
	for _, row := range rows {
		if !shown[row] {
			t.Errorf("no test names '%.60s': add a comment '// protocol: …' to a test", row)
		}
	}
}

var (
	quoted    = regexp.MustCompile("`([^`]+)`")
	number    = regexp.MustCompile(`\b[0-9]{3,4}\b`)
	endpoint  = regexp.MustCompile("`((?:GET|POST) /v1/[^`?]*)")
	statusRow = regexp.MustCompile(`(?s)Statuses: (.*?)\.\n`)
)

// protocolRows returns the rows of the page: table rows, codes, list items,
// endpoints and statuses.
func protocolRows(page string) []string {
	rows := map[string]bool{}
	for _, section := range strings.Split(page, "\n## ") {
		title, text, _ := strings.Cut(section, "\n")
		side := map[string]string{
			"Client to gateway": "client ", "Gateway to client": "gateway ",
			"Codes of `error`": "error ", "Close codes": "close ",
		}[title]
		for line := range strings.Lines(text) {
			cells := strings.Split(line, "|")
			if side == "" || len(cells) < 3 {
				continue
			}
			for _, name := range quoted.FindAllStringSubmatch(cells[1], -1) {
				rows[side+name[1]] = true
			}
		}
		for _, item := range strings.Split("\n"+text, "\n- ")[1:] {
			rows["rule "+strings.NewReplacer("*", "", "`", "", "\n", " ").Replace(item)] = true
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

// namedRows returns the rows that tests name, each with the name of one test.
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
				if strings.HasPrefix(names, "rule ") { // a rule may contain commas
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
