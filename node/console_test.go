package node_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

// askConsole returns the status and the body of an answer of the console.
func askConsole(t *testing.T, url, token string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := harness.HTTP.Do(r)
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

func TestConsoleListensOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	for addr, ok := range map[string]bool{":9100": true, "127.0.0.1:9100": true, "[::1]:9100": true, "0.0.0.0:9100": false, "10.0.0.1:9100": false, "nonsense": false} {
		err := node.Config{Catalog: verdicts(), Name: "n1", Store: "x", ConsoleListen: addr}.Check()
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "ConsoleListen (--console-listen)") {
			t.Errorf("%s: %v", addr, err)
		}
	}
}
