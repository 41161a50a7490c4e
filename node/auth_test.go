package node_test

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/ganglion-es/ganglion/gateway/token"
	"github.com/ganglion-es/ganglion/proto/frame"
	"github.com/ganglion-es/ganglion/test/harness"
)

func TestClaimsReachAccessRulesAndDecisions(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	send := func(id, aggregate string) map[string]any {
		return map[string]any{"op": "command", "id": id, "aggregate": "verdict/" + aggregate, "command": "pass", "data": map[string]any{}}
	}

	clerk := c.connect(t, nil)
	if a := clerk.ask(hello(c.token(t, "cem", time.Hour, map[string]any{"role": "clerk", "level": 3}))); a.Op != "welcome" || a.Client != "cem" {
		t.Fatalf("hello: %+v", a)
	}
	if a := clerk.ask(send("1", "x")); a.Code != "forbidden" {
		t.Errorf("a clerk's command: %+v", a)
	}
	if a := clerk.ask(map[string]any{"op": "subscribe", "id": "2", "stream": "verdict/x"}); a.Code != "forbidden" {
		t.Errorf("a clerk's subscription: %+v", a)
	}

	judge := c.connect(t, nil)
	judge.ask(hello(c.token(t, "jo", time.Hour, map[string]any{"role": "judge", "level": 2})))
	if a := judge.ask(send("1", "x")); a.Code != "rejected" || a.Reason != "too_low" {
		t.Errorf("a junior judge's command: %+v", a)
	}
	// A new token counts from its answer on, on this node and on the other: each node
	// owns some of the 20 aggregates.
	if a := judge.ask(map[string]any{"op": "auth", "id": "a", "token": c.token(t, "jo", time.Hour, map[string]any{"role": "judge", "level": 3})}); a.Op != "result" {
		t.Fatalf("renewal: %+v", a)
	}
	for _, id := range strings.Split("abcdefghijklmnopqrst", "") {
		if a := judge.ask(send(id, id)); a.Op != "result" {
			t.Errorf("a senior judge's command: %+v", a)
		}
	}
}

func TestClientIDWithoutTokenIsRejected(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	good := c.token(t, "ada", time.Hour, nil)
	for name, frame := range map[string]map[string]any{
		"a client id":         {"op": "hello", "id": "h", "client": "ada"},
		"a development token": {"op": "hello", "id": "h", "token": "dev:ada"},
		"a token cut short":   {"op": "hello", "id": "h", "token": good[:len(good)-2]},
		"a token with extra":  {"op": "hello", "id": "h", "token": good + "."},
	} {
		k := c.connect(t, nil)
		a := k.ask(frame)
		if a.Code != "unauthenticated" || a.Retry != "no" || strings.Contains(a.Message, good[:40]) {
			t.Errorf("%s: %+v", name, a)
		}
		if code, _ := k.closed(); code != unauthenticated {
			t.Errorf("%s: closed with %d", name, code)
		}
	}

	// The handshake answers 401.
	for _, header := range []string{"Bearer " + good[:len(good)-2], "Bearer dev:ada"} {
		_, resp, err := websocket.Dial(t.Context(), c.urls[0]+"/v1/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {header}}})
		if err == nil || resp == nil || resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("handshake with a bad token: %v, %v", resp, err)
		}
	}
	k := c.connect(t, http.Header{"Authorization": {"Bearer " + good}})
	if a := k.ask(map[string]any{"op": "hello", "id": "h"}); a.Op != "welcome" || a.Client != "ada" {
		t.Errorf("a good token at the handshake: %+v", a)
	}
	k = c.connect(t, http.Header{"Authorization": {"Bearer " + good}})
	if a := k.ask(hello(c.token(t, "bob", time.Hour, nil))); a.Code != "unauthenticated" {
		t.Errorf("two clients in one session: %+v", a)
	}
}

func TestSessionCannotChangeItsClient(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	k := c.connect(t, nil)
	k.ask(hello(c.token(t, "ada", time.Hour, nil)))
	// A bad token changes nothing: the session keeps its token.
	if a := k.ask(map[string]any{"op": "auth", "id": "1", "token": "nonsense"}); a.Code != "unauthenticated" {
		t.Errorf("a bad renewal: %+v", a)
	}
	if a := k.ask(map[string]any{"op": "ping", "id": "2"}); a.Op != "pong" {
		t.Errorf("after a bad renewal: %+v", a)
	}
	if a := k.ask(map[string]any{"op": "auth", "id": "3", "token": c.token(t, "bob", time.Hour, nil)}); a.Code != "unauthenticated" {
		t.Errorf("another client's token: %+v", a)
	}
	if code, _ := k.closed(); code != unauthenticated {
		t.Errorf("closed with %d", code)
	}
}

