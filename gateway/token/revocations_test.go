package token_test

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/ganglion-es/ganglion/gateway/token"
)

func TestRevokedTokensAreRefused(t *testing.T) {
	t.Parallel()
	now := time.Now()
	issued := now.Add(-time.Minute)
	stamp := func(d time.Duration) string { return now.Add(d).UTC().Format(time.RFC3339Nano) }
	text := func(change claims) string {
		c := claims{"iat": issued.Unix(), "jti": "one"}
		for k, v := range change {
			c[k] = v
		}
		return sign(jose.HS256, []byte(secret), nil, good(c))
	}
	for name, c := range map[string]struct {
		line    string
		token   claims
		refused bool
	}{
		"no revocation":               {"\n", nil, false},
		"this token":                  {`{"jti":"one","until":"` + stamp(time.Hour) + `"}`, nil, true},
		"another token":               {`{"jti":"two","until":"` + stamp(time.Hour) + `"}`, nil, false},
		"a token without jti":         {`{"jti":"one","until":"` + stamp(time.Hour) + `"}`, claims{"jti": nil}, false},
		"this token, until the past":  {`{"jti":"one","until":"` + stamp(-time.Second) + `"}`, nil, false},
		"this client":                 {`{"sub":"ada","before":"` + stamp(0) + `","until":"` + stamp(time.Hour) + `"}`, nil, true},
		"another client":              {`{"sub":"bob","before":"` + stamp(0) + `","until":"` + stamp(time.Hour) + `"}`, nil, false},
		"this client, issued later":   {`{"sub":"ada","before":"` + stamp(-time.Hour) + `","until":"` + stamp(time.Hour) + `"}`, nil, false},
		"issued in the same second":   {`{"sub":"ada","before":"` + time.Unix(issued.Unix(), 1e6).UTC().Format(time.RFC3339Nano) + `","until":"` + stamp(time.Hour) + `"}`, nil, true},
		"this client, without iat":    {`{"sub":"ada","before":"` + stamp(-time.Hour) + `","until":"` + stamp(time.Hour) + `"}`, claims{"iat": nil}, true},
		"this client, until the past": {`{"sub":"ada","before":"` + stamp(0) + `","until":"` + stamp(-time.Second) + `"}`, nil, false},
		"all clients":                 {`{"before":"` + stamp(0) + `","until":"` + stamp(time.Hour) + `"}`, nil, true},
		"two, of which one applies":   {`{"sub":"ada","before":"` + stamp(0) + `","until":"` + stamp(time.Hour) + `"}` + "\n" + `{"sub":"ada","before":"` + stamp(-time.Hour) + `","until":"` + stamp(time.Hour) + `"}`, nil, true},
	} {
		a := authenticator(t, token.Config{HMACFile: file(t, secret), Audience: "ganglion", Revocations: file(t, c.line)})
		id, err := a.Token(t.Context(), text(c.token))
		if (err != nil) != c.refused || c.refused && (id.Client != "" || !strings.Contains(err.Error(), "revoked")) {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
}

func TestInvalidRevocationsAreRefused(t *testing.T) {
	t.Parallel()
	const until = `"until":"2999-01-01T00:00:00Z"`
	many := &strings.Builder{}
	for i := range 100_001 {
		fmt.Fprintf(many, `{"jti":"%d",%s}`+"\n", i, until)
	}
	for content, want := range map[string]string{
		"ada":                                 "line 1",
		"\n{\"jti\":\"x\"":                    "line 2",
		`{"jti":"x"}`:                         "no until",
		`{"sub":"ada",` + until + `}`:         "no before",
		`{` + until + `}`:                     "no before",
		`{"jti":"x","sub":"y",` + until + `}`: "both jti and sub",
		`{"jti":"x","before":"2020-01-01T00:00:00Z",` + until + `}`:   "both jti and before",
		`{"sub":"a/b","before":"2020-01-01T00:00:00Z",` + until + `}`: "line 1",
		`{"jit":"x",` + until + `}`:                                   "jit",
		`{"jti":"x",` + until + `} {}`:                                "continues after",
		many.String():                                                 "more than 100000",
	} {
		_, err := token.New(t.Context(), token.Config{HMACFile: file(t, secret), Revocations: file(t, content)})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80q: %v does not contain %q", content, err, want)
		}
	}
	if _, err := token.New(t.Context(), token.Config{HMACFile: file(t, secret), Revocations: filepath.Join(t.TempDir(), "none")}); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a missing file: %v", err)
	}
}

func TestChangedRevocationsFileIsReadAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testChangedRevocationsFileIsReadAgain) // the file is checked every second
}

