package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	ganglion "github.com/ganglion-es/ganglion/client/go"
	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest"
	"github.com/ganglion-es/ganglion/test/harness"
)

// recipe returns the code block in a language under a heading of a
// page of docs, with each old text replaced by a new one. The test fails
// if the block does not contain an old text exactly once.
func recipe(t *testing.T, page, heading, language string, replace map[string]string) string {
	t.Helper()
	_, section, found := strings.Cut(read(t, "../../docs/"+page), "\n"+heading+"\n")
	block := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindStringSubmatch(section)
	if !found || block == nil {
		t.Fatalf("docs/%s has no %s recipe under %q", page, language, heading)
	}
	text := block[1]
	for old, replacement := range replace {
		if strings.Count(text, old) != 1 {
			t.Fatalf("the recipe under %q has %q %d times, want once", heading, old, strings.Count(text, old))
		}
		text = strings.Replace(text, old, replacement, 1)
	}
	return text
}

// program returns the path of a program, which scripts/test.sh installs.
func program(t *testing.T, name, debianPackage string) string {
	t.Helper()
	for _, candidate := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(candidate); err == nil {
			return path
		}
	}
	t.Fatalf("%s is missing: scripts/test.sh installs Debian's package %s", name, debianPackage)
	return ""
}

// background runs a program until the end of the test, and logs its output if the
// test failed.
func background(t *testing.T, path string, args ...string) {
	t.Helper()
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()                          // the signal ended it
		log.Close()
		if t.Failed() {
			t.Logf("%s wrote:\n%s", path, read(t, log.Name()))
		}
	})
}

// fetch returns the status and body of a response.
func fetch(url string) (int, string, error) {
	resp, err := harness.HTTP.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// fromPage sends requests like a browser on a page of an origin.
type fromPage struct{ origin string }

func (p fromPage) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Origin", p.origin)
	return http.DefaultTransport.RoundTrip(req)
}

// TestNginxRecipeServesPagesAndWebSockets runs the nginx recipe of
// docs/run.md in front of a node and a stopped gateway. It loads a page, and
// sends and subscribes like that page, over WebSocket and Server-Sent Events.
func TestNginxRecipeServesPagesAndWebSockets(t *testing.T) {
	t.Parallel()
	node := harness.Start(t, binary, 1, "dev", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	pages, err := filepath.Abs("../../examples/auction")
	if err != nil {
		t.Fatal(err)
	}
	address := harness.FreeAddress(t)
	dir := t.TempDir()
	site := recipe(t, "run.md", "### nginx", "nginx", map[string]string{
		"n1.internal:8080": strings.TrimPrefix(node.URLs[0], "http://"),
		"n2.internal:8080": harness.FreeAddress(t),
		"listen 80;":       "listen " + address + ";",
		"/var/www/app":     pages,
	})
	conf := "daemon off; pid nginx.pid; error_log stderr;\nevents {}\nhttp {\naccess_log off;\n"
	if os.Getuid() == 0 { // workers read the folders of the test
		conf = "user root;\n" + conf
	}
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		conf += kind + "_temp_path " + filepath.Join(dir, kind) + ";\n"
	}
	if err := os.WriteFile(filepath.Join(dir, "nginx.conf"), []byte(conf+site+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, program(t, "nginx", "nginx-light"), "-p", dir, "-c", "nginx.conf", "-e", "stderr")

	origin := "http://" + address
	harness.Eventually(t, "nginx serves the page", func() error {
		status, body, err := fetch(origin + "/index.html")
		if err != nil || status != 200 || !strings.Contains(body, "<html") {
			return fmt.Errorf("status %d, %v", status, err)
		}
		return nil
	})
	for path, want := range map[string]int{"/readyz": 200, "/v1/openapi.yaml": 200, "/v1/cluster": 404, "/v1/cluster?aggregate=counter/a": 404, "/v1/%63luster": 404, "/metrics": 404} {
		for range 4 { // nginx tries each of the two gateways
			if status, _, err := fetch(origin + path); status != want {
				t.Errorf("%s: status %d (%v), want %d", path, status, err, want)
			}
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	browser := &http.Client{Transport: fromPage{origin}}
	client, err := ganglion.Connect(ctx, ganglion.Options{URLs: []string{origin}, ClientID: "ada", HTTPClient: browser, OnError: func(e *ganglion.Error) { t.Error(e) }})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	clicks := counters.Aggregate(client, "clicks")
	result, err := clicks.Send(ctx, "add", map[string]int{"by": 3})
	if err != nil || result.Version != 1 {
		t.Fatalf("the command: %+v, %v", result, err)
	}
	for e, err := range clicks.Subscribe(ctx, ganglion.FromStart()) {
		if err != nil || e.Data.By != 3 {
			t.Errorf("the subscription got %+v, %v", e, err)
		}
		break
	}
	liveEvents(ctx, t, browser, origin)
}

// liveEvents reads a stream of Server-Sent Events up to its live event, which
// arrives only if the proxy does not buffer.
func liveEvents(ctx context.Context, t *testing.T, browser *http.Client, url string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/v1/streams/counter/clicks/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Authorization", "Bearer dev:bob")
	resp, err := browser.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for got := false; lines.Scan(); {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && !got {
			var event struct{ Version int }
			if err := json.Unmarshal([]byte(data), &event); err != nil || event.Version != 1 {
				t.Errorf("the stream starts with %s", data)
			}
			got = true
		}
		if lines.Text() == "event: live" && got {
			return
		}
	}
	t.Errorf("the stream ended before it was live: %s, %v", resp.Status, lines.Err())
}

// TestPgbouncerRecipeServesACluster connects three nodes to the database through
// pgbouncer with the settings of docs/postgresql.md, except addresses and passwords.
// Each node executes a command, and its event arrives at another node.
func TestPgbouncerRecipeServesACluster(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	server, err := postgrestest.StartServer(ctx, postgrestest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	settings := map[string]string{}
	_, section, _ := strings.Cut(recipe(t, "postgresql.md", "### pgbouncer", "ini", nil), "[pgbouncer]\n")
	for line := range strings.Lines(section) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), " = ")
		if ok && !strings.HasPrefix(name, "listen_") && !strings.HasPrefix(name, "auth_") {
			settings[name] = value
		}
	}
	if len(settings) != 4 {
		t.Fatalf("the recipe has the settings %v", settings)
	}
	pooler, err := postgrestest.StartPooler(ctx, server, settings)
	if err != nil {
		t.Fatal(err)
	}
	defer pooler.Close()

	c := startCluster(t, server.URLAt(pooler.Addr(), "postgres"), []string{"", "", ""})
	for i, url := range c.urls() {
		sender := &harness.Client{URLs: []string{url}, ID: "ada"}
		defer sender.Leave()
		counter := fmt.Sprint("c", i)
		if f, err := sender.Do(ctx, "counter/"+counter, "add", "k", map[string]int{"by": 3}); err != nil || f.Version != 1 {
			t.Errorf("the command at %s: %+v, %v", url, f, err)
		}
		there, err := ganglion.Connect(ctx, ganglion.Options{URLs: []string{c.urls()[(i+1)%3]}, ClientID: "bob"})
		if err != nil {
			t.Fatal(err)
		}
		defer there.Close()
		for e, err := range counters.Aggregate(there, counter).Subscribe(ctx, ganglion.FromStart()) {
			if err != nil || e.Data.By != 3 {
				t.Errorf("the subscription got %+v, %v", e, err)
			}
			break
		}
	}
}
