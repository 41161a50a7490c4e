package ganglion_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestEachPromiseNamesItsTests keeps docs/guarantees.md true: every promise
// names at least one test, and every test that is named is where the link says.
func TestEachPromiseNamesItsTests(t *testing.T) {
	t.Parallel()
	raw, err := os.ReadFile("docs/guarantees.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	linked := regexp.MustCompile("\\[`((?:Test|Fuzz)\\w+)`\\]\\(([^)]+)\\)")
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`")

	promises := 0
	for line := range strings.Lines(text) {
		if regexp.MustCompile(`^\| \d+ \|`).MatchString(line) {
			promises++
			if !linked.MatchString(line) {
				t.Errorf("no test shows this promise: %s", line)
			}
		}
		if rest := linked.ReplaceAllString(line, ""); named.MatchString(rest) {
			t.Errorf("%s is named without a link to it", named.FindString(rest))
		}
	}
	if promises == 0 {
		t.Error("docs/guarantees.md promises nothing: has its table another form?")
	}

	for _, link := range linked.FindAllStringSubmatch(text, -1) {
		name, file := link[1], filepath.Join("docs", link[2])
		code, err := os.ReadFile(file)
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case !strings.Contains(string(code), "\nfunc "+name+"("):
			t.Errorf("%s is not in %s", name, file)
		}
	}
}