func TestSessionEndsWithTokenUnlessRenewed(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	renewed, expired := c.connect(t, nil), c.connect(t, nil)
	const life = 10 * time.Second // for three requests on a busy machine
	renewed.ask(hello(c.token(t, "ada", life, nil)))
	expired.ask(hello(c.token(t, "bob", life, nil)))
	if a := renewed.ask(map[string]any{"op": "auth", "id": "a", "token": c.token(t, "ada", time.Hour, nil)}); a.Op != "result" {
		t.Errorf("renewal: %+v", a)
	}
	code, before := expired.closed()
	if code != unauthenticated || len(before) != 1 || before[0].Op != "expiring" || before[0].InMS <= 0 || before[0].InMS > int(life.Milliseconds()) {
		t.Errorf("closed with %d after %+v", code, before)
	}
	if a := renewed.ask(map[string]any{"op": "ping", "id": "p"}); a.Op != "pong" {
		t.Errorf("the renewed session: %+v", a)
	}
}

// TestClientsRetryWhileIssuerIsDown expects a retryable error, since an issuer's
// outage is not the client's fault.
func TestClientsRetryWhileIssuerIsDown(t *testing.T) {
	t.Parallel()
	issuer := httptest.NewServer(http.NotFoundHandler())
	auth, err := token.New(t.Context(), token.Config{JWKS: issuer.URL})
	issuer.Close()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	c := &court{secrets: filepath.Join(dir, "secrets")}
	if err := os.WriteFile(c.secrets, []byte(strings.Repeat("justice", 10)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.start(t, dir, auth)
	text := c.token(t, "ada", time.Hour, nil)
	k := c.connect(t, nil)
	if a := k.ask(hello(text)); a.Code != "unavailable" || a.Retry != "later" {
		t.Errorf("hello: %+v", a)
	}
	if code, _ := k.closed(); code != frame.CloseLost {
		t.Errorf("closed with %d", code)
	}
	_, resp, err := websocket.Dial(t.Context(), c.urls[0]+"/v1/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + text}}})
	if err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("handshake: %v, %v", resp, err)
	}
}

// signed makes a token with any header, claims and signature.
func signed(header, claims map[string]any, sign func(text []byte) []byte) string {
	part := func(v any) string {
		raw, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		return base64.RawURLEncoding.EncodeToString(raw)
	}
	text := part(header) + "." + part(claims)
	return text + "." + base64.RawURLEncoding.EncodeToString(sign([]byte(text)))
}

// protocol: error unauthenticated, close 4001
func TestInvalidTokenIsRejectedEverywhere(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	secret, err := os.ReadFile(c.secrets)
	if err != nil {
		t.Fatal(err)
	}
	by := func(key []byte) func([]byte) []byte {
		return func(text []byte) []byte {
			mac := hmac.New(sha256.New, key)
			mac.Write(text)
			return mac.Sum(nil)
		}
	}
	now := time.Now()
	claims := func(change map[string]any) map[string]any {
		good := map[string]any{"sub": "ada", "aud": "court", "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
		maps.Copy(good, change)
		return good
	}
	hs := map[string]any{"alg": "HS256"}
	if a := c.connect(t, nil).ask(hello(signed(hs, claims(nil), by(secret)))); a.Op != "welcome" {
		t.Fatalf("a good token: %+v", a)
	}
	for name, text := range map[string]string{
		"alg none":            signed(map[string]any{"alg": "none"}, claims(nil), func([]byte) []byte { return nil }),
		"alg none, signed":    signed(map[string]any{"alg": "none"}, claims(nil), by(secret)),
		"another key":         signed(hs, claims(nil), by([]byte(strings.Repeat("justify", 10)))),
		"the audience":        signed(hs, claims(map[string]any{"aud": "market"}), by(secret)),
		"expired":             signed(hs, claims(map[string]any{"exp": now.Add(-time.Second).Unix()}), by(secret)),
		"from the future":     signed(hs, claims(map[string]any{"iat": now.Add(time.Hour).Unix()}), by(secret)),
		"not good yet":        signed(hs, claims(map[string]any{"nbf": now.Add(time.Hour).Unix()}), by(secret)),
		"one that never ends": signed(hs, claims(map[string]any{"exp": nil}), by(secret)),
	} {
		k := c.connect(t, nil)
		if a := k.ask(hello(text)); a.Code != "unauthenticated" || a.Retry != "no" {
			t.Errorf("%s: hello is answered %+v", name, a)
		}
		if code, _ := k.closed(); code != unauthenticated {
			t.Errorf("%s: closed with %d", name, code)
		}
		header := http.Header{"Authorization": {"Bearer " + text}}
		_, resp, err := websocket.Dial(t.Context(), c.urls[0]+"/v1/ws", &websocket.DialOptions{HTTPHeader: header})
		if err == nil || resp == nil || resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: the handshake is answered %v, %v", name, resp, err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.urls[1]+"/v1/aggregates/verdict/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = header
		resp, err = http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("%s: a read over HTTP is answered %s", name, resp.Status)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// protocol: close 4001
func TestRevocationEndsSessionsAndRejectsNewOnes(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	text := c.token(t, "ada", time.Hour, nil)
	ada, bob := c.connect(t, nil), c.connect(t, nil)
	ada.ask(hello(text))
	bob.ask(hello(c.token(t, "bob", time.Hour, nil)))
	if err := token.Revoke(c.revoked, token.Revocation{Client: "ada", Before: time.Now(), Until: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if code, before := ada.closed(); code != unauthenticated {
		t.Errorf("closed with %d after %+v", code, before)
	}
	if a := c.connect(t, nil).ask(hello(text)); a.Code != "unauthenticated" || !strings.Contains(a.Message, "revoked") {
		t.Errorf("the same token again: %+v", a)
	}
	if a := bob.ask(map[string]any{"op": "ping", "id": "p"}); a.Op != "pong" {
		t.Errorf("another client: %+v", a)
	}
	// A token issued after the revocation is valid.
	harness.Eventually(t, "a new token is rejected", func() error {
		if a := c.connect(t, nil).ask(hello(c.token(t, "ada", time.Hour, nil))); a.Op != "welcome" {
			return errors.New(a.Message)
		}
		return nil
	})
}

// TestFailingIssuerEndsNoSession uses an issuer that serves its keys at first, and
// then fails in several ways.
func TestFailingIssuerEndsNoSession(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	set, err := json.Marshal(map[string]any{"keys": []any{map[string]any{
		"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": base64.RawURLEncoding.EncodeToString(public),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	text := func(kid string) string {
		claims := map[string]any{"sub": "ada", "exp": time.Now().Add(time.Hour).Unix()}
		return signed(map[string]any{"alg": "EdDSA", "kid": kid}, claims, func(text []byte) []byte { return ed25519.Sign(private, text) })
	}
	var handler atomic.Pointer[http.HandlerFunc]
	var asked atomic.Int64
	serveWith := func(h http.HandlerFunc) { handler.Store(&h) }
	serveWith(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(set) })
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		(*handler.Load())(w, r)
	}))
	t.Cleanup(issuer.Close)

	c := &court{}
	c.start(t, t.TempDir(), c.authenticator(t, token.Config{JWKS: issuer.URL, Floor: time.Nanosecond, FetchTimeout: 300 * time.Millisecond, Wait: time.Second}))
	var session *wsClient
	harness.Eventually(t, "a good token is accepted", func() error { // a busy machine may exceed FetchTimeout
		session = c.connect(t, nil)
		if a := session.ask(hello(text("k"))); a.Op != "welcome" {
			return errors.New(a.Message)
		}
		return nil
	})
	for name, h := range map[string]http.HandlerFunc{
		"slowly":     func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"wrongly":    func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"hugely":     func(w http.ResponseWriter, _ *http.Request) { _, _ = io.CopyN(w, spaces{}, 64<<20) },
		"not at all": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		serveWith(h)
		before := asked.Load()
		harness.Eventually(t, "the issuer is not asked "+name, func() error { // after an earlier request has ended
			k := c.connect(t, nil)
			if a := k.ask(hello(text("new"))); a.Code != "unauthenticated" {
				t.Errorf("%s: an unknown key: %+v", name, a)
			}
			if code, _ := k.closed(); code != unauthenticated {
				t.Errorf("%s: closed with %d", name, code)
			}
			if asked.Load() == before {
				return errors.New("not yet")
			}
			return nil
		})
		if a := c.connect(t, nil).ask(hello(text("k"))); a.Op != "welcome" {
			t.Errorf("%s: a token of the earlier key: %+v", name, a)
		}
		if a := session.ask(map[string]any{"op": "ping", "id": "p"}); a.Op != "pong" {
			t.Errorf("%s: the earlier session: %+v", name, a)
		}
	}
}

// spaces is an endless reader.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}
