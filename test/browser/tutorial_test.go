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

// TestTheTutorial does what docs/tutorial.md says, in a folder outside the
// workspace: it writes the files, runs the commands, and votes in the page.
// Then it makes of it the program of docs/embedding.md, and runs that.
func TestTheTutorial(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	first := freePorts(t)
	o := &outside{t: t, dir: t.TempDir(), local: strings.NewReplacer(
		"../ganglion", root, // where its reader has the clone
		":8080", fmt.Sprint(":", first),
		":8081", fmt.Sprint(":", first+1),
		"go -C ../ganglion run ./cmd/ganglion", binary, // which is that, built
	)}
	text := o.read(filepath.Join(root, "docs/tutorial.md"))
	for _, command := range []string{"go mod tidy", "go test -update", "go test"} {
		if !strings.Contains(text, "\n"+command) {
			t.Fatalf("the tutorial does not say %q", command)
		}
	}
	o.run("go mod tidy && go test -update && go test && go build -o poll .")

	program := filepath.Join(o.dir, "poll")
	t.Chdir(o.dir) // for its folders "data" and "web"
	poll := harness.Start(t, program, 3)
	vote, ask := o.command(text, "curl -s .*poll/drinks.*vote.*"), o.command(text, "curl -s .*aggregates/poll/drinks")
	o.says(vote, `"version":1`)
	o.says(ask, `"tea":1`)
	o.says(vote, `"reason":"voted"`)
	o.says(strings.Replace(vote, `"option"`, `"opinion"`, 1), `"field":"[^"]*opinion`)
	o.run(o.command(text, "mkdir -p web.*"))

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
	o.run(o.command(text, ".* gen ts .*"))
	if contract := o.file("contract.ts"); !regexp.MustCompile(`(?s)vote: .*option: string`).MatchString(contract) {
		t.Errorf("the contract says nothing of votes for an option:\n%s", contract)
	}
	poll.Kill()
	poll = harness.Start(t, program, 3)
	another := open(t, poll.URLs[1]+"/")
	votes(another, `{"tea":2}`)
	click(another, "button:nth-of-type(2)")
	votes(p, `{"tea":2,"coffee":1}`)
	p.screenshot("tutorial")
	poll.Kill()

	o.local = strings.NewReplacer(`"n1",`, `"n1", Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0",`)
	o.read(filepath.Join(root, "docs/embedding.md"))
	o.run("go vet . && go build -o poll .")
	t.Setenv("STORE", filepath.Join(o.dir, "data"))
	node := harness.Start(t, program, 1)
	o.says("curl -s "+node.URLs[0]+"/v1/aggregates/poll/drinks", `"coffee":1`)
	node.Signal(syscall.SIGTERM)
	if code := node.Wait(); code != 0 {
		t.Errorf("it ends with %d:\n%s", code, node.Output())
	}
}

// outside is a folder that is not in the workspace, made of a page's snippets.
type outside struct {
	t     *testing.T
	dir   string
	local *strings.Replacer // makes a page's ports and paths the test's
}

// read writes the files that a page shows, "```go main.go", and returns the
// page.
func (o *outside) read(page string) string {
	o.t.Helper()
	raw, err := os.ReadFile(page)
	if err != nil {
		o.t.Fatal(err)
	}
	text := o.local.Replace(string(raw))
	files := regexp.MustCompile("(?ms)^```\\S+ (\\S+)\n(.*?)^```$").FindAllStringSubmatch(text, -1)
	if len(files) == 0 {
		o.t.Fatalf("%s shows no file", page)
	}
	for _, f := range files {
		path := filepath.Join(o.dir, f[1])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			o.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(f[2]), 0o600); err != nil {
			o.t.Fatal(err)
		}
	}
	return text
}

// file is the content of a file.
func (o *outside) file(name string) string {
	raw, err := os.ReadFile(filepath.Join(o.dir, name))
	if err != nil {
		o.t.Error(err)
	}
	return string(raw)
}

// command is the line of a page that matches.
func (o *outside) command(text, pattern string) string {
	o.t.Helper()
	line := regexp.MustCompile("(?m)^" + pattern + "$").FindString(text)
	if line == "" {
		o.t.Fatalf("no command of the page matches %q", pattern)
	}
	return line
}

// run runs commands as the reader's shell does, and returns what they say. The
// race detector makes go use what was built for other tests.
func (o *outside) run(commands string) string {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(o.t.Context(), 5*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-ec", commands)
	cmd.Dir = o.dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-race")
	out, err := cmd.CombinedOutput()
	if err != nil {
		o.t.Fatalf("%s: %v\n%s", commands, err, out)
	}
	return string(out)
}

// says runs commands whose output is to match.
func (o *outside) says(commands, pattern string) {
	o.t.Helper()
	if out := o.run(commands); !regexp.MustCompile(pattern).MatchString(out) {
		o.t.Errorf("%s says %s, want a match of %s", commands, out, pattern)
	}
}
