package e2e

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestFromGoInTheReadmeWorksWhenPasted makes a module of its own outside the
// workspace, as "go get" would, of the program in the README's "From Go", and
// runs it against a node.
func TestFromGoInTheReadmeWorksWhenPasted(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## From Go\n")
	program := regexp.MustCompile("(?s)```go\n(.*?)```").FindStringSubmatch(section)
	if program == nil {
		t.Fatal("the README has no program under 'From Go'")
	}
	beside(t, section, program[1])
	client, err := filepath.Abs("../../client/go")
	if err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile(filepath.Join(client, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	dev := harness.Start(t, binary, 1, "dev", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	main := regexp.MustCompile(`URLs: .*`).ReplaceAllString(program[1], `URLs: []string{"`+dev.URLs[0]+`"},`)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"main.go": main,
		"go.mod":  "module outside\n\ngo 1.26.0\n",
		"go.sum":  string(sums),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	outside := func(args ...string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), "go", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod")
		return cmd
	}
	for _, args := range [][]string{
		{"mod", "edit", "-replace", "github.com/ganglion-es/ganglion/client/go=" + client},
		{"mod", "edit", "-require", "github.com/ganglion-es/ganglion/client/go@v0.0.0"},
		{"vet", "./..."},
		{"build", "-o", "outside", "."},
	} {
		if out, err := outside(args...).CombinedOutput(); err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	run := exec.CommandContext(t.Context(), filepath.Join(dir, "outside"))
	out, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	run.Stderr = os.Stderr
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "1 1\n" {
		t.Errorf("it says %q (%v)", line, err)
	}
	_ = run.Process.Signal(syscall.SIGKILL) // it would go on
	_ = run.Wait()
}

// beside checks that where the README has the program saved, it is a package
// of its own that stops nothing else from being built.
func beside(t *testing.T, section, program string) {
	t.Helper()
	named := regexp.MustCompile("^\n*Save this as `([^`]+)`").FindStringSubmatch(section)
	if named == nil {
		t.Fatal("the README does not say where to save the program under 'From Go'")
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	saved := filepath.Join(t.TempDir(), "saved")
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, named[1]): saved}})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{saved: []byte(program), saved + ".json": overlay} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list := exec.CommandContext(t.Context(), "go", "list", "-overlay", saved+".json", "-deps", "./cmd/ganglion", "./"+filepath.Dir(named[1]))
	list.Dir = root
	if out, err := list.CombinedOutput(); err != nil {
		t.Errorf("with %s: %v\n%s", named[1], err, out)
	}
}
