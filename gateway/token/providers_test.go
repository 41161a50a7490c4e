package token_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/ganglion-es/ganglion/gateway/token"
)

// TestTokensOfIdentityProvidersAreAccepted signs the claims that docs/identity.md shows
// for each provider, with keys as the provider publishes them.
func TestTokensOfIdentityProvidersAreAccepted(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/identity.md")
	if err != nil {
		t.Fatal(err)
	}
	key, other := must(rsa.GenerateKey(rand.Reader, 2048)), must(rsa.GenerateKey(rand.Reader, 2048))
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: key.Public(), KeyID: "current", Algorithm: "RS256", Use: "sig"},
		{Key: other.Public(), KeyID: "encryption", Algorithm: "RSA-OAEP", Use: "enc"}, // as Keycloak has
		{Key: other.Public(), KeyID: "next", Algorithm: "RS256", Use: "sig"},
	}}
	issuer := newIssuer(t, serve(string(must(json.Marshal(set)))))
	for provider, want := range map[string]struct{ issuer, audience, client, typ string }{
		"Keycloak": {"https://id.example.com/realms/shop", "shop", "8a5bd6d5-3f0e-4c0b-9a0a-2f6a3f6f0d11", "JWT"},
		"Auth0":    {"https://shop.eu.auth0.com/", "https://shop.example.com/api", "auth0|5f7c8ec7c33c6c004bbafe82", "at+jwt"},
		"Firebase": {"https://securetoken.google.com/shop-1f2e3", "shop-1f2e3", "Zk3yXJp1V2cRrQe8hT0aBcDeFgH2", "JWT"},
	} {
		_, section, _ := strings.Cut(string(page), "\n## "+provider+"\n")
		example := regexp.MustCompile("(?s)```json\n(.*?)```").FindStringSubmatch(section)
		if example == nil {
			t.Fatalf("docs/identity.md shows no token of %s", provider)
		}
		var c claims
		if err := json.Unmarshal([]byte(example[1]), &c); err != nil {
			t.Fatalf("%s: %v", provider, err)
		}
		c["iat"], c["exp"] = time.Now().Unix(), time.Now().Add(5*time.Minute).Unix()
		signed := sign(jose.RS256, key, header{"kid": "current", "typ": want.typ}, c)
		a := authenticator(t, token.Config{JWKS: issuer.URL, Issuer: want.issuer, Audience: want.audience})
		id, err := a.Token(t.Context(), signed)
		if err != nil || id.Client != want.client || len(id.Claims) != len(c) {
			t.Errorf("%s: client %q with %d claims, %v", provider, id.Client, len(id.Claims), err)
		}
		// Tokens of other services of the same provider are signed with the same key.
		for what, wrong := range map[string]token.Config{
			"iss": {JWKS: issuer.URL, Issuer: strings.Replace(want.issuer, "shop", "other", 1), Audience: want.audience},
			"aud": {JWKS: issuer.URL, Issuer: want.issuer, Audience: "other"},
		} {
			if id, err := authenticator(t, wrong).Token(t.Context(), signed); err == nil || !strings.Contains(err.Error(), what) {
				t.Errorf("%s with another %s: client %q, %v", provider, what, id.Client, err)
			}
		}
		c["sub"] = "eve"
		if _, err := a.Token(t.Context(), sign(jose.RS256, other, header{"kid": "current"}, c)); err == nil {
			t.Errorf("%s: a token is accepted that another key signed", provider)
		}
	}
}
