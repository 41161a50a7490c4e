package repo

import (
	"regexp"
	"testing"
)

// TestGlossaryIsSortedAndDefinesEachTermOnce checks docs/glossary.md.
func TestGlossaryIsSortedAndDefinesEachTermOnce(t *testing.T) {
	t.Parallel()
	page := readText(t, "docs/glossary.md")
	terms := regexp.MustCompile(`(?m)^\| ([a-z ]+) \| \S.* \|$`).FindAllStringSubmatch(page, -1)[1:]
	if len(terms) < 30 {
		t.Errorf("only %d terms were found", len(terms))
	}
	for i, term := range terms[1:] {
		if before := terms[i][1]; term[1] <= before {
			t.Errorf("%q follows %q: sort the terms, and define each once", term[1], before)
		}
	}
}
