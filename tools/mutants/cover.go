package main

import (
	"fmt"
	"os"
	"path"
	"strings"
)

// lines has the numbers of the lines that tests reach, by file name.
type lines map[string]map[int]bool

func (l lines) has(file string, line int) bool { return l[file][line] }

// readCover returns the lines of pkg that a coverage profile shows as reached.
func readCover(profile, pkg string) (lines, error) {
	text, err := os.ReadFile(profile)
	if err != nil {
		return nil, err
	}
	reached := lines{}
	for block := range strings.Lines(string(text)) {
		name, rest, ok := strings.Cut(strings.TrimSpace(block), ".go:")
		if !ok || path.Dir(name) != pkg {
			continue
		}
		var from, to, column, statements, count int
		if _, err := fmt.Sscanf(rest, "%d.%d,%d.%d %d %d", &from, &column, &to, &column, &statements, &count); err != nil {
			return nil, fmt.Errorf("coverage profile: %q: %w", block, err)
		}
		file := path.Base(name) + ".go"
		for line := from; count > 0 && line <= to; line++ {
			if reached[file] == nil {
				reached[file] = map[int]bool{}
			}
			reached[file][line] = true
		}
	}
	return reached, nil
}
