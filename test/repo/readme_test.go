package repo

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeFilesPassTheirScenariosWhenPasted saves the README's aggregate and its
// projection in a copy of the folder domain, as the README says, and runs their tests
// there.
func TestReadmeFilesPassTheirScenariosWhenPasted(t *testing.T) {
	t.Parallel()
	text := readText(t, "README.md")
	files := regexp.MustCompile("(?s)Save this as `domain/(\\w+\\.go)`[^`]*(?:`go test -C domain (-update)`.*?)?```go\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(files) != 2 || files[0][2] == "" {
		t.Fatal("README.md does not say how to save and test an aggregate, and then a projection")
	}
	update := files[0][2]
	dir := filepath.Join(t.TempDir(), "domain")
	if err := os.CopyFS(dir, os.DirFS("domain")); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f[1]), []byte(f[3]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range []string{"vet .", "test " + update, "test -v -run ^TestScenariosHoldAndStoredFormsStayReadable$ ."} {
		cmd := exec.CommandContext(t.Context(), "go", strings.Fields(args)...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0") // like make lint, which has compiled the dependencies
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("go %s: %v\n%s", args, err, out)
		}
		for _, scenario := range []string{"a_taken_seat_stays_taken", "a_reserved_seat_is_taken", "seats_of_one_show"} {
			if strings.Contains(args, "-v") && !strings.Contains(string(out), scenario) {
				t.Errorf("the scenario %s did not run:\n%s", scenario, out)
			}
		}
	}
}
