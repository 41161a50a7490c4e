package e2e

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ganglion-es/ganglion/test/harness"
)

// TestThreeNodesWithTLS runs a cluster with certificates of ganglion certs. Under
// load it replaces the certificate of a node, and kills another node, so that new
// links use it.
func TestThreeNodesWithTLS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "certs")
	makeCerts := func(nodes ...string) {
		t.Helper()
		args := []string{"certs", "--dir", dir}
		for _, n := range nodes {
			args = append(args, "--node", n)
		}
		if out, errs, code := call(t, args...); code != 0 || !strings.Contains(out, nodes[0]+".pem") {
			t.Fatalf("exit %d: %s%s", code, out, errs)
		}
	}
	makeCerts("n1", "n2", "n3")
	c := startTrio(t, database(t), "--peer-tls-cert", filepath.Join(dir, "{node}.pem"),
		"--peer-tls-key", filepath.Join(dir, "{node}.key"), "--peer-tls-ca", filepath.Join(dir, "ca.pem"))
	var replaced, restarted sync.Once
	c.run(workload{commands: load(8_000), counters: 300, sessions: 32, followers: load(24), during: func(done float64) {
		if done > 0.3 {
			replaced.Do(func() {
				for _, file := range []string{"n1.pem", "n1.key"} {
					if err := os.Rename(filepath.Join(dir, file), filepath.Join(dir, file+".old")); err != nil {
						t.Error(err)
					}
				}
				makeCerts("n1")
				c.members[1].Kill()
			})
		}
		if done > 0.6 {
			restarted.Do(func() { c.start(1) })
		}
	}})
	c.settled()
	if out := c.members[0].Output(); !strings.Contains(out, "read new peer certificates") {
		t.Error("the node did not read its new certificate")
	}
	for _, i := range []int{0, 2} { // the restarted node has new counters
		s, err := harness.Status(c.urls()[i])
		if err != nil {
			t.Fatal(err)
		}
		if s.Commands.Forwarded == 0 {
			t.Errorf("%s forwarded nothing over its links", s.Node)
		}
	}
}

// TestGossipKeyRotation changes the gossip key of a cluster under load, in the
// steps of docs/security.md. No node loses another.
func TestGossipKeyRotation(t *testing.T) {
	dir := t.TempDir()
	key := func() string {
		raw := make([]byte, 32)
		rand.Read(raw)
		return base64.StdEncoding.EncodeToString(raw)
	}
	name := func(key string) string { // as nodes show it
		raw, _ := base64.StdEncoding.DecodeString(key)
		sum := sha256.Sum256(raw)
		return hex.EncodeToString(sum[:4])
	}
	file := func(i int) string { return filepath.Join(dir, fmt.Sprintf("n%d", i+1)) }
	write := func(i int, keys ...string) {
		t.Helper()
		name := file(i)
		err := os.WriteFile(name+".new", []byte(strings.Join(keys, "\n")+"\n"), 0o600)
		if err == nil {
			err = os.Rename(name+".new", name)
		}
		if err != nil {
			t.Error(err)
		}
	}
	before, after := key(), key()
	for i := range 3 {
		write(i, before)
	}
	c := startTrio(t, database(t), "--gossip-key-file", filepath.Join(dir, "{node}"), "--suspect", "5s") // a short silence on a link is no lost node

	var steps []func()
	for _, keys := range [][]string{{before, after}, {after, before}, {after}} {
		steps = append(steps, func() {
			for i := range c.members {
				write(i, keys...)
			}
			harness.Eventually(t, "all nodes read the keys", func() error {
				for _, url := range c.urls() {
					s, err := harness.Status(url)
					if err != nil {
						return err
					}
					if len(s.Members) != 3 {
						t.Errorf("%s sees %d members", s.Node, len(s.Members))
					}
					if len(s.GossipKeys) != len(keys) || s.GossipKeys[0] != name(keys[0]) {
						return fmt.Errorf("%s has the keys %v", s.Node, s.GossipKeys)
					}
				}
				return nil
			})
		})
	}
	c.run(workload{commands: load(4_000), counters: 300, sessions: 16, followers: load(24), noErrors: true, steps: steps})
	c.settled()
	for _, n := range c.members {
		if out := n.Output(); strings.Contains(out, "member gone") || strings.Contains(out, "Decrypt packet failed") {
			t.Errorf("a node lost another")
		}
	}

	// A node with the old key does not join; with the new key it does.
	write(0, before)
	late := harness.Start(t, binary, 1, "node", "--name", "n4", "--store", c.store, "--listen", "127.0.0.1:0",
		"--peer-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0", "--join", c.seeds[1], "--gossip-key-file", file(0))
	if s, err := harness.Status(late.URLs[0]); err != nil || len(s.Members) != 1 {
		t.Errorf("with the old key: %d members, %v", len(s.Members), err)
	}
	write(0, after)
	harness.Eventually(t, "the node joins with the new key", func() error {
		s, err := harness.Status(late.URLs[0])
		if err == nil && len(s.Members) != 4 {
			err = fmt.Errorf("%d members", len(s.Members))
		}
		return err
	})
}

