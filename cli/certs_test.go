package cli

import (
	"os"
	"path/filepath"
	"testing"
)

func TestCertsKeepMakesMissingFilesOnly(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "certs")
	read := func() string {
		raw, err := os.ReadFile(filepath.Join(dir, "n1.key"))
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	if err := (certsCmd{Dir: dir, Node: []string{"n1"}, Keep: true}).run(); err != nil {
		t.Fatal(err)
	}
	first := read()
	for range 2 {
		if err := (certsCmd{Dir: dir, Node: []string{"n1", "n2"}, Keep: true}).run(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "n2.pem")); err != nil || read() != first {
		t.Errorf("n2 is missing, or n1 was replaced: %v", err)
	}
	if err := (certsCmd{Dir: dir, Node: []string{"n1"}}).run(); err == nil {
		t.Error("without --keep a certificate was overwritten")
	}
}
