package browser

import (
	"debug/elf"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/test/harness"
)

// TestRecipesWorkAsWritten follows docs/recipes.md, which extends the program of
// docs/tutorial.md: it writes the files outside of the workspace, runs the commands and
// the test of the whole service, uses the pages, changes a stored event, and runs the
// program as its Dockerfile says.
func TestRecipesWorkAsWritten(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	address := harness.FreeAddress(t)
	w := &workdir{t: t, dir: t.TempDir(), local: strings.NewReplacer(
		"../../ganglion", root, // as package.json sees the reader's clone
		"../ganglion", root,
		"127.0.0.1:8080", address,
	)}
	tutorial := w.read(filepath.Join(root, "docs/tutorial.md"))
	text := w.read(filepath.Join(root, "docs/recipes.md"))
	before, after := w.twice(text, "dish.go")
	w.write("dish.go", before)
	for _, command := range []string{"go mod tidy", "go test -update", "go build -o poll . && ./poll dev"} {
		w.command(text, regexp.QuoteMeta(command))
	}
	w.run(w.command(tutorial, "mkdir -p web.*"))
	w.run("go mod tidy && go test -update && go build -o poll .")
	buildVotes(w, root, text)

	program := filepath.Join(w.dir, "poll")
	t.Chdir(w.dir) // for the folder poll-data
	poll := harness.Start(t, program, 1, "dev", "--listen", address)
	url := poll.URLs[0]
	inbox := open(t, url+"/inbox.html?me=ada")
	inbox.until("document.querySelector('#unread').textContent === '0'")
	w.prints(strings.Replace(w.command(tutorial, "curl -s .*poll/drinks.*vote.*"), "dev:bob", "dev:ada", 1), `"version":1`)
	push := w.command(text, "curl -s .*client/ada.*")
	inbox.until("document.querySelector('#messages').innerText === '~receipt: your vote for tea counts'")
	w.prints(push, `"version":2`)
	w.prints(push, `"version":2`) // the same key
	inbox.until("document.querySelector('#messages').innerText.endsWith('counts\\nshop: your table is free') && document.querySelector('#unread').textContent === '2'")
	phone := open(t, url+"/inbox.html?me=ada")
	phone.until("document.querySelectorAll('#messages li').length === 2 && document.querySelector('#unread').textContent === '2'")
	click(phone, "button")
	for _, p := range []*page{inbox, phone} {
		p.until("document.querySelector('#unread').textContent === '0'")
		p.wantConsole("favicon.ico")
	}
	useVotes(t, url)
	w.prints(w.command(text, "curl -s .*dish/soup.*"), `"version":1`)

	say := func(p *page, text string) {
		t.Helper()
		value[bool](p, fmt.Sprintf("(document.querySelector('input').value = %q, true)", text))
		click(p, "form button")
	}
	ada, bob := open(t, url+"/room.html?me=ada"), open(t, url+"/room.html?me=bob")
	say(ada, "hello")
	bob.until("document.querySelector('#messages').innerText === 'ada: hello'")
	say(bob, "")
	bob.until("document.querySelector('#status').textContent.includes('1 byte to 1 kB')")
	poll.Signal(syscall.SIGTERM)
	if code := poll.Wait(); code != 0 {
		t.Errorf("the program exits with status %d:\n%s", code, poll.Output())
	}

	// The stored event: a renamed member fails the test, an upcaster passes it.
	w.write("dish.go", strings.NewReplacer("Euros", "Cents", "euros", "cents", "float64", "int", "4.5", "450").Replace(before))
	if out, err := w.try("go test -run TestPoll"); err == nil || !strings.Contains(out, "priced.1.json") || !strings.Contains(out, "add an upcaster") {
		t.Errorf("after a member of the event was renamed: %v\n%s", err, out)
	}
	w.write("dish.go", after)
	w.run("go test -update -run TestPoll")
	for form, want := range map[int]string{1: "euros", 2: "cents"} {
		if sample := w.file(fmt.Sprintf("testdata/events/dish/priced.%d.json", form)); !strings.Contains(sample, want) {
			t.Errorf("form %d of the event is %s", form, sample)
		}
	}
	w.run("export GOFLAGS=; " + w.command(text, "CGO_ENABLED=0 go build .*"))
	poll = harness.Start(t, program, 1, "dev", "--listen", address)
	w.prints("curl -s "+poll.URLs[0]+"/v1/aggregates/dish/soup", `"cents":435`)
	w.prints("curl -s "+poll.URLs[0]+"/v1/streams/dish/soup/events", `"cents":435`)
	for _, p := range []*page{ada, bob} { // they have connected again by themselves
		p.wantConsole("ERR_CONNECTION_REFUSED", "WebSocket connection to", "favicon.ico")
	}
	say(ada, "again")
	bob.until("document.querySelector('#messages').innerText === 'ada: hello\\nada: again'")
	poll.Kill()

	runImage(w, text)
}

// twice returns the two contents that a page has for a file.
func (w *workdir) twice(text, name string) (before, after string) {
	w.t.Helper()
	found := regexp.MustCompile("(?ms)^```\\S+ "+regexp.QuoteMeta(name)+"\n(.*?)^```$").FindAllStringSubmatch(text, -1)
	if len(found) != 2 {
		w.t.Fatalf("the page has %s %d times, want twice", name, len(found))
	}
	return found[0][1], found[1][1]
}

