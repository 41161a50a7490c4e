package node_test

import (
	"context"
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
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/ganglion-es/ganglion/domain/aggregate"
	"github.com/ganglion-es/ganglion/gateway/token"
	"github.com/ganglion-es/ganglion/node"
	"github.com/ganglion-es/ganglion/test/harness"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// verdict is an aggregate whose access rules and decisions look at claims.
type verdict struct {
	Level float64 `json:"level"`
}

type pass struct{}

type passed struct {
	Level float64 `json:"level"`
}

var errTooLow = aggregate.Reject("too_low", "judges of level 3 pass verdicts")

func (pass) Decide(c aggregate.Call, _ verdict) (aggregate.Decision[verdict], error) {
	level, _ := c.Claims["level"].(float64)
	if level < 3 {
		return nil, errTooLow
	}
	return aggregate.Emit(passed{Level: level})
}

func (e passed) Apply(v *verdict) { v.Level = e.Level }

func verdicts() *aggregate.Catalog {
	c := &aggregate.Catalog{}
	judge := aggregate.RuleFunc(func(c aggregate.Caller, _ string) bool { return c.Claims["role"] == "judge" })
	_ = aggregate.Define(c, aggregate.Type[verdict]{
		Name: "verdict", Doc: "What a judge decided.",
		Access:   aggregate.Access{Send: judge, Read: judge},
		Commands: aggregate.Commands[verdict]{"pass": pass{}},
		Events:   aggregate.Events[verdict]{"passed": passed{}},
	})
	return c
}

// court is a cluster of two nodes that take tokens, so that some commands are
// decided on the node that the client is connected to, and some on the other.
type court struct {
	secrets, revoked string
	urls             []string
}

func newCourt(t *testing.T) *court {
	t.Helper()
	dir := t.TempDir()
	c := &court{secrets: filepath.Join(dir, "secrets")}
	if err := os.WriteFile(c.secrets, []byte(strings.Repeat("justice", 10)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.revoked = filepath.Join(dir, "revoked")
	if err := os.WriteFile(c.revoked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.start(t, dir, c.authenticator(t, token.Config{HMACFile: c.secrets, Audience: "court", Leeway: -1, Revocations: c.revoked}))
	return c
}

// authenticator makes one, and runs it while the test does.
func (c *court) authenticator(t *testing.T, cfg token.Config) *token.Authenticator {
	t.Helper()
	auth, err := token.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = auth.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return auth
}

// start starts the nodes and waits until they are ready.
func (c *court) start(t *testing.T, dir string, auth *token.Authenticator) {
	t.Helper()
	const nodes = 2
	c.urls, _ = harness.Serve(t, nodes, func(ctx context.Context, ready func(string)) error {
		return node.RunDev(ctx, node.Config{Catalog: verdicts(), Listen: "127.0.0.1:0", Store: dir, Auth: auth, Ready: ready}, nodes)
	})
}

func (c *court) token(t *testing.T, client string, good time.Duration, claims map[string]any) string {
	t.Helper()
	text, err := token.Sign(c.secrets, token.Grant{Client: client, Audience: "court", ExpiresIn: good, Claims: claims})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// talk is a WebSocket on which frames are sent and waited for.
type talk struct {
	t    *testing.T
	ctx  context.Context
	conn *websocket.Conn
	rest []string // lines of the last message that were not looked at yet
}

type answer struct {
	Op, ID, Client, Code, Reason, Message, Retry string
	InMS                                         int `json:"in_ms"`
}

func (c *court) talk(t *testing.T, header http.Header) *talk {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	conn, _, err := websocket.Dial(ctx, c.urls[0]+"/v1/ws", &websocket.DialOptions{Subprotocols: []string{"ganglion.v1"}, HTTPHeader: header})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	return &talk{t: t, ctx: ctx, conn: conn}
}

func (k *talk) say(frame map[string]any) {
	k.t.Helper()
	raw, err := json.Marshal(frame)
	if err == nil {
		err = k.conn.Write(k.ctx, websocket.MessageText, raw)
	}
	if err != nil {
		k.t.Fatal(err)
	}
}

// hear returns the next frame, or why there is none.
func (k *talk) hear() (a answer, err error) {
	for len(k.rest) == 0 {
		_, message, err := k.conn.Read(k.ctx)
		if err != nil {
			return a, err
		}
		k.rest = strings.Split(string(message), "\n")
	}
	err = json.Unmarshal([]byte(k.rest[0]), &a)
	k.rest = k.rest[1:]
	return a, err
}

// ask sends a frame and returns its answer.
func (k *talk) ask(frame map[string]any) answer {
	k.t.Helper()
	k.say(frame)
	for {
		a, err := k.hear()
		if err != nil {
			k.t.Fatalf("after %v: %v", frame["op"], err)
		}
		if a.ID == frame["id"] {
			return a
		}
	}
}

// closed reads to the end and returns the close code and the frames before.
func (k *talk) closed() (code websocket.StatusCode, before []answer) {
	k.t.Helper()
	for {
		a, err := k.hear()
		if err != nil {
			return websocket.CloseStatus(err), before
		}
		before = append(before, a)
	}
}

func hello(text string) map[string]any {
	return map[string]any{"op": "hello", "id": "h", "token": text}
}

const unauthenticated = websocket.StatusCode(4001)

func TestClaimsReachAccessRulesAndDecisions(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	send := func(id, aggregate string) map[string]any {
		return map[string]any{"op": "command", "id": id, "aggregate": "verdict/" + aggregate, "command": "pass", "data": map[string]any{}}
	}

	clerk := c.talk(t, nil)
	if a := clerk.ask(hello(c.token(t, "cem", time.Hour, map[string]any{"role": "clerk", "level": 3}))); a.Op != "welcome" || a.Client != "cem" {
		t.Fatalf("hello: %+v", a)
	}
	if a := clerk.ask(send("1", "x")); a.Code != "forbidden" {
		t.Errorf("a clerk's command: %+v", a)
	}
	if a := clerk.ask(map[string]any{"op": "subscribe", "id": "2", "stream": "verdict/x"}); a.Code != "forbidden" {
		t.Errorf("a clerk's subscription: %+v", a)
	}

	judge := c.talk(t, nil)
	judge.ask(hello(c.token(t, "jo", time.Hour, map[string]any{"role": "judge", "level": 2})))
	if a := judge.ask(send("1", "x")); a.Code != "rejected" || a.Reason != "too_low" {
		t.Errorf("a junior judge's command: %+v", a)
	}
	// A new token counts from its answer on, here and on the other node:
	// among so many aggregates each node owns some.
	if a := judge.ask(map[string]any{"op": "auth", "id": "a", "token": c.token(t, "jo", time.Hour, map[string]any{"role": "judge", "level": 3})}); a.Op != "result" {
		t.Fatalf("renewal: %+v", a)
	}
	for _, id := range strings.Split("abcdefghijklmnopqrst", "") {
		if a := judge.ask(send(id, id)); a.Op != "result" {
			t.Errorf("a senior judge's command: %+v", a)
		}
	}
}

func TestWithTokensNobodyIsTakenOnTrust(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	good := c.token(t, "ada", time.Hour, nil)
	for name, frame := range map[string]map[string]any{
		"a client id":        {"op": "hello", "id": "h", "client": "ada"},
		"a development one":  {"op": "hello", "id": "h", "token": "dev:ada"},
		"a token cut short":  {"op": "hello", "id": "h", "token": good[:len(good)-2]},
		"a token with extra": {"op": "hello", "id": "h", "token": good + "."},
	} {
		k := c.talk(t, nil)
		a := k.ask(frame)
		if a.Code != "unauthenticated" || a.Retry != "no" || strings.Contains(a.Message, good[:40]) {
			t.Errorf("%s: %+v", name, a)
		}
		if code, _ := k.closed(); code != unauthenticated {
			t.Errorf("%s: closed with %d", name, code)
		}
	}

	// At the handshake, and over HTTP, the answer is 401.
	for _, header := range []string{"Bearer " + good[:len(good)-2], "Bearer dev:ada"} {
		_, resp, err := websocket.Dial(t.Context(), c.urls[0]+"/v1/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {header}}})
		if err == nil || resp == nil || resp.StatusCode != http.StatusUnauthorized {
			t.Errorf("handshake with a bad token: %v, %v", resp, err)
		}
	}
	k := c.talk(t, http.Header{"Authorization": {"Bearer " + good}})
	if a := k.ask(map[string]any{"op": "hello", "id": "h"}); a.Op != "welcome" || a.Client != "ada" {
		t.Errorf("a good token at the handshake: %+v", a)
	}
	k = c.talk(t, http.Header{"Authorization": {"Bearer " + good}})
	if a := k.ask(hello(c.token(t, "bob", time.Hour, nil))); a.Code != "unauthenticated" {
		t.Errorf("two clients in one session: %+v", a)
	}
}

func TestASessionCannotBecomeAnotherClients(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	k := c.talk(t, nil)
	k.ask(hello(c.token(t, "ada", time.Hour, nil)))
	// A bad token changes nothing: the session lives on with the one it has.
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

func TestASessionEndsWithItsTokenUnlessItIsRenewed(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	renewed, left := c.talk(t, nil), c.talk(t, nil)
	renewed.ask(hello(c.token(t, "ada", 4*time.Second, nil)))
	left.ask(hello(c.token(t, "bob", 4*time.Second, nil)))
	if a := renewed.ask(map[string]any{"op": "auth", "id": "a", "token": c.token(t, "ada", time.Hour, nil)}); a.Op != "result" {
		t.Errorf("renewal: %+v", a)
	}
	code, before := left.closed()
	if code != unauthenticated || len(before) != 1 || before[0].Op != "expiring" || before[0].InMS <= 0 || before[0].InMS > 4000 {
		t.Errorf("closed with %d after %+v", code, before)
	}
	if a := renewed.ask(map[string]any{"op": "ping", "id": "p"}); a.Op != "pong" {
		t.Errorf("the session that was renewed: %+v", a)
	}
}

// TestWithoutKeysNobodyIsTurnedAwayForGood has an issuer that is down: that is
// not the clients' fault, and they are told to come again.
func TestWithoutKeysNobodyIsTurnedAwayForGood(t *testing.T) {
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
	k := c.talk(t, nil)
	if a := k.ask(hello(text)); a.Code != "unavailable" || a.Retry != "later" {
		t.Errorf("hello: %+v", a)
	}
	if code, _ := k.closed(); code != 4200 {
		t.Errorf("closed with %d", code)
	}
	_, resp, err := websocket.Dial(t.Context(), c.urls[0]+"/v1/ws", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + text}}})
	if err == nil || resp == nil || resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("handshake: %v, %v", resp, err)
	}
}

// signed makes a token by hand, with whatever signature.
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
func TestABadTokenOpensNoDoor(t *testing.T) {
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
	if a := c.talk(t, nil).ask(hello(signed(hs, claims(nil), by(secret)))); a.Op != "welcome" {
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
		k := c.talk(t, nil)
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
func TestRevocationEndsSessionsAndOpensNoNewOnes(t *testing.T) {
	t.Parallel()
	c := newCourt(t)
	text := c.token(t, "ada", time.Hour, nil)
	ada, bob := c.talk(t, nil), c.talk(t, nil)
	ada.ask(hello(text))
	bob.ask(hello(c.token(t, "bob", time.Hour, nil)))
	if err := token.Revoke(c.revoked, token.Revocation{Client: "ada", Before: time.Now(), Until: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if code, before := ada.closed(); code != unauthenticated {
		t.Errorf("closed with %d after %+v", code, before)
	}
	if a := c.talk(t, nil).ask(hello(text)); a.Code != "unauthenticated" || !strings.Contains(a.Message, "revoked") {
		t.Errorf("the same token again: %+v", a)
	}
	if a := bob.ask(map[string]any{"op": "ping", "id": "p"}); a.Op != "pong" {
		t.Errorf("another client: %+v", a)
	}
	// A token that was made since is good.
	harness.Eventually(t, "a new token is not taken", func() error {
		if a := c.talk(t, nil).ask(hello(c.token(t, "ada", time.Hour, nil))); a.Op != "welcome" {
			return errors.New(a.Message)
		}
		return nil
	})
}

// TestAnIssuerThatFailsCostsNoSession has an issuer that answers with its keys
// at first, and then in every wrong way.
func TestAnIssuerThatFailsCostsNoSession(t *testing.T) {
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
	answers := func(h http.HandlerFunc) { handler.Store(&h) }
	answers(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(set) })
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		(*handler.Load())(w, r)
	}))
	t.Cleanup(issuer.Close)

	c := &court{}
	c.start(t, t.TempDir(), c.authenticator(t, token.Config{JWKS: issuer.URL, Floor: time.Nanosecond, FetchTimeout: 300 * time.Millisecond, Wait: time.Second}))
	session := c.talk(t, nil)
	if a := session.ask(hello(text("k"))); a.Op != "welcome" {
		t.Fatalf("a good token: %+v", a)
	}
	for name, h := range map[string]http.HandlerFunc{
		"slowly":     func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"wrongly":    func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"hugely":     func(w http.ResponseWriter, _ *http.Request) { _, _ = io.CopyN(w, spaces{}, 64<<20) },
		"not at all": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		answers(h)
		before := asked.Load()
		harness.Eventually(t, "the issuer is not asked "+name, func() error { // the reading before may have to end first
			k := c.talk(t, nil)
			if a := k.ask(hello(text("new"))); a.Code != "unauthenticated" {
				t.Errorf("%s: a key that nobody knows: %+v", name, a)
			}
			if code, _ := k.closed(); code != unauthenticated {
				t.Errorf("%s: closed with %d", name, code)
			}
			if asked.Load() == before {
				return errors.New("not yet")
			}
			return nil
		})
		if a := c.talk(t, nil).ask(hello(text("k"))); a.Op != "welcome" {
			t.Errorf("%s: a token of the key from before: %+v", name, a)
		}
		if a := session.ask(map[string]any{"op": "ping", "id": "p"}); a.Op != "pong" {
			t.Errorf("%s: the session from before: %+v", name, a)
		}
	}
}

// spaces is read for ever.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}
