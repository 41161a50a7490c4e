package trust

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestInvalidPeerFilesAreRejected(t *testing.T) {
	t.Parallel()
	a, b := certs(t), certs(t)
	for want, files := range map[string]PeerTLS{
		"go together":                     {Cert: a.Cert, Key: a.Key},
		"no such file":                    {Cert: a.Cert, Key: a.Key, CA: a.CA + ".none"},
		"private key does not match":      {Cert: a.Cert, Key: b.Key, CA: a.CA},
		"does not verify the node's":      {Cert: a.Cert, Key: a.Key, CA: b.CA},
		"has no certificate":              {Cert: a.Cert, Key: a.Key, CA: a.Key},
		"failed to find any PEM data":     {Cert: empty(t), Key: a.Key, CA: a.CA},
		"failed to find certificate PEM ": {Cert: a.Key, Key: a.Key, CA: a.CA},
	} {
		if _, err := files.Load(slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

func empty(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestMakeCertsOverwritesNothing(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "certs")
	written, err := MakeCerts(dir, []string{"n1", "n2"})
	if err != nil || len(written) != 6 {
		t.Fatal(written, err)
	}
	before := contents(t, dir)
	for want, nodes := range map[string][]string{
		"exists":           {"n3", "n1"},
		"cannot name":      {"../n4"},
		"not ca":           {"ca"},
		"twice":            {"n5", "n5"},
		"no node is named": nil,
	} {
		if written, err := MakeCerts(dir, nodes); err == nil || len(written) > 0 || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, %v lacks %q", nodes, written, err, want)
		}
	}
	written, err = MakeCerts(dir, []string{"n3"})
	if err != nil || len(written) != 2 {
		t.Fatal(written, err)
	}
	after := contents(t, dir)
	for name, content := range before {
		if after[name] != content {
			t.Errorf("%s was changed", name)
		}
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); strings.HasSuffix(name, ".key") && mode != 0o600 {
			t.Errorf("%s is readable by others: %v", name, mode)
		}
	}
	file := func(name string) string { return filepath.Join(dir, name) }
	addr := serveLinks(t, PeerTLS{Cert: file("n1.pem"), Key: file("n1.key"), CA: file("ca.pem")}, slog.New(slog.DiscardHandler))
	if err := call(t, addr, clientOf(t, PeerTLS{Cert: file("n3.pem"), Key: file("n3.key"), CA: file("ca.pem")})); err != nil {
		t.Errorf("a node added later: %v", err)
	}

	if err := os.Remove(file("ca.key")); err != nil {
		t.Fatal(err)
	}
	if written, err := MakeCerts(dir, []string{"n4"}); err == nil || len(written) > 0 {
		t.Errorf("half an authority: %v, %v", written, err)
	}
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, e := range entries {
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		files[e.Name()] = string(raw)
	}
	return files
}
