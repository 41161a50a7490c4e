package repo

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	fenced      = regexp.MustCompile("(?ms)^ *```.*?^ *```")
	codeSpan    = regexp.MustCompile("`[^`\n]*`")
	linkTarget  = regexp.MustCompile(`\]\(([^()\s]+)\)`)
	headingLine = regexp.MustCompile(`(?m)^#+ +(.+?) *$`)
	linkText    = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`)
	notInAnchor = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	published   = regexp.MustCompile(`https://github\.com/ganglion-es/ganglion/blob/main/([^\s"'<>)]+)`)
)

// TestLinksResolve checks that every relative link of a page leads to a file, and
// its anchor to a heading. It also checks links with a published address, such as
// those from alerts to their runbooks.
func TestLinksResolve(t *testing.T) {
	t.Parallel()
	pages, links := 0, 0
	for _, file := range files(t, ".md", ".yml", ".yaml", ".service", "Dockerfile", ".prebuilt") {
		text := readText(t, file)
		var targets []string
		if filepath.Ext(file) == ".md" {
			pages++
			prose := codeSpan.ReplaceAllString(fenced.ReplaceAllString(text, ""), "")
			for _, m := range linkTarget.FindAllStringSubmatch(prose, -1) {
				if strings.HasPrefix(m[1], "#") {
					targets = append(targets, file+m[1])
				} else if !strings.Contains(m[1], ":") {
					targets = append(targets, filepath.Join(filepath.Dir(file), m[1]))
				}
			}
		}
		for _, m := range published.FindAllStringSubmatch(text, -1) {
			targets = append(targets, m[1])
		}
		links += len(targets)
		for _, target := range targets {
			if err := resolve(target); err != nil {
				t.Errorf("%s: %v", file, err)
			}
		}
	}
	if pages < 10 || links < 100 {
		t.Errorf("found only %d links on %d pages", links, pages)
	}
}

// files returns the repository's files whose names have one of these endings.
func files(t *testing.T, endings ...string) []string {
	t.Helper()
	inRoot()
	var found []string
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains([]string{".git", "node_modules", "dist", "bin"}, entry.Name()):
			return filepath.SkipDir
		case !entry.IsDir() && slices.ContainsFunc(endings, func(e string) bool { return strings.HasSuffix(path, e) }):
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// resolve returns an error if a link leads to no file, or to no heading in it.
func resolve(target string) error {
	file, anchor, hasAnchor := strings.Cut(target, "#")
	if _, err := os.Stat(file); err != nil {
		return fmt.Errorf("the link to %s leads to no file", target)
	}
	if !hasAnchor || filepath.Ext(file) != ".md" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if !slices.Contains(anchorsOf(string(text)), anchor) {
		return fmt.Errorf("%s has no heading for #%s", file, anchor)
	}
	return nil
}

// anchorsOf returns the anchors that GitHub gives the headings of a page.
func anchorsOf(page string) []string {
	seen := map[string]int{}
	var anchors []string
	for _, m := range headingLine.FindAllStringSubmatch(fenced.ReplaceAllString(page, ""), -1) {
		plain := notInAnchor.ReplaceAllString(strings.ToLower(linkText.ReplaceAllString(m[1], "$1")), "")
		anchor := strings.ReplaceAll(plain, " ", "-")
		if n := seen[anchor]; n > 0 {
			anchors = append(anchors, fmt.Sprintf("%s-%d", anchor, n))
		} else {
			anchors = append(anchors, anchor)
		}
		seen[anchor]++
	}
	return anchors
}

// readText returns a file of the repository.
func readText(t *testing.T, file string) string {
	t.Helper()
	inRoot()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
