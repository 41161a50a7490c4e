package repo

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestReleaseIsRefused runs scripts/release.sh in a small repository, in states of
// which it must make no release. "make test-faults" tries a release that succeeds.
func TestReleaseIsRefused(t *testing.T) {
	t.Parallel()
	inRoot()
	script, err := os.ReadFile("scripts/release.sh")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ before, args, want string }{
		"no version":                      {"", "", "'' is not a version"},
		"version without v":               {"", "1.2.3", "'1.2.3' is not a version"},
		"version that needs another path": {"", "v2.0.0", "'v2.0.0' is not a version"},
		"version with a leading zero":     {"", "v1.02.3", "'v1.02.3' is not a version"},
		"unknown pre-release":             {"", "v1.2.3-next.1", "'v1.2.3-next.1' is not a version"},
		"changed file":                    {"echo >>CHANGELOG.md", "v1.2.3", "the work tree has changes"},
		"new file":                        {"echo >new", "--dry-run", "the work tree has changes"},
		"version without a section":       {"", "v1.2.4", "CHANGELOG.md has no section '## 1.2.4 - DATE'"},
		"tag of the main module":          {"git tag v1.2.3", "v1.2.3", "the tag v1.2.3 exists"},
		"tag of another module":           {"git tag domain/v1.2.3", "v1.2.3", "the tag domain/v1.2.3 exists"},
		"folder of another release":       {"mkdir .git/out", "v1.2.3 .git/out", ".git/out exists"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			run := func(command string) (string, error) {
				cmd := exec.CommandContext(t.Context(), "bash", "-euc", command)
				cmd.Dir = dir
				out, err := cmd.CombinedOutput()
				return string(out), err
			}
			if err := os.Mkdir(filepath.Join(dir, "scripts"), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "scripts", "release.sh"), script, 0o700); err != nil {
				t.Fatal(err)
			}
			if out, err := run("printf '## 1.2.3 - 2027-01-31\n' >CHANGELOG.md; git init -q; git add .; git -c user.name=test -c user.email=test@localhost commit -qm test\n" + c.before); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			before, err := run("git status --porcelain; git tag")
			if err != nil {
				t.Fatal(err)
			}
			out, err := run("scripts/release.sh " + c.args)
			if err == nil || !strings.Contains(out, c.want) || strings.Count(out, "\n") != 1 {
				t.Errorf("release.sh %s: %v, printed %q, want a failure with one line that has %q", c.args, err, out, c.want)
			}
			if after, err := run("git status --porcelain; git tag"); err != nil || after != before {
				t.Errorf("release.sh %s left changes and tags %q, %v, want %q", c.args, after, err, before)
			}
		})
	}
}
