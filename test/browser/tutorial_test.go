package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestTutorialWorksAsWritten follows docs/tutorial.md in a folder outside the
// workspace: it writes the files, runs the commands, votes on the page, and sees the votes in the
// list. Then
// it changes the program in the two ways of docs/embedding.md and runs each.
func TestTutorialWorksAsWritten(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	first := harness.FreePorts(t, 3)
	w := &workdir{t: t, dir: t.TempDir(), local: strings.NewReplacer(
		"../ganglion", root, // the reader's clone
		":8080", fmt.Sprint(":", first),
		":8081", fmt.Sprint(":", first+1),
		":8082", fmt.Sprint(":", first+2),
		"go -C ../ganglion run ./cmd/ganglion", binary, // built already
	)}
	text := w.read(filepath.Join(root, "docs/tutorial.md"))
	for _, command := range []string{"go mod tidy", "go test -update", "go test"} {
		if !strings.Contains(text, "\n"+command) {
			t.Fatalf("the tutorial has no command %q", command)
		}
	}
	w.run("go mod tidy && go test -update && go test && go build -o poll .")

	program := filepath.Join(w.dir, "poll")
	t.Chdir(w.dir) // for its folders "data" and "web"
	poll := harness.Start(t, program, 3)
	vote, ask := w.command(text, "curl -s .*poll/drinks.*vote.*"), w.command(text, "curl -s .*aggregates/poll/drinks")
	w.prints(vote, `"version":1`)
	w.prints(ask, `"tea":1`)
	w.prints(vote, `"reason":"voted"`)
	w.prints(strings.Replace(vote, `"option"`, `"opinion"`, 1), `"field":"[^"]*opinion`)
	w.run(w.command(text, "mkdir -p web.*"))

	p := open(t, poll.URLs[0]+"/")
	votes := func(p *page, want string) {
		t.Helper()
		p.until(fmt.Sprintf("document.querySelector('#votes').textContent === %q", want))
	}
	votes(p, `{"tea":1}`)
	click(p, "button")
	votes(p, `{"tea":2}`)
	click(p, "button")
	p.until("document.querySelector('#problem').textContent.includes('you have voted before')")

	leaders := open(t, poll.URLs[2]+"/leaders.html")
	leads := func(want string) {
		t.Helper()
		leaders.until(fmt.Sprintf("document.querySelector('#leaders').innerText === %q", want))
	}
	leads("tea: 2")
	w.prints(w.command(text, "curl -s .*queries/leaders.*"), `"votes":2`)
	w.run(w.command(text, ".* gen ts .*"))
	if contract := w.file("contract.ts"); !regexp.MustCompile(`(?s)vote: .*option: string.*leaders: .*votes: number`).MatchString(contract) {
		t.Errorf("the contract lacks the option of a vote, or the votes of a leader:\n%s", contract)
	}
	poll.Kill()
	poll = harness.Start(t, program, 3)
	another := open(t, poll.URLs[1]+"/")
	votes(another, `{"tea":2}`)
	click(another, "button:nth-of-type(2)")
	votes(p, `{"tea":2,"coffee":1}`)
	leads("tea: 2\ncoffee: 1")
	p.screenshot("tutorial")
	poll.Kill()

	w.local = strings.NewReplacer(`"n1",`, `"n1", Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0",`)
	embedding := w.read(filepath.Join(root, "docs/embedding.md"))
	w.run(vet + " && go build -o poll .")
	t.Setenv("STORE", filepath.Join(w.dir, "data"))
	node := harness.Start(t, program, 1)
	w.prints("curl -s "+node.URLs[0]+"/v1/aggregates/poll/drinks", `"coffee":1`)
	node.Signal(syscall.SIGTERM)
	if code := node.Wait(); code != 0 {
		t.Errorf("the node exits with status %d:\n%s", code, node.Output())
	}

	short := regexp.MustCompile("(?s)```go\n(package main.*?)```").FindStringSubmatch(embedding)
	if short == nil {
		t.Fatal("docs/embedding.md has no program of ten lines")
	}
	if err := os.WriteFile(filepath.Join(w.dir, "main.go"), []byte(short[1]), 0o600); err != nil {
		t.Fatal(err)
	}
	w.run("go mod tidy && " + vet + " && go build -o poll .")
	w.prints("./poll schema", `"vote"`)
}

// vet has the settings of make lint, which has vetted the dependencies.
const vet = "CGO_ENABLED=0 GOFLAGS=-tags=grpcnotrace,nopgxregisterdefaulttypes go vet ."

// workdir is a folder outside the workspace with the files of a page.
type workdir struct {
	t     *testing.T
	dir   string
	local *strings.Replacer // replaces the ports and paths of a page with those of the test
}

// read writes the files of a page, such as "```go main.go", and returns its text.
func (w *workdir) read(page string) string {
	w.t.Helper()
	raw, err := os.ReadFile(page)
	if err != nil {
		w.t.Fatal(err)
	}
	text := w.local.Replace(string(raw))
	files := regexp.MustCompile("(?ms)^```\\S+ (\\S+)\n(.*?)^```$").FindAllStringSubmatch(text, -1)
	if len(files) == 0 {
		w.t.Fatalf("%s has no file", page)
	}
	for _, f := range files {
		w.write(f[1], f[2])
	}
	return text
}

// write writes a file.
func (w *workdir) write(name, text string) {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// file returns the content of a file.
func (w *workdir) file(name string) string {
	raw, err := os.ReadFile(filepath.Join(w.dir, name))
	if err != nil {
		w.t.Error(err)
	}
	return string(raw)
}

// command returns the first line of a page that matches.
func (w *workdir) command(text, pattern string) string {
	w.t.Helper()
	line := regexp.MustCompile("(?m)^" + pattern + "$").FindString(text)
	if line == "" {
		w.t.Fatalf("no command of the page matches %q", pattern)
	}
	return line
}

// run runs commands in a shell and returns their output.
func (w *workdir) run(commands string) string {
	w.t.Helper()
	out, err := w.try(commands)
	if err != nil {
		w.t.Fatalf("%s: %v\n%s", commands, err, out)
	}
	return out
}

// try runs commands in a shell and returns their output. It sets -race, so that go
// reuses the objects that it built for other tests, and turns vet off, which would read
// all of them.
func (w *workdir) try(commands string) (string, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-ec", commands)
	cmd.Dir = w.dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-race -vet=off")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// prints runs commands and checks that their output matches a pattern.
func (w *workdir) prints(commands, pattern string) {
	w.t.Helper()
	if out := w.run(commands); !regexp.MustCompile(pattern).MatchString(out) {
		w.t.Errorf("%s prints %s, want a match of %s", commands, out, pattern)
	}
}
