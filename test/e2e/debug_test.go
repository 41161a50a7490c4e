package e2e

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

// archived returns the files in the folder of a .tar.gz. It decompresses files that
// are compressed.
func archived(t *testing.T, name string) map[string]string {
	t.Helper()
	unzip := func(r io.Reader) io.Reader {
		z, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	files := map[string]string{}
	for archive := tar.NewReader(unzip(strings.NewReader(read(t, name)))); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		_, short, _ := strings.Cut(header.Name, "/")
		var content io.Reader = archive
		if strings.HasSuffix(short, ".gz") {
			content = unzip(archive)
		}
		text, err := io.ReadAll(content)
		if err != nil {
			t.Fatal(err)
		}
		files[short] = string(text)
	}
}

// TestDebugGathersAllNodesWithoutSecrets freezes one of three nodes and kills
// another. It then searches the archive for the secrets of the cluster.
func TestDebugGathersAllNodesWithoutSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, errs, code := call(t, "certs", "--dir", dir, "--node", "n1", "--node", "n2", "--node", "n3", "--node", "operator"); code != 0 {
		t.Fatal(errs)
	}
	write := func(name, content string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	raw := make([]byte, 32)
	rand.Read(raw)
	gossip := base64.StdEncoding.EncodeToString(raw)
	const password, shared, claim = "PASSWORD-of-the-database", "SECRET-that-signs-all-the-tokens-0123456789", "CLAIM-that-is-private"
	store, err := url.Parse(database(t))
	if err != nil {
		t.Fatal(err)
	}
	store.User = url.UserPassword(store.User.Username(), password)
	hmac := write("jwt", shared+"\n")
	c := startTrio(t, store.String(), "--log-level", "debug", "--gossip-key-file", write("gossip", gossip+"\n"), "--auth", "jwt", "--jwt-hmac-file", hmac, "--jwt-revocations", write("revoked", ""),
		"--peer-tls-cert", filepath.Join(dir, "{node}.pem"), "--peer-tls-key", filepath.Join(dir, "{node}.key"), "--peer-tls-ca", filepath.Join(dir, "ca.pem"))

	token, errs, code := call(t, "token", "--jwt-hmac-file", hmac, "--client", "ada", "--claim", "diagnosis="+claim)
	if code != 0 {
		t.Fatal(errs)
	}
	token = strings.TrimSpace(token)
	for _, bearer := range []string{token, token[:len(token)-4] + "AAAA"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.members[0].URLs[0]+"/v1/commands?token="+bearer,
			strings.NewReader(`{"id":"1","aggregate":"counter/a","command":"add","data":{"by":1}}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+bearer)
		resp, err := harness.HTTP.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	// Other tasks of the process write to the same log.
	const beside = "the revocations of tokens can't be read"
	write("revoked", "nonsense\n")
	harness.Eventually(t, "n1 reads the revocations", func() error {
		if !strings.Contains(c.members[0].Output(), beside) {
			return errors.New(c.members[0].Output())
		}
		return nil
	})
	c.members[1].Signal(syscall.SIGSTOP)
	c.members[2].Kill()

	name := filepath.Join(dir, "debug.tar.gz")
	args := []string{
		"debug", "--url", c.members[0].URLs[0], "--output", name, "--timeout", "20s", "--peer-tls-cert", filepath.Join(dir, "operator.pem"),
		"--peer-tls-key", filepath.Join(dir, "operator.key"), "--peer-tls-ca", filepath.Join(dir, "ca.pem"),
	}
	out, errs, code := call(t, args...)
	if code != 0 || strings.TrimSpace(out) != name || !strings.Contains(errs, "n2: ") || !strings.Contains(errs, "n3: ") {
		t.Fatalf("exit %d: %s%s", code, out, errs)
	}
	if frozen, _, _ := strings.Cut(errs, "n3: "); !strings.Contains(errs, "accepts connections but does not answer") || strings.Contains(errs, "--peer-tls-cert") {
		t.Errorf("the message about a frozen node is %s", frozen)
	}
	if out, errs, code := call(t, "members", "--url", c.members[1].URLs[0]); code != 1 || !strings.Contains(errs, "frozen, paused") {
		t.Errorf("members of a frozen node: exit %d, %s%s", code, out, errs)
	}
	files := archived(t, name)
	for file, has := range map[string]string{
		"members.txt": "n1 ", "n1/readyz.txt": "200 OK\nready", "n1/cluster.json": `"node": "n1"`, "n1/metrics.txt": "ganglion_ready 1",
		"n1/log.txt": "level=DEBUG", "n1/goroutines.txt": "goroutine profile: total", "n1/heap.pb.gz": "",
		"n2/error.txt": "", "n3/error.txt": "",
	} {
		content, there := files[file]
		if !there || content == "" || !strings.Contains(content, has) {
			t.Errorf("%s does not contain %q: %.300q", file, has, content)
		}
	}
	var status node.ClusterStatus
	if err := json.Unmarshal([]byte(files["n1/cluster.json"]), &status); err != nil {
		t.Errorf("cluster.json: %v", err)
	}
	for _, want := range []string{"counter/a", beside} {
		if !strings.Contains(files["n1/log.txt"], want) {
			t.Errorf("the log lacks %q:\n%.3000s", want, files["n1/log.txt"])
		}
	}
	secrets := []string{password, shared, claim, gossip, string(raw), token, strings.Split(token, ".")[1]}
	for _, pem := range []string{"n1.key", "operator.key", "ca.key"} {
		secrets = append(secrets, strings.Split(read(t, filepath.Join(dir, pem)), "\n")[1])
	}
	for file, content := range files {
		for i, secret := range secrets {
			if bytes.Contains([]byte(content), []byte(secret)) {
				t.Errorf("%s has secret %d", file, i)
			}
		}
	}
	if _, errs, code := call(t, args...); code != 2 || !strings.Contains(errs, " exists: ") {
		t.Errorf("with an existing file: exit %d, %s", code, errs)
	}
}
