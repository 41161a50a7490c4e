package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestBadSecretFilesAreReportedUntilRepaired spoils and repairs each secret file
// that a running node reads again. Metrics and log report both.
func TestBadSecretFilesAreReportedUntilRepaired(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, errs, code := call(t, "certs", "--dir", dir, "--node", "n1"); code != 0 {
		t.Fatal(errs)
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, content string) {
		t.Helper()
		err := os.WriteFile(path("new"), []byte(content), 0o600)
		if err = errors.Join(err, os.Rename(path("new"), path(name))); err != nil {
			t.Fatal(err)
		}
	}
	write("gossip", strings.Repeat("e1", 32)+"\n")
	write("secrets", strings.Repeat("s", 64)+"\n")
	write("revoked", "")
	c := startCluster(t, database(t), []string{""}, "--gossip-key-file", path("gossip"), "--auth", "jwt", "--jwt-hmac-file", path("secrets"), "--jwt-revocations", path("revoked"),
		"--peer-tls-cert", path("n1.pem"), "--peer-tls-key", path("n1.key"), "--peer-tls-ca", path("ca.pem"))
	shown := func(bad string) {
		t.Helper()
		harness.Eventually(t, "bad files: "+bad, func() error {
			metrics := scrape(t, c.members[0].URLs[0])
			for _, use := range []string{"peers", "gossip", "tokens", "revocations"} {
				value := 0
				if use == bad {
					value = 1
				}
				if want := fmt.Sprintf("\nganglion_files_bad{use=%q} %d\n", use, value); !strings.Contains(metrics, want) {
					return fmt.Errorf("/metrics has no %s", strings.TrimSpace(want))
				}
			}
			out, errs, code := call(t, "members", "--url", c.members[0].URLs[0])
			if code != 0 || !strings.Contains(out, "n1       ready ") || strings.Contains(out, "\nn1: files of secrets are missing or not good") != (bad != "") {
				return errors.New(out + errs)
			}
			return nil
		})
	}
	shown("")
	for _, f := range []struct{ use, file, warning, repaired string }{
		{"peers", "n1.pem", "the changed peer certificates are invalid", "the peer certificates are valid again"},
		{"gossip", "gossip", "the changed gossip keys are invalid", "the gossip keys are valid again"},
		{"tokens", "secrets", "the keys that verify tokens can't be read", "the keys that verify tokens can be read again"},
		{"revocations", "revoked", "the revocations of tokens can't be read", "the revocations of tokens can be read again"},
	} {
		good, err := os.ReadFile(path(f.file))
		if err != nil {
			t.Fatal(err)
		}
		for _, spoil := range []func(){
			func() { write(f.file, "nonsense\n") },
			func() {
				if err := os.Remove(path(f.file)); err != nil {
					t.Fatal(err)
				}
			},
		} {
			spoil()
			shown(f.use)
			write(f.file, string(good))
			shown("")
		}
		for _, message := range []string{f.warning, f.repaired} {
			harness.Eventually(t, message, func() error {
				if n := strings.Count(c.members[0].Output(), message); n != 2 {
					return fmt.Errorf("%q is logged %d times, want 2:\n%s", message, n, c.members[0].Output())
				}
				return nil
			})
		}
	}
}