func testChangedRevocationsFileIsReadAgain(t *testing.T) {
	name := filepath.Join(t.TempDir(), "revoked")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	logged := &log{}
	a := running(t, token.Config{HMACFile: file(t, secret), Audience: "ganglion", Revocations: name, Logger: slog.New(slog.NewTextHandler(logged, nil))})
	text := func(sub string) string {
		return sign(jose.HS256, []byte(secret), nil, good(claims{"sub": sub, "iat": time.Now().Add(-time.Minute).Unix()}))
	}
	ada, err := a.Token(t.Context(), text("ada"))
	if err != nil || a.Revoked(ada) != nil {
		t.Fatal(err)
	}
	next := func(what string, change func() error) {
		t.Helper()
		changed := a.Revocations()
		if err := change(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
		case <-time.After(20 * time.Second):
			t.Fatalf("%s was not noticed", what)
		}
	}
	until := time.Now().Add(time.Hour)
	next("a revocation", func() error {
		return token.Revoke(name, token.Revocation{Client: "ada", Before: time.Now(), Until: until})
	})
	if a.Revoked(ada) == nil {
		t.Error("an identity that was accepted before the revocation is still accepted")
	}
	if _, err := a.Token(t.Context(), text("ada")); err == nil {
		t.Error("a revoked token is accepted")
	}
	if _, err := a.Token(t.Context(), text("bob")); err != nil {
		t.Errorf("another client: %v", err)
	}

	// A missing or invalid file leaves the earlier revocations in force.
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func() error{
		"a bad file":     func() error { return os.WriteFile(name, []byte("{"), 0o600) },
		"a missing file": func() error { return os.Remove(name) },
	} {
		reports := strings.Count(logged.String(), "level=ERROR")
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2500 * time.Millisecond) // longer than two checks; the fake clock keeps writes and checks apart
		if n := strings.Count(logged.String(), "level=ERROR"); n != reports+1 {
			t.Errorf("%s is logged %d times, want once", what, n-reports)
		}
		if a.Revoked(ada) == nil {
			t.Errorf("with %s, the revocation is no longer in force", what)
		}
		next("the file's return", func() error { return os.WriteFile(name, good, 0o600) })
	}
	next("another content", func() error {
		if err := os.Remove(name); err != nil {
			return err
		}
		return token.Revoke(name, token.Revocation{Client: "bob", Before: time.Now(), Until: until})
	})
	if a.Revoked(ada) != nil {
		t.Error("a revocation that was removed from the file is still in force")
	}
}

func TestConcurrentRevocationsAreAllWritten(t *testing.T) {
	t.Parallel()
	name := file(t, `{"jti":"by hand","until":"2999-01-01T00:00:00Z"}`) // without a newline
	var revoking sync.WaitGroup
	for i := range 50 {
		revoking.Go(func() {
			if err := token.Revoke(name, token.Revocation{TokenID: fmt.Sprint(i), Until: time.Now().Add(time.Hour)}); err != nil {
				t.Error(err)
			}
		})
	}
	revoking.Wait()
	a := authenticator(t, token.Config{HMACFile: file(t, secret), Audience: "ganglion", Revocations: name})
	for _, jti := range []string{"by hand", "0", "49"} {
		if _, err := a.Token(t.Context(), sign(jose.HS256, []byte(secret), nil, good(claims{"jti": jti}))); err == nil {
			t.Errorf("the token %q is accepted", jti)
		}
	}
	for _, r := range []token.Revocation{{}, {TokenID: "x"}, {Client: "a/b", Before: time.Now(), Until: time.Now()}} {
		if err := token.Revoke(name, r); err == nil {
			t.Errorf("%+v was written", r)
		}
	}
}

func TestClientsAreRevokedThroughTheAuthenticator(t *testing.T) {
	t.Parallel()
	secret, file := filepath.Join(t.TempDir(), "secret"), filepath.Join(t.TempDir(), "revoked")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(secret, []byte(strings.Repeat("secret", 10)), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := token.New(t.Context(), token.Config{HMACFile: secret, Revocations: file})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.RevokeClient(""); err == nil {
		t.Error("an empty client, which means all clients, is revoked")
	}
	if err := a.RevokeClient("bob"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil || !strings.HasPrefix(strings.TrimSpace(string(text)), `{"sub":"bob","before":"`) || !a.RevokesClients() {
		t.Errorf("the file has %s, %v", text, err)
	}
	if a, err = token.New(t.Context(), token.Config{HMACFile: secret}); err != nil || a.RevokesClients() {
		t.Error("clients are revoked without a file", err)
	}
}
