package repo

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestPagesNameExistingTests checks that every test exists that a page of docs
// names.
func TestPagesNameExistingTests(t *testing.T) {
	t.Parallel()
	exists := map[string]bool{}
	for _, file := range files(t, ".go") {
		for _, m := range regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`).FindAllStringSubmatch(readText(t, file), -1) {
			exists[m[1]] = true
		}
	}
	named := 0
	for _, file := range files(t, ".md") {
		if !strings.HasPrefix(file, "docs/") {
			continue
		}
		for _, m := range regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(readText(t, file), -1) {
			named++
			if !exists[m[1]] {
				t.Errorf("%s names %s, which does not exist", file, m[1])
			}
		}
	}
	if named < 20 {
		t.Errorf("found only %d tests on the pages", named)
	}
}

// TestPagesNameExistingCommands checks the commands on the pages: the targets of
// make and the folders of go test exist.
func TestPagesNameExistingCommands(t *testing.T) {
	t.Parallel()
	makefiles := readText(t, "Makefile") + readText(t, "deploy/compose.mk")
	command := regexp.MustCompile("(?m)(?:`|^)(make [a-z][a-z0-9-]*|go test [^`\n#]*)")
	folder := regexp.MustCompile(` \./(\w[\w/-]*)`)
	found := 0
	for _, file := range files(t, ".md") {
		for _, m := range command.FindAllStringSubmatch(readText(t, file), -1) {
			found++
			if target, ok := strings.CutPrefix(m[1], "make "); ok {
				if !strings.Contains(makefiles, "\n"+target+":") {
					t.Errorf("%s names make %s, which does not exist", file, target)
				}
				continue
			}
			for _, f := range folder.FindAllStringSubmatch(m[1], -1) {
				if _, err := os.Stat(f[1]); err != nil {
					t.Errorf("%s names %q: %v", file, m[1], err)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("found only %d commands on the pages", found)
	}
}
