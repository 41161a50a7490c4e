// Package repo checks the repository itself: that its pages say what is so, and
// that imports point one way.
package repo

import (
	"fmt"
	"os"
	"testing"
)

// TestMain runs the tests in the repository's root.
func TestMain(m *testing.M) {
	if err := os.Chdir("../.."); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	m.Run()
}
