package repo

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// excluded has patterns of the names of files that are not written by hand.
var excluded = []string{"*.pb.go", "package-lock.json", "go.sum", "auction.js", "console.js", "console.css", "LICENSE", "*.sha256"}

// TestTextAvoidsTheListedPhrases searches every file for the phrases that
// CONTRIBUTING.md lists, even across line breaks. A phrase in a `code span` is
// allowed.
func TestTextAvoidsTheListedPhrases(t *testing.T) {
	t.Parallel()
	inRoot()
	refused := listedPhrases(t)
	out, err := exec.Command("git", "ls-files", "-co", "--exclude-standard").Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	for file := range strings.Lines(string(out)) {
		file = strings.TrimSuffix(file, "\n")
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) || isExcluded(file) || bytes.IndexByte(text, 0) >= 0 {
			continue // deleted, generated or binary
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, hit := range phrasesIn(string(text), refused) {
			t.Errorf("%s:%d: replace %q, or put it in a code span: see the table in CONTRIBUTING.md", file, hit.line, hit.phrase)
		}
	}
}

// listedPhrases returns a pattern that matches the code spans in the first column
// of the table "instead of" in CONTRIBUTING.md.
func listedPhrases(t *testing.T) *regexp.Regexp {
	t.Helper()
	text, err := os.ReadFile("CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n| instead of |")
	table, _, _ = strings.Cut(table, "\n\n")
	var patterns []string
	for row := range strings.Lines(table) {
		first, _, _ := strings.Cut(strings.TrimPrefix(row, "|"), "|")
		for _, span := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(first, -1) {
			words := strings.Join(strings.Fields(span[1]), `\s+`)
			patterns = append(patterns, "["+strings.ToUpper(words[:1])+words[:1]+"]"+words[1:])
		}
	}
	if len(patterns) == 0 {
		t.Fatal(`CONTRIBUTING.md has no table "| instead of | write |" with phrases in code spans`)
	}
	return regexp.MustCompile(`\b(?:` + strings.Join(patterns, "|") + `)\b`)
}

func isExcluded(file string) bool {
	for _, pattern := range excluded {
		if ok, _ := filepath.Match(pattern, filepath.Base(file)); ok {
			return true
		}
	}
	return false
}

type hit struct {
	line   int
	phrase string
}

// marker matches what precedes the text of a line: white space and the mark of
// a comment.
var marker = regexp.MustCompile(`^\s*(?:///?|#+|\*|--|<!--)?\s*`)

// phrasesIn returns the phrases outside code spans. It joins the lines, so it also
// finds phrases across line breaks.
func phrasesIn(text string, refused *regexp.Regexp) (hits []hit) {
	var joined strings.Builder
	var starts []int // offset of each line in joined
	for line := range strings.Lines(text) {
		starts = append(starts, joined.Len())
		joined.WriteString(strings.TrimRight(line[len(marker.FindString(line)):], "\n") + " ")
	}
	line := 0
	for _, at := range refused.FindAllStringIndex(joined.String(), -1) {
		for line+1 < len(starts) && starts[line+1] <= at[0] {
			line++
		}
		isQuoted := strings.Count(joined.String()[starts[line]:at[0]], "`")%2 == 1
		if !isQuoted {
			hits = append(hits, hit{line + 1, joined.String()[at[0]:at[1]]})
		}
	}
	return hits
}

func TestPhrasesAreFoundAcrossLinesUnlessQuoted(t *testing.T) {
	t.Parallel()
	refused := regexp.MustCompile(`\b(?:[Ff]irst\s+phrase|[Ss]econd)\b`)
	text := "// isOpen first\n// phrase.\nfunc isOpen() // \"second\", `second`\n# Second\nTestSecond\n"
	want := []hit{{1, "first phrase"}, {3, "second"}, {4, "Second"}}
	got := phrasesIn(text, refused)
	if len(got) != len(want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("hit %d is %v, want %v", i, got[i], want[i])
		}
	}
}