// buildVotes builds the page in React. By default it uses the compiler, React and the
// clients of this repository, which are installed; the long form runs the page's commands,
// which install Vite.
func buildVotes(w *workdir, root, text string) {
	w.t.Helper()
	w.run(w.command(text, `\./poll gen ts .*`))
	if os.Getenv("GANGLION_FAULTS") == "long" {
		w.run(w.command(text, "npm --prefix page install"))
		build, _, _ := strings.Cut(w.command(text, "npm --prefix page run build.*"), "#")
		w.run(build)
	} else {
		js, react := filepath.Join(root, "client/js"), filepath.Join(root, "client/react")
		modules := filepath.Join(w.dir, "page/node_modules")
		if err := os.MkdirAll(filepath.Join(modules, "@ganglion-es"), 0o755); err != nil {
			w.t.Fatal(err)
		}
		for name, installed := range map[string]string{
			"@ganglion-es/client": js, "@ganglion-es/react": react, "@types": filepath.Join(react, "node_modules/@types"),
			"react": filepath.Join(react, "node_modules/react"), "react-dom": filepath.Join(react, "node_modules/react-dom"),
		} {
			if err := os.Symlink(installed, filepath.Join(modules, name)); err != nil {
				w.t.Fatal(err)
			}
		}
		w.run(fmt.Sprintf("%s/node_modules/.bin/tsc --noEmit -p page && %[1]s/node_modules/.bin/esbuild page/src/main.tsx --bundle --format=esm --define:process.env.NODE_ENV='\"production\"' --outfile=web/votes/main.js --log-level=warning", js))
		w.write("web/votes/index.html", strings.Replace(w.file("page/index.html"), "/src/main.tsx", "./main.js", 1))
	}
	w.run(w.command(text, `go build -o poll \.`))
}

// useVotes votes on the page in React.
func useVotes(t *testing.T, url string) {
	t.Helper()
	p := open(t, url+"/votes/")
	p.until("document.querySelector('h1')?.innerText === 'Votes: 1 (live)' && document.querySelector('button').innerText === 'tea: 1'")
	click(p, "button")
	p.until("document.querySelector('h1').innerText === 'Votes: 2 (live)' && document.querySelector('button').innerText === 'tea: 2'")
	click(p, "button")
	p.until("document.querySelector('[role=alert]').innerText === 'once is enough'")
	p.wantConsole()
	p.screenshot("recipes")
}

// runImage runs the program as the Dockerfile says, with a variable for each setting, and
// builds the image where Docker runs.
func runImage(w *workdir, text string) {
	t := w.t
	t.Helper()
	file, err := elf.Open(filepath.Join(w.dir, "poll"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the program is not static, so it does not run in the image")
		}
	}
	instruction := func(name string) (words []string) {
		t.Helper()
		found := regexp.MustCompile(`(?m)^` + name + ` .*?(\[.*\])$`).FindStringSubmatch(w.file("Dockerfile"))
		if found == nil {
			t.Fatalf("the Dockerfile has no %s with a list", name)
		}
		if err := json.Unmarshal([]byte(found[1]), &words); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return words
	}
	image := t.TempDir()
	for _, c := range regexp.MustCompile(`(?m)^COPY (\S+) (/\S+)$`).FindAllStringSubmatch(w.file("Dockerfile"), -1) {
		if err := os.Link(filepath.Join(w.dir, c[1]), filepath.Join(image, c[2])); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(image)
	listen := harness.FreeAddress(t)
	ports := regexp.MustCompile(`^127.0.0.1:\d+$`)
	for _, v := range regexp.MustCompile(` -e (GANGLION_\w+)=(\S+)`).FindAllStringSubmatch(w.command(text, "docker run .*"), -1) {
		t.Setenv(v[1], ports.ReplaceAllString(v[2], "127.0.0.1:0"))
	}
	t.Setenv("GANGLION_STORE", postgrestest.EmptyURL(t))
	t.Setenv("GANGLION_LISTEN", listen)
	entry, health := instruction("ENTRYPOINT"), instruction("HEALTHCHECK")
	node := harness.Start(t, filepath.Join(image, entry[0]), 1, append(entry[1:], instruction("CMD")...)...)
	if out, err := exec.Command(filepath.Join(image, health[0]), health[1:]...).CombinedOutput(); err != nil {
		t.Errorf("the health check: %v\n%s", err, out)
	}
	if out, err := exec.Command(filepath.Join(image, entry[0]), "version").CombinedOutput(); err != nil || !strings.Contains(string(out), "v1.2.3") {
		t.Errorf("the version is %s (%v)", out, err)
	}
	votes := open(t, node.URLs[0]+"/votes/")
	votes.until("document.querySelector('h1')?.innerText === 'Votes: 0 (live)'")
	node.Signal(syscall.SIGTERM)
	if code := node.Wait(); code != 0 {
		t.Errorf("the node exits with status %d:\n%s", code, node.Output())
	}
	if exec.Command("docker", "info").Run() == nil {
		w.run(strings.Replace(w.command(text, "docker build .*"), "registry.example/poll:v1.2.3", "ganglion-recipes", 1))
	} else {
		t.Log("Docker does not run here: the image was not built")
	}
}
