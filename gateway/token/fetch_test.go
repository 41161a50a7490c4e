package token_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/gateway/token"
)

// log collects log lines.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// issuer is an HTTP server whose handler can be replaced.
type issuer struct {
	*httptest.Server
	handler  atomic.Pointer[http.HandlerFunc]
	requests atomic.Int64
}

func newIssuer(t *testing.T, h http.HandlerFunc) *issuer {
	i := &issuer{}
	i.handler.Store(&h)
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.requests.Add(1)
		(*i.handler.Load())(w, r)
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) setHandler(h http.HandlerFunc) { i.handler.Store(&h) }

func serve(set string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, set) }
}

// running returns an Authenticator whose Run is active during the test.
func running(t *testing.T, cfg token.Config) *token.Authenticator {
	t.Helper()
	a := authenticator(t, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = a.Run(ctx) })
	t.Cleanup(func() { cancel(); done.Wait() })
	return a
}

// awaitFetch presents a token with an unknown key until the Authenticator fetches
// the keys. A single token may not suffice, since Run may not have begun yet.
func (i *issuer) awaitFetch(t *testing.T, a *token.Authenticator) {
	t.Helper()
	unknown := sign(jose.ES256, p256, header{"kid": "unknown"}, good(nil))
	before := i.requests.Load()
	for deadline := time.Now().Add(20 * time.Second); i.requests.Load() == before; {
		if _, err := a.Token(t.Context(), unknown); err == nil || !strings.Contains(err.Error(), "does not know") {
			t.Fatalf("an unknown key: %v", err)
		}
		if time.Now().After(deadline) {
			t.Fatal("no keys were fetched from the issuer")
		}
	}
}

func TestRotatedKeyIsFoundAndOldKeyForgotten(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, serve(jwks(map[string]any{"old": public(p256)})))
	a := running(t, token.Config{JWKS: i.URL, Audience: "ganglion", Floor: time.Nanosecond, Wait: 20 * time.Second, FetchTimeout: 20 * time.Second})
	before := sign(jose.ES256, p256, header{"kid": "old"}, good(nil))
	after := sign(jose.EdDSA, edKey, header{"kid": "new"}, good(claims{"sub": "bob"}))
	if _, err := a.Token(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	i.awaitFetch(t, a)
	i.setHandler(serve(jwks(map[string]any{"new": public(edKey)})))
	var clients sync.WaitGroup
	for range 50 { // concurrently
		clients.Go(func() {
			if id, err := a.Token(t.Context(), after); err != nil || id.Client != "bob" {
				t.Errorf("a token signed with the new key: %+v, %v", id, err)
			}
		})
	}
	clients.Wait()
	if _, err := a.Token(t.Context(), before); err == nil {
		t.Error("a token signed with the removed key is still accepted")
	}
}

func TestChangedSecretsFileIsReadAgain(t *testing.T) {
	t.Parallel()
	name := file(t, secret)
	a := running(t, token.Config{HMACFile: name, Floor: time.Millisecond, Wait: 20 * time.Second})
	next := strings.ToUpper(secret)
	text := sign(jose.HS256, []byte(next), nil, claims{"sub": "ada", "exp": time.Now().Add(time.Hour).Unix()})
	if _, err := a.Token(t.Context(), text); err == nil {
		t.Fatal("a token signed with another secret is accepted")
	}
	if err := os.WriteFile(name, []byte(secret+"\n"+next+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		_, err := a.Token(t.Context(), text)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestInvalidKeySetLeavesEarlierKeysInUse serves each invalid response twice: to a
// gateway with valid keys and to a gateway that starts.
func TestInvalidKeySetLeavesEarlierKeysInUse(t *testing.T) {
	t.Parallel()
	until := make(chan struct{})
	t.Cleanup(func() { close(until) })
	set := jwks(map[string]any{"r": public(p256)})
	const slow = "deadline exceeded"
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		logged  string
	}{
		"an error status": {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); io.WriteString(w, set) }, "500"},
		"not found":       {http.NotFound, "404"},
		"an HTML page":    {serve("<html>"), "not a JSON Web Key Set"},
		"no keys":         {serve(`{"keys":[]}`), "no key that verifies"},
		"another object":  {serve(`{"error":"maintenance"}`), "not a JSON Web Key Set"},
		"a huge response": {serve(`{"keys":[` + strings.Repeat(" ", 2<<20) + `]}`), "larger than"},
		"a truncated response": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9999")
			io.WriteString(w, set)
		}, "unexpected EOF"},
		"no response":          {func(_ http.ResponseWriter, r *http.Request) { wait(r, until) }, slow},
		"one byte at a time":   {drip(until), slow},
		"endless headers":      {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }, "exceeded"},
		"a redirect loop":      {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/again", http.StatusFound) }, "too many redirects"},
		"a redirect to HTTP":   {http.RedirectHandler("http://192.0.2.1/keys", http.StatusFound).ServeHTTP, "use https"},
		"a redirect to a file": {http.RedirectHandler("file:///etc/passwd", http.StatusFound).ServeHTTP, "file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			known := sign(jose.ES256, p256, header{"kid": "r"}, good(nil))
			i := newIssuer(t, serve(set))
			lines := &log{}
			cfg := token.Config{
				JWKS: i.URL, Audience: "ganglion", Floor: time.Nanosecond, FetchTimeout: 20 * time.Second, Wait: 20 * time.Second,
				Logger: slog.New(slog.NewTextHandler(lines, nil)),
			}
			if c.logged == slow {
				cfg.FetchTimeout = 500 * time.Millisecond
			}
			// awaitKeys waits until a fetch has succeeded. On a busy machine even
			// a valid response can exceed the timeout of a fetch.
			awaitKeys := func(a *token.Authenticator) {
				t.Helper()
				for deadline := time.Now().Add(time.Minute); ; {
					_, err := a.Token(t.Context(), known)
					if err == nil {
						return
					}
					if !strings.Contains(err.Error(), "could not be fetched yet") || time.Now().After(deadline) {
						t.Fatal(err)
					}
				}
			}
			a := running(t, cfg)
			awaitKeys(a)
			i.setHandler(c.handler)
			i.awaitFetch(t, a)
			if _, err := a.Token(t.Context(), known); err != nil {
				t.Errorf("the last valid keys are gone: %v", err)
			}
			if !strings.Contains(lines.String(), c.logged) {
				t.Errorf("the log does not contain %q:\n%s", c.logged, lines)
			}

			// A gateway that starts now refuses tokens, and accepts them once the
			// issuer has recovered.
			late := running(t, cfg)
			i.setHandler(serve(set))
			awaitKeys(late)
		})
	}
}

func wait(r *http.Request, until chan struct{}) {
	select {
	case <-r.Context().Done():
	case <-until:
	}
}

// drip sends a space every 10 ms and never ends its response.
func drip(until chan struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-r.Context().Done():
				return
			case <-until:
				return
			case <-tick.C:
			}
			fmt.Fprint(w, " ")
			w.(http.Flusher).Flush()
		}
	}
}

func TestGatewayStartsWhileIssuerIsDown(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, http.NotFound)
	url := i.URL
	i.Close()
	logged := &log{}
	a := authenticator(t, token.Config{JWKS: url, Logger: slog.New(slog.NewTextHandler(logged, nil))})
	_, err := a.Token(t.Context(), sign(jose.ES256, p256, nil, good(nil)))
	if !errors.Is(err, gateway.ErrAuthUnavailable) {
		t.Errorf("without keys: %v", err)
	}
	if !strings.Contains(logged.String(), "level=ERROR") {
		t.Errorf("no error in the log: %s", logged)
	}
}
