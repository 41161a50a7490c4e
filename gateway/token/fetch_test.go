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

// log keeps what was logged.
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

// issuer serves whatever handler it has at the moment.
type issuer struct {
	*httptest.Server
	handler atomic.Pointer[http.HandlerFunc]
	asked   atomic.Int64
}

func newIssuer(t *testing.T, h http.HandlerFunc) *issuer {
	i := &issuer{}
	i.handler.Store(&h)
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i.asked.Add(1)
		(*i.handler.Load())(w, r)
	}))
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) answers(h http.HandlerFunc) { i.handler.Store(&h) }

func serve(set string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, set) }
}

// running makes an Authenticator and keeps its keys fresh during the test.
func running(t *testing.T, cfg token.Config) *token.Authenticator {
	t.Helper()
	a := authenticator(t, cfg)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { _ = a.Run(ctx) })
	t.Cleanup(func() { cancel(); done.Wait() })
	return a
}

// ask shows an unknown key until the issuer was asked for it: Run may not have
// begun yet.
func (i *issuer) ask(t *testing.T, a *token.Authenticator) {
	t.Helper()
	unknown := sign(jose.ES256, p256, header{"kid": "unknown"}, good(nil))
	before := i.asked.Load()
	for deadline := time.Now().Add(20 * time.Second); i.asked.Load() == before; {
		if _, err := a.Token(t.Context(), unknown); err == nil || !strings.Contains(err.Error(), "unknown here") {
			t.Fatalf("an unknown key: %v", err)
		}
		if time.Now().After(deadline) {
			t.Fatal("the issuer is not asked")
		}
	}
}

func TestARotatedKeyIsFoundAndTheOldOneForgotten(t *testing.T) {
	t.Parallel()
	i := newIssuer(t, serve(jwks(map[string]any{"old": public(p256)})))
	a := running(t, token.Config{JWKS: i.URL, Audience: "ganglion", Floor: time.Nanosecond, Wait: 20 * time.Second, FetchTimeout: 20 * time.Second})
	before := sign(jose.ES256, p256, header{"kid": "old"}, good(nil))
	after := sign(jose.EdDSA, edKey, header{"kid": "new"}, good(claims{"sub": "bob"}))
	if _, err := a.Token(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	i.ask(t, a)
	i.answers(serve(jwks(map[string]any{"new": public(edKey)})))
	var clients sync.WaitGroup
	for range 50 { // all come at once
		clients.Go(func() {
			if id, err := a.Token(t.Context(), after); err != nil || id.Client != "bob" {
				t.Errorf("a token of the new key: %+v, %v", id, err)
			}
		})
	}
	clients.Wait()
	if _, err := a.Token(t.Context(), before); err == nil {
		t.Error("a token of the key that was taken away is still good")
	}
}

func TestFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	name := file(t, secret)
	a := running(t, token.Config{HMACFile: name, Floor: time.Millisecond, Wait: 20 * time.Second})
	next := strings.ToUpper(secret)
	text := sign(jose.HS256, []byte(next), nil, claims{"sub": "ada", "exp": time.Now().Add(time.Hour).Unix()})
	if _, err := a.Token(t.Context(), text); err == nil {
		t.Fatal("a token of another secret is good")
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

// TestAnIssuerThatAnswersWronglyChangesNothing shows each wrong answer twice:
// to a gateway that starts, and to one that has good keys.
func TestAnIssuerThatAnswersWronglyChangesNothing(t *testing.T) {
	t.Parallel()
	until := make(chan struct{})
	t.Cleanup(func() { close(until) })
	set := jwks(map[string]any{"r": public(p256)})
	const slow = "deadline exceeded"
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		says    string
	}{
		"an error":       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500); io.WriteString(w, set) }, "500"},
		"nothing found":  {http.NotFound, "404"},
		"a page":         {serve("<html>"), "no JSON Web Key Set"},
		"no keys":        {serve(`{"keys":[]}`), "no key that verifies"},
		"another object": {serve(`{"error":"maintenance"}`), "no JSON Web Key Set"},
		"something huge": {serve(`{"keys":[` + strings.Repeat(" ", 2<<20) + `]}`), "larger than"},
		"half of it": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9999")
			io.WriteString(w, set)
		}, "unexpected EOF"},
		"no header":        {func(_ http.ResponseWriter, r *http.Request) { wait(r, until) }, slow},
		"a byte at a time": {drip(until), slow},
		"endless headers":  {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }, "exceeded"},
		"a loop":           {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/again", http.StatusFound) }, "too many redirects"},
		"somewhere else":   {http.RedirectHandler("http://192.0.2.1/keys", http.StatusFound).ServeHTTP, "use https"},
		"a local file":     {http.RedirectHandler("file:///etc/passwd", http.StatusFound).ServeHTTP, "file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			known := sign(jose.ES256, p256, header{"kid": "r"}, good(nil))
			i := newIssuer(t, serve(set))
			logged := &log{}
			cfg := token.Config{
				JWKS: i.URL, Audience: "ganglion", Floor: time.Nanosecond, FetchTimeout: 20 * time.Second, Wait: 20 * time.Second,
				Logger: slog.New(slog.NewTextHandler(logged, nil)),
			}
			if c.says == slow {
				cfg.FetchTimeout = 500 * time.Millisecond
			}
			// takes waits until the keys are good: on a busy machine also a
			// good answer may come too late for a reading.
			takes := func(a *token.Authenticator) {
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
			takes(a)
			i.answers(c.handler)
			i.ask(t, a)
			if _, err := a.Token(t.Context(), known); err != nil {
				t.Errorf("the last good keys are gone: %v", err)
			}
			if !strings.Contains(logged.String(), c.says) {
				t.Errorf("the log does not say %q:\n%s", c.says, logged)
			}

			// A gateway that starts now refuses tokens, and takes them as soon
			// as the issuer has recovered.
			late := running(t, cfg)
			i.answers(serve(set))
			takes(late)
		})
	}
}

func wait(r *http.Request, until chan struct{}) {
	select {
	case <-r.Context().Done():
	case <-until:
	}
}

// drip answers a space every 10 ms, for ever.
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

func TestAnIssuerThatIsDownKeepsNoGatewayFromStarting(t *testing.T) {
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
		t.Errorf("nothing loud in the log: %s", logged)
	}
}
