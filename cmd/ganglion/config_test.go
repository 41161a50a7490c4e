package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// parsed is a call of the program, with a configuration file if there is text
// for one.
func parsed(t *testing.T, file string, args ...string) (*cli, *kong.Context, error) {
	t.Helper()
	if file != "" {
		name := filepath.Join(t.TempDir(), "node.toml")
		if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", name)
	}
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	call, err := parser.Parse(args)
	return &c, call, err
}

func TestTheCommandLineGoesBeforeTheEnvironmentAndThatBeforeTheFile(t *testing.T) {
	t.Setenv("GANGLION_NAME", "environment")
	t.Setenv("GANGLION_CLUSTER", "environment")
	c, _, err := parsed(t, `
name = "file"
cluster = "file"
advertise = "file"
store = "file"
join = ["a:1", "b,c:2"]
log-format = "json"
max-sessions = 7
drain-window = "10s"
insecure-peers = true
`, "node", "--name", "line")
	if err != nil {
		t.Fatal(err)
	}
	n := c.Node
	got := []any{n.Name, n.Cluster, n.Advertise, n.Store, n.Join, c.LogFormat, n.MaxSessions, n.DrainWindow.String(), n.InsecurePeers, n.Listen}
	want := []any{"line", "environment", "file", "file", []string{"a:1", "b,c:2"}, "json", 7, "10s", true, ":8080"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestTheFileServesOtherCommandsToo(t *testing.T) {
	t.Parallel()
	c, _, err := parsed(t, `store = "there"`+"\n"+`roles = ["domain"]`, "verify")
	if err != nil || c.Verify.Store != "there" {
		t.Errorf("verify reads %q: %v", c.Verify.Store, err)
	}
	// What a node joins is not what an operator asks about.
	c, _, err = parsed(t, `join = ["n1:7946"]`, "ring")
	if err != nil || len(c.Ring.Join) > 0 {
		t.Errorf("ring reads %q: %v", c.Ring.Join, err)
	}
}

func TestWhatIsWrongInAFileIsSaidWithWhatToDo(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`stroe = "x"`:                   `there is no "stroe": did you mean "store"?`,
		`store_password_file = "x"`:     `did you mean "store-password-file"?`,
		`something = 1`:                 `there is no "something"`,
		"name = \"x\"\nname = \"y\"":    "line 2",
		"store = \"x\"\nlisten = :8080": "line 2",
		`max-sessions = "many"`:         "max-sessions",
		`drain-window = 5`:              "drain-window",
		`roles = ["boss"]`:              "boss",
		`name = 2020-01-01`:             "name can't be that",
		"[node]\nname = \"x\"":          `there is no "node"`,
		`join = [1, 2]`:                 "join has something else than texts",
	} {
		_, _, err := parsed(t, text, "node", "--store", "x")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	if _, _, err := parsed(t, "", "node", "--store", "x", "--config", "/nowhere"); err == nil || !strings.Contains(err.Error(), "can't read /nowhere") {
		t.Errorf("a file that is missing: %v", err)
	}
}

func TestMisspelledVariablesAreFound(t *testing.T) {
	t.Parallel()
	_, call, err := parsed(t, "", "version")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, err := range misspelled(call.Model, []string{
		"GANGLION_LISTEN=x", "GANGLION_LISTN=x", "GANGLION_DRAIN_WINDOWS=x", "PATH=x",
		"GANGLION_SERVICE_HOST=10.0.0.1", "GANGLION_PORT_8080_TCP=tcp://10.0.0.1:8080", "GANGLION_FAULTS=long",
	}) {
		got = append(got, err.Error())
	}
	want := []string{
		"GANGLION_LISTN sets nothing: did you mean GANGLION_LISTEN?",
		"GANGLION_DRAIN_WINDOWS sets nothing: did you mean GANGLION_DRAIN_WINDOW?",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestThePrintedConfigurationIsAFileWithoutPasswords(t *testing.T) {
	t.Setenv("GANGLION_CLUSTER", "blue")
	_, call, err := parsed(t, `join = ["a:1", "b:2"]`, "node",
		"--store", "postgres://u:hush@db/x?sslmode=disable&sslpassword=hush2", "--jwt-hmac-file", "keys", "--insecure-peers")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printConfig(&out, call); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{
		`cluster = "blue" # GANGLION_CLUSTER`, `join = ["a:1", "b:2"] # the file`, `insecure-peers = true # the command line`,
		`jwt-hmac-file = "keys" # the command line`, `listen = ":8080" # by default`, `drain-window = "5s" # by default`, "# advertise is not given",
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("%q is missing from\n%s", want, text)
		}
	}
	if strings.Contains(text, "hush") {
		t.Errorf("a password is printed:\n%s", text)
	}
	t.Setenv("GANGLION_CLUSTER", "green")
	if c, _, err := parsed(t, text, "node"); err != nil || c.Node.Cluster != "green" || !slices.Equal(c.Node.Join, []string{"a:1", "b:2"}) {
		t.Errorf("what was printed is read as %+v: %v", c.Node, err)
	}
}

func TestConfigCheckReportsEverything(t *testing.T) {
	t.Setenv("GANGLION_LISTN", ":1")
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	call, err := parser.Parse(strings.Fields("config check --store x --peer-listen nonsense --max-sessions=-1 --gossip-key-file /nowhere --peer-tls-cert only.pem"))
	if err != nil {
		t.Fatal(err)
	}
	err = c.Config.Check.Run(t.Context(), call, c.logger(new(slog.LevelVar)))
	for _, want := range []string{"GANGLION_LISTN", "peer-listen", "Sessions", "/nowhere", "go together"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %s", err, want)
		}
	}
}

func TestTheReferenceIsCurrent(t *testing.T) {
	t.Parallel()
	_, call, err := parsed(t, "", "version")
	if err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := writeReference(&want, call.Model); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("docs/configuration.md is not what the code says: run «make generate»")
	}
}
