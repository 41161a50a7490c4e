package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestReadmeProgramRunsOutsideTheWorkspace makes a module outside of the workspace
// from the program in the README's "From Go", and runs it against a node.
func TestReadmeProgramRunsOutsideTheWorkspace(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../client/go/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(readme), "\n## A first program\n")
	program := regexp.MustCompile("(?s)```go\n(.*?)```").FindStringSubmatch(section)
	if program == nil {
		t.Fatal("client/go/README.md has no program under 'A first program'")
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
		cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod", "CGO_ENABLED=0") // like make lint, which has compiled all but this program
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
		t.Errorf("it prints %q (%v)", line, err)
	}
	_ = run.Process.Signal(syscall.SIGKILL) // the program does not end by itself
	_ = run.Wait()
}

// TestReadmeCommandsPrintWhatItSays runs the README's curl commands against three
// nodes. The live ones run first, and print what the others change.
func TestReadmeCommandsPrintWhatItSays(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	first := harness.FreePorts(t, 3)
	dev := harness.Start(t, binary, 3, "dev", "--nodes", "3", "--listen", fmt.Sprint("127.0.0.1:", first), "--data", t.TempDir())
	harness.Eventually(t, "an answer about an empty log", func() error {
		resp, err := harness.HTTP.Post(dev.URLs[1]+"/v1/queries/open_auctions", "application/json", nil)
		if err == nil {
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				err = errors.New(resp.Status)
			}
		}
		return err
	})
	ports := strings.NewReplacer(":8080", fmt.Sprint(":", first), ":8081", fmt.Sprint(":", first+1), ":8082", fmt.Sprint(":", first+2))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var once []string
	var live []*bufio.Scanner
	for _, command := range regexp.MustCompile(`(?m)^curl (.*\\\n)*.*$`).FindAllString(string(readme), -1) {
		command = ports.Replace(command)
		if !strings.Contains(command, "-N") {
			once = append(once, command)
			continue
		}
		cmd := exec.CommandContext(ctx, "bash", "-c", "exec "+command)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			cancel()
			_ = cmd.Wait() // killed
		}()
		lines := bufio.NewScanner(out)
		wantLine(t, command, lines, "event: live")
		live = append(live, lines)
	}
	if len(once) != 3 || len(live) != 2 {
		t.Fatalf("the README has the commands %q and %d live ones", once, len(live))
	}
	prints := func(command, want string) {
		t.Helper()
		if out, err := exec.CommandContext(ctx, "bash", "-c", command).Output(); err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s prints %s (%v), want %s", command, out, err, want)
		}
	}
	prints(once[0], `"version":1`)
	prints(once[1], `"version":2`)
	wantLine(t, "the stream", live[0], `"amount":1500`)
	wantLine(t, "the live query", live[1], `"price":1500`)
	prints(once[2], `"price":1500`)
}

// wantLine reads lines up to one that contains a text.
func wantLine(t *testing.T, command string, lines *bufio.Scanner, text string) {
	t.Helper()
	for lines.Scan() {
		if strings.Contains(lines.Text(), text) {
			return
		}
	}
	t.Fatalf("%s ends before it prints %s", command, text)
}

// beside checks that other packages still build after the program was saved in the
// folder that the README names.
func beside(t *testing.T, section, program string) {
	t.Helper()
	named := regexp.MustCompile("^\n*Save this as `([^`]+)`").FindStringSubmatch(section)
	if named == nil {
		t.Fatal("client/go/README.md does not say where to save its first program")
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