// TestNodeAcceptsOnlyValidTokens runs a node with a secret, and sends it tokens that
// ganglion token made, valid and invalid ones.
func TestNodeAcceptsOnlyValidTokens(t *testing.T) {
	t.Parallel()
	secrets := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(secrets, []byte(strings.Repeat("a secret", 8)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	revoked := filepath.Join(t.TempDir(), "revoked")
	revoke := func(args ...string) {
		t.Helper()
		if out, errs, code := call(t, append([]string{"revoke", "--jwt-revocations", revoked}, args...)...); code != 0 || !strings.HasPrefix(out, "revoked, in force until") {
			t.Fatalf("exit %d: %s%s", code, out, errs)
		}
	}
	revoke("--token-id", "some", "--for", "1h")
	node := harness.Start(t, binary, 1, "node", "--name", "n1", "--store", t.TempDir(),
		"--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--gossip-listen", "127.0.0.1:0",
		"--auth", "jwt", "--jwt-hmac-file", secrets, "--jwt-issuer", "us", "--jwt-audience", "them", "--jwt-leeway", "0s", "--jwt-revocations", revoked)
	if strings.Contains(node.Output(), "DEVELOPMENT") {
		t.Error("the node warns of development authentication")
	}
	token := func(args ...string) string {
		t.Helper()
		out, errs, code := call(t, append([]string{"token", "--jwt-hmac-file", secrets}, args...)...)
		if code != 0 || errs != "" {
			t.Fatalf("exit %d: %s", code, errs)
		}
		return strings.TrimSpace(out)
	}
	good := token("--client", "ada", "--jwt-issuer", "us", "--jwt-audience", "them", "--claim", "level=3")

	for name, c := range map[string]struct {
		authorization string
		status        int
		text          string
	}{
		"a good token":      {"Bearer " + good, 200, `"version":1`},
		"another audience":  {"Bearer " + token("--client", "ada", "--jwt-issuer", "us", "--jwt-audience", "others"), 401, "aud"},
		"another issuer":    {"Bearer " + token("--client", "ada", "--jwt-audience", "them"), 401, "iss"},
		"changed":           {"Bearer " + good[:len(good)-4] + "AAAA", 401, "signature"},
		"a development one": {"Bearer dev:ada", 401, "JWT"},
		"nothing":           {"", 401, "unauthenticated"},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, node.URLs[0]+"/v1/commands",
			strings.NewReader(`{"id":"1","aggregate":"counter/jwt","command":"add","data":{"by":1}}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", c.authorization)
		if c.authorization == "" {
			req.Header.Del("Authorization")
		}
		resp, err := harness.HTTP.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || !strings.Contains(string(body), c.text) {
			t.Errorf("%s: %s, %s, %v, want %q", name, resp.Status, body, err, c.text)
		}
	}
	if out, errs, code := call(t, "events", "--url", node.URLs[0], "--token", good, "--stream", "counter/jwt", "--after", "0"); code != 0 || !strings.Contains(out, `"event":"added"`) {
		t.Errorf("events: exit %d, %s%s", code, out, errs)
	}
	if session, err := harness.Dial(context.Background(), harness.WS(node.URLs[0]), "ada", nil); err == nil {
		session.Close()
		t.Error("a client without a token was accepted")
	}
	revoke("--client", "ada")
	harness.Eventually(t, "a revoked token is refused", func() error {
		_, errs, code := call(t, "events", "--url", node.URLs[0], "--token", good, "--stream", "counter/jwt", "--after", "0")
		if code == 0 || !strings.Contains(errs, "revoked") {
			return fmt.Errorf("exit %d, %s", code, errs)
		}
		return nil
	})
}

// TestContradictoryAuthenticationFlagsAreRefused checks that wrong combinations of
// flags are refused in one sentence, before the node starts anything.
func TestContradictoryAuthenticationFlagsAreRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secrets, short := filepath.Join(dir, "secrets"), filepath.Join(dir, "short")
	for name, content := range map[string]string{secrets: strings.Repeat("a secret", 8), short: "hunter2"} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	node := func(args ...string) []string {
		return append([]string{"node", "--name", "n", "--store", dir, "--gossip-listen", "127.0.0.1:0"}, args...)
	}
	for text, args := range map[string][]string{
		"set --jwt-hmac-file or --jwt-jwks": node("--auth", "jwt"),
		"exclude each other":                node("--auth", "jwt", "--jwt-hmac-file", secrets, "--jwt-jwks", secrets),
		"require --auth jwt":                node("--jwt-hmac-file", secrets),
		"must not be negative":              node("--auth", "jwt", "--jwt-hmac-file", secrets, "--jwt-leeway=-1s"),
		"--jwt-jwks-insecure":               node("--auth", "jwt", "--jwt-jwks", "http://example.com/keys"),
		"not a JSON Web Key Set":            node("--auth", "jwt", "--jwt-jwks", secrets),
		"needs at least 32":                 node("--auth", "jwt", "--jwt-hmac-file", short),
		"none: no such file":                node("--auth", "jwt", "--jwt-hmac-file", filepath.Join(dir, "none")),
		"--auth does not accept":            node("--auth", "basic"),
		"--jwt-hmac-file is missing":        {"token", "--client", "ada"},
		"client id":                         {"token", "--client", "a/b", "--jwt-hmac-file", secrets},
		"NAME=VALUE":                        {"token", "--client", "ada", "--claim", "level", "--jwt-hmac-file", secrets},
		"claim sub is reserved":             {"token", "--client", "ada", "--claim", "sub=bob", "--jwt-hmac-file", secrets},
		"must be at least one second":       {"token", "--client", "ada", "--expires-in", "0s", "--jwt-hmac-file", secrets},
		"is not a revocation":               node("--auth", "jwt", "--jwt-hmac-file", secrets, "--jwt-revocations", short),
		"set --client, --token-id or":       {"revoke", "--jwt-revocations", short},
		"--token-id or --everybody":         {"revoke", "--jwt-revocations", short, "--client", ""},
		"[client everybody] were all set":   {"revoke", "--jwt-revocations", short, "--client", "ada", "--everybody"},
		"at least the lifetime of tokens":   {"revoke", "--jwt-revocations", short, "--client", "ada", "--for", "0s"},
		`"../n1" cannot name a certificate`: {"certs", "--dir", dir, "--node", "../n1"},
		"--node is missing":                 {"certs", "--dir", dir},
	} {
		out, errs, code := call(t, args...)
		last := lastLine(errs)
		if code != 2 || out != "" || !strings.HasPrefix(last, "ganglion: ") || !strings.Contains(last, text) {
			t.Errorf("%v: exit %d, %q, want %q", args, code, last, text)
		}
		if strings.Contains(errs, "hunter2") {
			t.Errorf("%v: a secret is shown", args)
		}
	}
}
