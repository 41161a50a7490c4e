package scaffold_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/cli/internal/scaffold"
)

// root is the folder of this clone.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestProductIsWrittenForAClone writes a product beside a clone and lets Go check all
// of it. Its tests run as those of the package product, of which it is a copy.
func TestProductIsWrittenForAClone(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "my-shop")
	o := scaffold.Options{Name: "my-shop", Module: "shop.example/my-shop", Dir: dir, Clone: root(t)}
	if err := scaffold.Write(o); err != nil {
		t.Fatal(err)
	}
	list := exec.Command("go", "list", "-deps", "-test", "-f", "{{with .Error}}{{.}}{{end}}{{if eq .Name \"main\"}}{{.ImportPath}}{{end}}", ".")
	list.Dir = dir
	list.Env = append(os.Environ(), "GOWORK=", "GOFLAGS=-mod=readonly")
	out, err := list.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "shop.example/my-shop") {
		t.Errorf("go list: %v\n%s", err, out)
	}
	for file, want := range map[string]string{
		"main.go":                   `cli.Options{Name: "my-shop"`,
		"go.mod":                    "module shop.example/my-shop\n",
		".gitignore":                "/my-shop-data",
		".dockerignore":             "!my-shop",
		"web/.npmrc":                "install-links",
		"web/dist/.keep":            "Vite",
		"web/package.json":          "ganglion/client/react",
		"Dockerfile":                `ENTRYPOINT ["/my-shop"]`,
		"README.md":                 "# My-shop",
		".github/workflows/ci.yaml": "git clone",
	} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil || !strings.Contains(string(text), want) && file != "web/package.json" {
			t.Errorf("%s lacks %q: %v\n%s", file, want, err, text)
		}
		for _, left := range []string{"diner", "Diner", "MODULE", "REQUIRE", "CHECKOUT", "PREPARE", "GANGLION/"} {
			if strings.Contains(string(text), left) {
				t.Errorf("%s still has the word %q", file, left)
			}
		}
	}
	if err := scaffold.Write(o); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("a second product in the folder: %v", err)
	}
}

// TestProductLeavesShortNamesFree adds a file with short names to a product, whose files
// are one Go package.
func TestProductLeavesShortNamesFree(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "shop")
	if err := scaffold.Write(scaffold.Options{Name: "shop", Module: "example.com/shop", Dir: dir, Clone: root(t)}); err != nil {
		t.Fatal(err)
	}
	const names = "Status string; Line struct{}; Place struct{}; Cook struct{}; Finish struct{}; Placed struct{}; Started struct{}; Finished struct{}"
	text := "package main\n\ntype (" + names + ")\n\nconst Waiting, Ready Status = \"waiting\", \"ready\"\n"
	if err := os.WriteFile(filepath.Join(dir, "menu.go"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	vet := exec.Command("go", "vet", ".")
	vet.Dir = dir
	vet.Env = append(os.Environ(), "GOWORK=", "GOFLAGS=-mod=readonly")
	if out, err := vet.CombinedOutput(); err != nil {
		t.Errorf("go vet: %v\n%s", err, out)
	}
}

func TestProductOfAReleaseRequiresItsModules(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := scaffold.Write(scaffold.Options{Name: "shop", Module: "example.com/shop", Dir: dir, Version: "v1.2.3"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
		t.Error("it has a go.work")
	}
	for file, want := range map[string]string{
		"go.mod":           "\tgithub.com/ganglion-es/ganglion/client/go v1.2.3\n",
		"web/package.json": `"@ganglion-es/react": "1.2.3"`,
		"build.sh":         "go mod tidy\n",
	} {
		if text, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s lacks %q: %v\n%s", file, want, err, text)
		}
	}
}

func TestWrongOptionsAreRefused(t *testing.T) {
	t.Parallel()
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "notes"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*scaffold.Options){
		`the name "Shop" is not`:       func(o *scaffold.Options) { o.Name = "Shop" },
		`the name "" is not`:           func(o *scaffold.Options) { o.Name = "" },
		`the name "../shop" is not`:    func(o *scaffold.Options) { o.Name = "../shop" },
		`the name "ganglion" is taken`: func(o *scaffold.Options) { o.Name = "ganglion" },
		`the name "web" is taken`:      func(o *scaffold.Options) { o.Name = "web" },
		`the name "testdata" is taken`: func(o *scaffold.Options) { o.Name = "testdata" },
		`is not a module path`:         func(o *scaffold.Options) { o.Module = "example.com//shop" },
		`--ganglion DIR`:               func(o *scaffold.Options) { o.Version = "devel-0123456789ab" },
		`is not a clone of Ganglion`:   func(o *scaffold.Options) { o.Clone = t.TempDir() },
		`is not empty: choose another`: func(o *scaffold.Options) { o.Dir = full },
		"can't read the folder":        func(o *scaffold.Options) { o.Dir = filepath.Join(full, "notes") },
	} {
		o := scaffold.Options{Name: "shop", Module: "example.com/shop", Dir: t.TempDir(), Version: "v1.2.3"}
		change(&o)
		if err := scaffold.Write(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestCloneIsFoundFromItsFolders(t *testing.T) {
	t.Parallel()
	if got := scaffold.FindClone(filepath.Join(root(t), "docs", "decisions")); got != root(t) {
		t.Errorf("the clone of docs/decisions is %q", got)
	}
	if got := scaffold.FindClone(t.TempDir()); got != "" {
		t.Errorf("a folder elsewhere is in the clone %q", got)
	}
}
