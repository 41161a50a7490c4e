package cli

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ganglion-es/ganglion/domain"
)

// testProgram is the program with the aggregates of this repository.
func testProgram() *program {
	return newProgram(&domain.Catalog, Options{Pages: http.NotFoundHandler(), Examples: true})
}

// parsed parses a command line without running the command. If file is not "", it
// is the content of the configuration file.
func parsed(t *testing.T, file string, args ...string) (*cobra.Command, error) {
	t.Helper()
	if file != "" {
		name := filepath.Join(t.TempDir(), "node.toml")
		if err := os.WriteFile(name, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, "--config", name)
	}
	root := newRoot(testProgram())
	each(root, func(cmd *cobra.Command) {
		if !cmd.HasSubCommands() {
			cmd.RunE = func(*cobra.Command, []string) error { return nil }
		}
	})
	root.SetArgs(args)
	return root.ExecuteC()
}

// valueOf returns a flag's value, one item per line if it is a list.
func valueOf(cmd *cobra.Command, flag string) string {
	value := cmd.Flag(flag).Value
	if list, ok := value.(pflag.SliceValue); ok {
		return strings.Join(list.GetSlice(), "\n")
	}
	return value.String()
}

func TestFlagsOverrideEnvironmentOverridesFile(t *testing.T) {
	t.Setenv("GANGLION_NAME", "environment")
	t.Setenv("GANGLION_CLUSTER", "environment")
	cmd, err := parsed(t, `
name = "file"
cluster = "file"
advertise = "file"
store = "file"
join = ["a:1", "b,c:2"]
log-format = "json"
max-sessions = 7
drain-window = "10s"
insecure-peers = true
trace-ratio = 0.5
`, "node", "--name", "line")
	if err != nil {
		t.Fatal(err)
	}
	for flag, want := range map[string]string{
		"name": "line", "cluster": "environment", "advertise": "file", "store": "file", "join": "a:1\nb,c:2", "log-format": "json",
		"max-sessions": "7", "drain-window": "10s", "insecure-peers": "true", "trace-ratio": "0.5", "listen": ":8080",
	} {
		if got := valueOf(cmd, flag); got != want {
			t.Errorf("--%s is %q, want %q", flag, got, want)
		}
	}
}

func TestOtherCommandsReadSharedSettingsFromFile(t *testing.T) {
	t.Parallel()
	cmd, err := parsed(t, `store = "there"`+"\n"+`roles = ["domain"]`, "verify")
	if err != nil || valueOf(cmd, "store") != "there" {
		t.Errorf("verify reads %q: %v", valueOf(cmd, "store"), err)
	}
	// The --join of a node and that of ring have different meanings.
	cmd, err = parsed(t, `join = ["n1:7946"]`, "ring")
	if err != nil || valueOf(cmd, "join") != "" {
		t.Errorf("ring reads %q: %v", valueOf(cmd, "join"), err)
	}
}

func TestConfigurationFileErrorsSuggestCorrections(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`stroe = "x"`:                   `unknown key "stroe": did you mean "store"?`,
		`store_password_file = "x"`:     `did you mean "store-password-file"?`,
		`something = 1`:                 `unknown key "something"`,
		"name = \"x\"\nname = \"y\"":    "line 2",
		"store = \"x\"\nlisten = :8080": "line 2",
		`max-sessions = "many"`:         "max-sessions",
		`drain-window = 5`:              "drain-window",
		`roles = ["boss"]`:              "boss",
		`name = 2020-01-01`:             "name must be a string",
		"[node]\nname = \"x\"":          `unknown key "node"`,
		`join = [1, 2]`:                 "join must be a list of strings",
	} {
		_, err := parsed(t, text, "node", "--store", "x")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	if _, err := parsed(t, "", "node", "--store", "x", "--config", "/nowhere"); err == nil || !strings.Contains(err.Error(), "can't read /nowhere") {
		t.Errorf("a missing file: %v", err)
	}
}

