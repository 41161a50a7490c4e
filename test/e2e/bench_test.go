package e2e

import (
	"encoding/json"
	"os/exec"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestBenchLosesNothingWhenConnectionsAreCut loads two nodes with clients that cut
// their connections every 300 ms. No command or event is lost, and none fails.
func TestBenchLosesNothingWhenConnectionsAreCut(t *testing.T) {
	t.Parallel()
	dev := harness.Start(t, binary, 2, "dev", "--nodes", "2", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	out, _ := must(t, "bench", "--url", dev.URLs[0], "--url", dev.URLs[1], "--duration", "2s", "--rate", "50", "--connections", "4",
		"--subscribers", "4", "--aggregates", "6", "--reconnect-every", "300ms", "--timeout", "50s", "--json")
	var r struct {
		Sent, Acknowledged, Delivered, Cuts, Violations int
		Command                                         map[string]float64 `json:"command_ms"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if r.Sent == 0 || r.Acknowledged != r.Sent || r.Delivered != r.Sent || r.Cuts == 0 || r.Violations > 0 || !(r.Command["p50"] > 0 && r.Command["p99.9"] >= r.Command["p50"]) {
		t.Errorf("the report is %s", out)
	}
}

// TestBenchNamesMissingFlagsWithoutCounters runs bench against an application that
// lacks the command to send.
func TestBenchNamesMissingFlagsWithoutCounters(t *testing.T) {
	t.Parallel()
	dev := harness.Start(t, binary, 1, "dev", "--listen", "127.0.0.1:0", "--data", t.TempDir())
	for text, args := range map[string][]string{
		`no aggregates of type "order"`:        {"--type", "order"},
		`no command "subtract" of type "count`: {"--command", "subtract"},
	} {
		_, errs, code := call(t, append([]string{"bench", "--url", dev.URLs[0], "--duration", "1s"}, args...)...)
		if code != 2 || !strings.Contains(errs, text) || !strings.Contains(errs, "set --type, --command and --data") || !strings.Contains(errs, "counter (add)") || strings.Contains(errs, "promise") {
			t.Errorf("bench %v: exit %d, %q", args, code, errs)
		}
	}
	// A client may send to the inbox of another client, but not read it. This
	// refusal breaks no promise.
	out, errs, code := call(t, "bench", "--url", dev.URLs[0], "--duration", "1s", "--rate", "20", "--connections", "1", "--subscribers", "1", "--aggregates", "1",
		"--type", "client", "--command", "notify", "--data", `{"text":"hello"}`)
	if code != 1 || strings.Contains(errs, "promise") || strings.Contains(out, "BROKEN") || !strings.Contains(errs, "1 subscriptions were refused") {
		t.Errorf("a refused subscription: exit %d, %q\n%s", code, errs, out)
	}
}

// TestShellsAcceptCompletionScripts completes lines as a shell does, and loads the
// generated scripts into the installed shells.
func TestShellsAcceptCompletionScripts(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"mem":                     "members",
		"node --log-format ":      "text json",
		"node --roles ":           "domain gateway",
		"schema --format ":        "json asyncapi",
		"rebalance-sessions --dr": "--dry-run",
		"completion z":            "zsh",
	} {
		out, _ := must(t, append([]string{"__completeNoDesc"}, strings.Split(line, " ")...)...)
		words, _, _ := strings.Cut(out, ":") // the rest is for the shell
		if got := strings.Join(strings.Fields(words), " "); got != want {
			t.Errorf("'ganglion %s' is completed with %q, want %q", line, got, want)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		code, _ := must(t, "completion", shell)
		if !strings.Contains(code, "ganglion") {
			t.Errorf("the script for %s is %q", shell, code)
		}
		path, err := exec.LookPath(shell)
		if err != nil || shell == "zsh" { // zsh needs the set-up of a login shell
			continue
		}
		if out, err := exec.Command(path, "-c", code).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s prints %q (%v) for\n%s", shell, out, err, code)
		}
	}
}
