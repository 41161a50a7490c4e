package repo

import (
	"go/ast"
	"go/parser"
	"go/token"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestMessagesOfLibrariesNameFieldsBeforeFlags checks the messages of packages that
// programs run without the command line: where a message names a flag, the field of a
// Config comes first, such as "Origins (--origins)". Flags of commands for operators
// follow the name of the command.
func TestMessagesOfLibrariesNameFieldsBeforeFlags(t *testing.T) {
	t.Parallel()
	flag := regexp.MustCompile(`--[a-z][a-z-]+|GANGLION_[A-Z]`)
	allowed := regexp.MustCompile(`\b[A-Z]\w+(?:\.[A-Z]\w+)* \((?:--[a-z-]+(?:, | and )?)+\)|ganglion [a-z ]+--[a-z-]+`)
	named := 0
	for _, file := range files(t, ".go") {
		room, _, _ := strings.Cut(file, "/")
		switch room {
		case "engine", "eventstore", "gateway", "node", "proto", "router":
		default:
			continue
		}
		if strings.HasSuffix(file, "_test.go") || strings.Contains(file, "postgrestest") {
			continue // programs of the tests have flags too
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, readText(t, file), parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			literal, ok := n.(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING {
				return true
			}
			text, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatalf("%s: %s: %v", file, literal.Value, err)
			}
			named += len(allowed.FindAllString(text, -1))
			if left := flag.FindString(allowed.ReplaceAllString(text, "")); left != "" {
				t.Errorf("%s: %q names %s without a field: write Field (%[3]s), since a program that embeds the package has no flags", file, text, left)
			}
			return true
		})
	}
	if named < 10 {
		t.Errorf("found only %d settings in messages", named)
	}
}