func TestWrongValueNamesItsSource(t *testing.T) {
	t.Setenv("GANGLION_MAX_SESSIONS", "many")
	t.Setenv("GANGLION_ROLES", "domain,boss")
	_, err := parsed(t, `drain-window = 5`, "node", "--store", "x")
	for _, want := range []string{"GANGLION_MAX_SESSIONS: --max-sessions does not accept \"many\"", "GANGLION_ROLES", "domain or gateway"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %s", err, want)
		}
	}
	t.Setenv("GANGLION_MAX_SESSIONS", "7")
	t.Setenv("GANGLION_ROLES", "domain")
	if _, err := parsed(t, `drain-window = 5`, "node", "--store", "x"); err == nil || !strings.Contains(err.Error(), "node.toml: --drain-window") {
		t.Errorf("%v does not name the file", err)
	}
	if _, err := parsed(t, "", "dev"); err != nil {
		t.Errorf("a variable of another command is checked: %v", err)
	}
}

func TestMisspelledVariablesAreReported(t *testing.T) {
	t.Parallel()
	var got []string
	for _, err := range misspelled(newRoot(testProgram()), []string{
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

func TestPrintedConfigurationCanBeReadBackWithoutPasswords(t *testing.T) {
	t.Setenv("GANGLION_CLUSTER", "blue")
	cmd, err := parsed(t, `join = ["a:1", "b:2"]`, "node",
		"--store", "postgres://u:hush@db/x?sslmode=disable&sslpassword=hush2", "--jwt-hmac-file", "keys", "--insecure-peers")
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printConfig(&out, cmd.Flags()); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	for _, want := range []string{
		`cluster = "blue" # GANGLION_CLUSTER`, `join = ["a:1", "b:2"] # file`, `insecure-peers = true # command line`,
		`jwt-hmac-file = "keys" # command line`, `listen = ":8080" # default`, `drain-window = "5s" # default`, "# advertise is not set",
	} {
		if !strings.Contains(text, want+"\n") {
			t.Errorf("%q is missing from\n%s", want, text)
		}
	}
	if strings.Contains(text, "hush") {
		t.Errorf("a password is printed:\n%s", text)
	}
	t.Setenv("GANGLION_CLUSTER", "green")
	cmd, err = parsed(t, text, "node")
	if err != nil || valueOf(cmd, "cluster") != "green" || valueOf(cmd, "join") != "a:1\nb:2" {
		t.Errorf("the printed file is read as %q and %q: %v", valueOf(cmd, "cluster"), valueOf(cmd, "join"), err)
	}
}

func TestConfigCheckReportsEverything(t *testing.T) {
	t.Setenv("GANGLION_LISTN", ":1")
	root := newRoot(testProgram())
	root.SetArgs(strings.Fields("config check --store x --peer-listen nonsense --max-sessions=-1 --gossip-key-file /nowhere --peer-tls-cert only.pem"))
	err := root.ExecuteContext(t.Context())
	for _, want := range []string{"GANGLION_LISTN", "peer-listen", "Sessions", "/nowhere", "go together"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %s", err, want)
		}
	}

	root = newRoot(testProgram())
	root.SetArgs(strings.Fields("config check --store x --store-password-file /no/password --gossip-key-file /no/gossip " +
		"--auth jwt --jwt-hmac-file /no/jwt --jwt-revocations /no/revoked --peer-tls-cert /no/cert --peer-tls-key /no/key --peer-tls-ca /no/ca --trace-ratio 2"))
	err = root.ExecuteContext(t.Context())
	for _, want := range []string{"/no/password", "/no/gossip", "/no/jwt", "/no/revoked", "/no/cert", "/no/key", "/no/ca", "trace-ratio"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %s", err, want)
		}
	}
}

func TestConfigurationReferenceIsCurrent(t *testing.T) {
	t.Parallel()
	var want bytes.Buffer
	if err := writeReference(&want, newRoot(testProgram())); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.Bytes()) {
		t.Error("docs/configuration.md differs from the code: run 'make generate'")
	}
}
