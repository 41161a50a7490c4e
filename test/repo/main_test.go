// Package repo tests the repository: it compares pages with tests, metrics and
// alerts, and checks import directions and the wording of texts.
package repo

import (
	"fmt"
	"os"
	"sync"
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

// inRoot keeps cached test results correct. The go command records the files that
// a test opens, and repeats the test if one of them changes. It does not record the
// Chdir in TestMain, so it would look for relative names in the wrong folder, and a
// cached "ok" would hide a broken page. It does record the Chdir in inRoot.
var inRoot = sync.OnceFunc(func() {
	root, err := os.Getwd()
	if err == nil {
		err = os.Chdir(root)
	}
	if err != nil {
		panic(err)
	}
})
