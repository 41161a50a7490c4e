package node_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/gateway/token"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/node/trust"
	"github.com/ganglion-es/ganglion/test/harness"
)

// askConsole returns the status and the body of an answer of the console.
func askConsole(t *testing.T, url, token string) (int, string) {
	t.Helper()
	return askConsoleWith(t, harness.HTTP, url, token)
}

func askConsoleWith(t *testing.T, client *http.Client, url, token string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

func TestConsoleRolesComeFromTheToken(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	me := c.urls[0] + "/_ganglion/api/me"
	for _, test := range []struct {
		claim any
		code  int
		body  string
	}{
		{"viewer", 200, `"role":"viewer"`},
		{"reader", 200, `"role":"reader"`},
		{"operator", 200, `"role":"operator"`},
		{[]string{"clerk", "viewer", "reader"}, 200, `"role":"reader"`},
		{nil, 403, `the token of \"cem\" needs the claim ganglion_role with viewer, reader or operator`},
		{"admin", 403, `needs the claim`},
		{[]string{}, 403, `needs the claim`},
		{map[string]any{"operator": true}, 403, `needs the claim`},
		{3, 403, `needs the claim`},
	} {
		claims := map[string]any{}
		if test.claim != nil {
			claims["ganglion_role"] = test.claim
		}
		if code, body := askConsole(t, me, c.token(t, "cem", time.Hour, claims)); code != test.code || !strings.Contains(body, test.body) {
			t.Errorf("with the claim %v: %d %s, want %d and %s", test.claim, code, body, test.code, test.body)
		}
	}
	for token, want := range map[string]string{
		"":         "the console needs a token",
		"nonsense": "token",
	} {
		if code, body := askConsole(t, me, token); code != http.StatusUnauthorized || !strings.Contains(body, want) {
			t.Errorf("with the token %q: %d %s, want 401 and %q", token, code, body, want)
		}
	}
	short := c.token(t, "cem", time.Second, map[string]any{"ganglion_role": "operator"})
	harness.Eventually(t, "the token expires", func() error {
		if code, body := askConsole(t, me, short); code != http.StatusUnauthorized || !strings.Contains(body, "expired") {
			return fmt.Errorf("the answer is %d %s", code, body)
		}
		return nil
	})
}

func TestConsoleIsOffTheClientsPort(t *testing.T) {
	t.Parallel()
	port := harness.FreeAddress(t)
	dir := t.TempDir()
	urls, _ := harness.Serve(t, 1, func(ctx context.Context, ready func(string)) error {
		return node.Run(ctx, node.Config{
			Catalog: verdicts(), Name: "n1", Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0", Store: dir,
			ConsoleListen: port, Ready: ready,
		})
	})
	if code, body := askConsole(t, urls[0]+"/_ganglion/", ""); code != http.StatusNotFound {
		t.Errorf("the clients' port answers %d %s", code, body)
	}
	if code, body := askConsole(t, "http://"+port+"/_ganglion/", ""); code != http.StatusOK || !strings.Contains(body, "console.js") {
		t.Errorf("the console's port answers %d %s", code, body)
	}
	if code, body := askConsole(t, "http://"+port+"/_ganglion/api/me", `dev:ada {"ganglion_role":"viewer"}`); code != http.StatusOK || !strings.Contains(body, `"name":"ada","node":"n1","role":"viewer"`) {
		t.Errorf("a token for development: %d %s", code, body)
	}
	for _, path := range []string{"/", "/_ganglion"} { // redirect to the console
		if code, body := askConsole(t, "http://"+port+path, ""); code != http.StatusOK || !strings.Contains(body, "console.js") {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+port+"/_ganglion/api/me", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "evil.example" // whose name resolves to this machine
	response, err := harness.HTTP.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusForbidden {
		t.Errorf("a foreign host is answered %s", response.Status)
	}
}

func TestConsoleOffLoopbackNeedsPeerCertificates(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := trust.MakeCerts(dir, []string{"n1"}); err != nil {
		t.Fatal(err)
	}
	for addr, local := range map[string]bool{":9100": true, "127.0.0.1:9100": true, "[::1]:9100": true, "0.0.0.0:9100": false, "10.0.0.1:9100": false, "nonsense": false} {
		config := node.Config{Catalog: verdicts(), Name: "n1", Store: "x", ConsoleListen: addr}
		err := config.Check()
		if (err == nil) != local || err != nil && !strings.Contains(err.Error(), "ConsoleListen (--console-listen)") {
			t.Errorf("%s: %v", addr, err)
		}
		config.PeerTLS = trust.PeerTLS{Cert: filepath.Join(dir, "n1.pem"), Key: filepath.Join(dir, "n1.key"), CA: filepath.Join(dir, "ca.pem")}
		if err := config.Check(); (err == nil) != (addr != "nonsense") {
			t.Errorf("%s with certificates: %v", addr, err)
		}
	}
}

// TestConsoleOffLoopbackAsksForTokenOrCertificate serves two consoles on all addresses: of a
// node that verifies tokens, and of one that does not.
func TestConsoleOffLoopbackAsksForTokenOrCertificate(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), t.TempDir()
	_, err := trust.MakeCerts(dir, []string{"n1", "ada"})
	_, err2 := trust.MakeCerts(other, []string{"eve"})
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := func(folder, name string) *http.Client {
		config := &tls.Config{RootCAs: roots, ServerName: "n1"}
		if name != "" {
			pair, err := tls.LoadX509KeyPair(filepath.Join(folder, name+".pem"), filepath.Join(folder, name+".key"))
			if err != nil {
				t.Fatal(err)
			}
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
	stranger, ada, eve := client("", ""), client(dir, "ada"), client(other, "eve")
	signer := &court{secrets: filepath.Join(dir, "secrets")}
	if err := os.WriteFile(signer.secrets, []byte(strings.Repeat("justice", 10)), 0o600); err != nil {
		t.Fatal(err)
	}
	auth := signer.authenticator(t, token.Config{HMACFile: signer.secrets, Audience: "court"})
	for _, of := range []struct {
		name          string
		auth          gateway.Authenticator
		token, answer string // of a client without a certificate
	}{
		{"with tokens", auth, "", "the console needs a token"},
		{"without tokens", nil, `dev:ada {"ganglion_role":"operator"}`, "present a certificate of the cluster's authority"},
	} {
		t.Run(of.name, func(t *testing.T) {
			_, port, err := net.SplitHostPort(harness.FreeAddress(t))
			if err != nil {
				t.Fatal(err)
			}
			store := t.TempDir()
			harness.Serve(t, 1, func(ctx context.Context, ready func(string)) error {
				return node.Run(ctx, node.Config{
					Catalog: verdicts(), Name: "n1", Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0", GossipListen: "127.0.0.1:0", Store: store, Auth: of.auth,
					PeerTLS:       trust.PeerTLS{Cert: filepath.Join(dir, "n1.pem"), Key: filepath.Join(dir, "n1.key"), CA: filepath.Join(dir, "ca.pem")},
					ConsoleListen: "0.0.0.0:" + port, Ready: ready,
				})
			})
			me := "https://127.0.0.1:" + port + "/_ganglion/api/me"
			for _, asker := range []struct {
				client *http.Client
				token  string
				code   int
				body   string
			}{
				{stranger, of.token, http.StatusUnauthorized, of.answer},
				{ada, "", http.StatusOK, `"name":"ada","node":"n1","role":"operator"`},
			} {
				if code, body := askConsoleWith(t, asker.client, me, asker.token); code != asker.code || !strings.Contains(body, asker.body) {
					t.Errorf("the answer is %d %s, want %d and %s", code, body, asker.code, asker.body)
				}
			}
			if of.auth != nil { // a token decides, also beside a certificate
				for _, c := range []*http.Client{stranger, ada} {
					token := signer.token(t, "vera", time.Hour, map[string]any{"ganglion_role": "viewer"})
					if code, body := askConsoleWith(t, c, me, token); code != http.StatusOK || !strings.Contains(body, `"name":"vera","node":"n1","role":"viewer"`) {
						t.Errorf("a token: %d %s", code, body)
					}
				}
			}
			if _, err := eve.Get(me); err == nil {
				t.Error("a certificate of another authority is accepted")
			}
			if code, body := askConsole(t, "http://127.0.0.1:"+port+"/_ganglion/", ""); code != http.StatusBadRequest {
				t.Errorf("without TLS the answer is %d %s", code, body)
			}
		})
	}
}

func TestConsoleFollowsACommandOverTheMembers(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	viewer := c.token(t, "vera", time.Hour, map[string]any{"ganglion_role": "viewer"})
	judge := c.token(t, "cem", time.Hour, map[string]any{"role": "judge", "level": 3})
	harness.Eventually(t, "the ring has both nodes", func() error {
		if _, body := askConsole(t, c.urls[0]+"/_ganglion/api/ring", viewer); !strings.Contains(body, `"members":["dev1","dev2"]`) {
			return fmt.Errorf("the answer is %.80s", body)
		}
		return nil
	})
	journey := c.urls[0] + "/_ganglion/api/journey?"
	for _, test := range []struct {
		query string
		code  int
		body  string
	}{
		{"type=verdict&id=7&key=k", 200, `"steps":[],"followers":[],"silent":[]`}, // from now on both nodes remember steps
		{"position=0", 400, "position is the number of an event"},
		{"position=99", 404, "no event at position 99"},
		{"type=verdict&id=7", 400, "name a position"},
	} {
		if code, body := askConsole(t, journey+test.query, viewer); code != test.code || !strings.Contains(body, test.body) {
			t.Errorf("%s: %d %s, want %d %s", test.query, code, body, test.code, test.body)
		}
	}
	k := c.connect(t, nil)
	k.ask(hello(judge))
	k.send(map[string]any{"op": "subscribe", "id": "s", "stream": "verdict/7"})
	for op := ""; op != "live"; {
		a, err := k.receive()
		if err != nil {
			t.Fatal(err)
		}
		op = a.Op
	}
	if a := k.ask(map[string]any{"op": "command", "id": "1", "aggregate": "verdict/7", "command": "pass", "key": "k", "data": map[string]any{}}); a.Op != "result" {
		t.Fatalf("the answer is %+v", a)
	}
	harness.Eventually(t, "both nodes have delivered the event", func() error {
		var found struct {
			Key   string
			Steps []struct {
				Member, Kind, Command, Outcome string
				Subscriptions                  int
			}
			Silent []any
		}
		code, body := askConsole(t, journey+"position=1", viewer)
		if err := json.Unmarshal([]byte(body), &found); err != nil || code != http.StatusOK || found.Key != "k" {
			t.Fatalf("the answer is %d %s (%v)", code, body, err)
		}
		kinds, subscriptions := map[string]int{}, 0
		for _, s := range found.Steps {
			kinds[s.Kind]++
			subscriptions += s.Subscriptions
			if hasName := s.Kind == "command" || s.Kind == "execute"; hasName != (s.Command == "pass") || s.Outcome != "" {
				t.Errorf("the step %+v", s)
			}
		}
		if want := map[string]int{"command": 1, "execute": 1, "append": 1, "deliver": 2}; !maps.Equal(kinds, want) || subscriptions != 1 {
			return fmt.Errorf("the answer is %s", body)
		}
		return nil
	})
}

func TestMetricsAndMembersAreRefusedToStrangers(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	for _, path := range []string{"/metrics", "/v1/cluster"} {
		for _, test := range []struct {
			forwarded, token string
			code             int
		}{
			{"", "", http.StatusOK},
			{"8.8.8.8", "", http.StatusForbidden},
			{"8.8.8.8", c.token(t, "ada", time.Hour, nil), http.StatusForbidden},
			{"8.8.8.8", c.token(t, "vera", time.Hour, map[string]any{"ganglion_role": "viewer"}), http.StatusOK},
		} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.urls[0]+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if test.forwarded != "" {
				r.Header.Set("X-Forwarded-For", test.forwarded)
			}
			if test.token != "" {
				r.Header.Set("Authorization", "Bearer "+test.token)
			}
			response, err := harness.HTTP.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if response.StatusCode != test.code {
				t.Errorf("%s for %q with a token of %d bytes: %d, want %d", path, test.forwarded, len(test.token), response.StatusCode, test.code)
			}
		}
	}
}
