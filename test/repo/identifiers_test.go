package repo

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// described are the packages that pages describe, by the name that pages use.
var described = map[string]string{
	"aggregate": "domain/aggregate", "cli": "cli", "domaintest": "domain/domaintest", "engine": "engine", "ganglion": "client/go",
	"gateway": "gateway", "group": "domain/group", "inbox": "domain/inbox", "node": "node", "process": "domain/process",
	"projection": "domain/projection", "query": "domain/query", "sqlprojection": "engine/sqlprojection", "token": "gateway/token",
}

// TestPagesNameExistingIdentifiers checks the functions, types, fields and methods that
// pages name in code spans, such as `aggregate.Type.Wake`, where they still describe the
// newest version.
func TestPagesNameExistingIdentifiers(t *testing.T) {
	t.Parallel()
	exported := map[string]map[string]bool{}
	for name, dir := range described {
		exported[name] = namesIn(t, dir)
	}
	identifier := regexp.MustCompile(`\b(\w+)\.([A-Z]\w*)((?:\.[A-Z]\w*)?)`)
	found := 0
	for _, file := range files(t, ".md") {
		if file == "CHANGELOG.md" {
			continue // names of earlier versions
		}
		for _, span := range codeSpan.FindAllString(fenced.ReplaceAllString(readText(t, file), ""), -1) {
			for _, m := range identifier.FindAllStringSubmatch(span, -1) {
				names, ok := exported[m[1]]
				if !ok {
					continue
				}
				found++
				if !names[m[2]] || m[3] != "" && !names[m[2]+m[3]] {
					t.Errorf("%s names %s, which does not exist", file, m[0])
				}
			}
		}
	}
	if found < 50 {
		t.Errorf("found only %d identifiers on the pages", found)
	}
}

// namesIn returns the names that the packages in a folder declare, and those of fields
// and methods after the name of their type, such as Type.Wake.
func namesIn(t *testing.T, dir string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no package in %s: %v", dir, err)
	}
	members := func(of string, list *ast.FieldList) {
		for _, f := range list.List {
			for _, name := range f.Names {
				names[of+"."+name.Name] = true
			}
		}
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, readText(t, path), parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				name := n.Name.Name
				if n.Recv != nil {
					name = receiver(n.Recv.List[0].Type) + "." + name
				}
				names[name] = true
				return false
			case *ast.TypeSpec:
				names[n.Name.Name] = true
				switch typ := n.Type.(type) {
				case *ast.StructType:
					members(n.Name.Name, typ.Fields)
				case *ast.InterfaceType:
					members(n.Name.Name, typ.Methods)
				}
			case *ast.ValueSpec:
				for _, name := range n.Names {
					names[name.Name] = true
				}
			}
			return true
		})
	}
	return names
}

// receiver returns the name of a method's type.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}
