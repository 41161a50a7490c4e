package token_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/ganglion-es/ganglion/gateway/token"
	"github.com/ganglion-es/ganglion/test/leaks"
)

func TestMain(m *testing.M) { leaks.Main(m) }

const secret = "a secret of 64 bytes, which is long enough for all the hashes..."

// Keys of an issuer. They are shared, since making RSA keys is slow under the
// race detector.
var (
	rsaKey, otherRSA = must(rsa.GenerateKey(rand.Reader, 2048)), must(rsa.GenerateKey(rand.Reader, 2048))
	weakRSA          = must(rsa.GenerateKey(rand.Reader, 1024))
	p256, p384, p521 = ec(elliptic.P256()), ec(elliptic.P384()), ec(elliptic.P521())
	_, edKey, _      = ed25519.GenerateKey(rand.Reader)
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func ec(curve elliptic.Curve) *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(curve, rand.Reader)) }

func public(key any) any { return key.(crypto.Signer).Public() }

// jwks returns a key set with the public keys, by kid.
func jwks(keys map[string]any) string {
	var set jose.JSONWebKeySet
	for kid, key := range keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key, KeyID: kid})
	}
	return string(must(json.Marshal(set)))
}

func file(t testing.TB, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func authenticator(t testing.TB, cfg token.Config) *token.Authenticator {
	t.Helper()
	a, err := token.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

type (
	claims map[string]any
	header map[jose.HeaderKey]any
)

// good returns the claims of a valid token with changes. A nil value removes a
// claim.
func good(change claims) claims {
	c := claims{"sub": "ada", "iss": "https://issuer", "aud": "ganglion", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(c, change)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func sign(alg jose.SignatureAlgorithm, key any, h header, c claims) string {
	return signBytes(alg, key, h, must(json.Marshal(c)))
}

func signBytes(alg jose.SignatureAlgorithm, key any, h header, payload []byte) string {
	options := &jose.SignerOptions{}
	for name, value := range h {
		options.WithHeader(name, value)
	}
	signer := must(jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options))
	return must(must(signer.Sign(payload)).CompactSerialize())
}

func TestEveryAlgorithmVerifiesWithFittingKey(t *testing.T) {
	t.Parallel()
	secrets := authenticator(t, token.Config{HMACFile: file(t, "\n"+strings.Repeat("x", 32)+"\r\n"+secret+"\n"), Audience: "ganglion"})
	keys := authenticator(t, token.Config{
		JWKS: file(t, jwks(map[string]any{
			"r": public(rsaKey), "2": public(p256), "3": public(p384), "5": public(p521), "e": public(edKey),
		})),
		Issuer: "https://issuer", Audience: "ganglion",
	})
	for alg, key := range map[jose.SignatureAlgorithm]any{
		jose.HS256: []byte(secret), jose.HS384: []byte(secret), jose.HS512: []byte(secret),
		jose.RS256: rsaKey, jose.RS384: rsaKey, jose.RS512: rsaKey,
		jose.PS256: rsaKey, jose.PS384: rsaKey, jose.PS512: rsaKey,
		jose.ES256: p256, jose.ES384: p384, jose.ES512: p521, jose.EdDSA: edKey,
	} {
		a := keys
		if _, ok := key.([]byte); ok {
			a = secrets
		}
		id, err := a.Token(t.Context(), sign(alg, key, nil, good(claims{"level": 3, "aud": []string{"other", "ganglion"}})))
		if err != nil || id.Client != "ada" || id.Claims["level"] != 3.0 || id.Claims["iss"] != "https://issuer" {
			t.Errorf("%s: %+v, %v", alg, id, err)
		}
		if left := time.Until(id.Expires); left < 59*time.Minute || left > 61*time.Minute {
			t.Errorf("%s: expires in %v", alg, left)
		}
	}
}

func TestInvalidTokenIsRefusedWithoutRepeatingIt(t *testing.T) {
	t.Parallel()
	keys := token.Config{
		JWKS: file(t, jwks(map[string]any{
			"r": public(rsaKey), "2": public(p256), "e": public(edKey), "weak": public(weakRSA), "oct": []byte(secret),
		})),
		Issuer: "https://issuer", Audience: "ganglion",
	}
	asymmetric := authenticator(t, keys)
	shared := authenticator(t, token.Config{HMACFile: file(t, secret), Issuer: "https://issuer", Audience: "ganglion"})
	short := authenticator(t, token.Config{HMACFile: file(t, secret[:32]), Audience: "ganglion"})
	noAudience := authenticator(t, token.Config{HMACFile: file(t, secret)})
	declared := authenticator(t, token.Config{JWKS: file(t, `{"keys":[`+
		string(must(json.Marshal(jose.JSONWebKey{Key: public(rsaKey), KeyID: "r", Algorithm: "PS256"})))+`]}`), Audience: "ganglion"})

	hs := func(change claims) string { return sign(jose.HS256, []byte(secret), nil, good(change)) }
	now := time.Now()
	der := must(x509.MarshalPKIXPublicKey(public(rsaKey)))
	pub := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	parts := strings.Split(hs(nil), ".")
	b64 := base64.RawURLEncoding.EncodeToString
	own := (&jose.SignerOptions{EmbedJWK: true}).WithType("JWT")
	embedded := must(must(must(jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: otherRSA}, own)).
		Sign(must(json.Marshal(good(nil))))).CompactSerialize())

	for name, c := range map[string]struct {
		by    *token.Authenticator
		token string
		want  string
	}{
		"another secret":             {shared, sign(jose.HS256, []byte(strings.ToUpper(secret)), nil, good(nil)), "signature is invalid"},
		"another RSA key":            {asymmetric, sign(jose.RS256, otherRSA, header{"kid": "r"}, good(nil)), "signature is invalid"},
		"an unknown kid":             {asymmetric, sign(jose.RS256, rsaKey, header{"kid": "new"}, good(nil)), "does not know"},
		"the kid of another key":     {asymmetric, sign(jose.RS256, rsaKey, header{"kid": "2"}, good(nil)), "does not know"},
		"a key in its own header":    {asymmetric, embedded, "signature is invalid"},
		"a weak RSA key":             {asymmetric, sign(jose.RS256, weakRSA, header{"kid": "weak"}, good(nil)), "does not know"},
		"a secret in a key set":      {asymmetric, sign(jose.HS256, []byte(secret), header{"kid": "oct"}, good(nil)), "does not know"},
		"the public key as a secret": {asymmetric, sign(jose.HS256, pub, header{"kid": "r"}, good(nil)), "does not know"},
		"the same, without kid":      {asymmetric, sign(jose.HS512, der, nil, good(nil)), "does not know"},
		"a private key and a secret": {shared, sign(jose.RS256, rsaKey, nil, good(nil)), "does not know"},
		"a curve without a key":      {asymmetric, sign(jose.ES384, p384, header{"kid": "2"}, good(nil)), "does not know"},
		"not the declared algorithm": {declared, sign(jose.RS256, rsaKey, header{"kid": "r"}, good(nil)), "does not know"},
		"a secret too short":         {short, sign(jose.HS512, []byte(secret), nil, good(nil)), "does not know"},
		"alg none":                   {shared, b64([]byte(`{"alg":"none"}`)) + "." + parts[1] + ".", "alg"},
		"alg NONE with a signature":  {shared, b64([]byte(`{"alg":"NONE"}`)) + "." + parts[1] + "." + parts[2], "alg"},
		"no signature":               {shared, parts[0] + "." + parts[1] + ".", "is invalid"},
		"changed claims":             {shared, parts[0] + "." + b64(must(json.Marshal(good(claims{"sub": "bob"})))) + "." + parts[2], "is invalid"},
		"crit":                       {shared, sign(jose.HS256, []byte(secret), header{"crit": []string{"b64"}, "b64": true}, good(nil)), "crit"},
		"a logout token":             {shared, sign(jose.HS256, []byte(secret), header{"typ": "logout+jwt"}, good(nil)), "typ"},
		"five parts":                 {shared, hs(nil) + ".a.b", "not a signed JWT"},
		"JSON":                       {shared, `{"payload":"x"}`, "not a signed JWT"},
		"nothing":                    {shared, "", "not a signed JWT"},
		"very long":                  {shared, strings.Repeat("a", 9000), "bytes"},

		"expired":                {shared, hs(claims{"exp": now.Add(-31 * time.Second).Unix()}), "expired at"},
		"no exp":                 {shared, hs(claims{"exp": nil}), "no exp"},
		"exp as text":            {shared, hs(claims{"exp": "tomorrow"}), "exp is not a date"},
		"exp past all dates":     {shared, hs(claims{"exp": 1e300}), "exp is not a date"},
		"exp below all dates":    {shared, hs(claims{"exp": -1e300}), "exp is not a date"},
		"not yet valid":          {shared, hs(claims{"nbf": now.Add(time.Minute).Unix()}), "nbf is in the future"},
		"issued in the future":   {shared, hs(claims{"iat": now.Add(time.Minute).Unix()}), "iat is in the future"},
		"another issuer":         {shared, hs(claims{"iss": "https://issuer/"}), `iss must be "https://issuer"`},
		"no issuer":              {shared, hs(claims{"iss": nil}), "iss must be"},
		"another audience":       {shared, hs(claims{"aud": "ganglio"}), `aud must contain "ganglion"`},
		"no audience":            {shared, hs(claims{"aud": nil}), "aud must contain"},
		"an unwanted audience":   {noAudience, hs(nil), "configured without one"},
		"aud as a number":        {shared, hs(claims{"aud": 3}), "aud is neither"},
		"no sub":                 {shared, hs(claims{"sub": nil}), "no sub"},
		"sub as a number":        {shared, hs(claims{"sub": 7}), "no sub"},
		"sub that is not an id":  {shared, hs(claims{"sub": "a/b"}), "sub"},
		"a reserved sub":         {shared, hs(claims{"sub": "~wake"}), "reserved"},
		"an empty sub":           {shared, hs(claims{"sub": ""}), "sub"},
		"a duplicate claim":      {shared, signBytes(jose.HS256, []byte(secret), nil, []byte(`{"sub":"ada","sub":"bob"}`)), "not a JSON object"},
		"claims that are null":   {shared, signBytes(jose.HS256, []byte(secret), nil, []byte(`null`)), "not a JSON object"},
		"claims that are a list": {shared, signBytes(jose.HS256, []byte(secret), nil, []byte(`[1]`)), "not a JSON object"},
	} {
		id, err := c.by.Token(t.Context(), c.token)
		if err == nil || id.Client != "" {
			t.Errorf("%s: accepted as %q", name, id.Client)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q does not contain %q", name, err, c.want)
		}
		for _, part := range strings.Split(c.token, ".") {
			if len(part) > 4 && strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q repeats the token", name, err)
			}
		}
	}
}

func TestLeewayExtendsIdentityOnce(t *testing.T) {
	t.Parallel()
	exp := time.Now().Add(-5 * time.Second).Truncate(time.Second)
	late := sign(jose.HS256, []byte(secret), nil, claims{"sub": "ada", "exp": exp.Unix(), "iat": exp.Add(15 * time.Second).Unix()})
	lenient := authenticator(t, token.Config{HMACFile: file(t, secret), Leeway: time.Minute})
	id, err := lenient.Token(t.Context(), late)
	if err != nil || !id.Expires.Equal(exp.Add(time.Minute)) {
		t.Errorf("within the leeway: %+v, %v", id, err)
	}
	strict := authenticator(t, token.Config{HMACFile: file(t, secret), Leeway: -1})
	if _, err := strict.Token(t.Context(), late); err == nil {
		t.Error("an expired token was accepted without leeway")
	}
}

func TestClientIDWithoutTokenIsRefused(t *testing.T) {
	t.Parallel()
	a := authenticator(t, token.Config{HMACFile: file(t, secret)})
	if id, err := a.Trust(t.Context(), "ada"); err == nil || id.Client != "" {
		t.Errorf("trusted %+v", id)
	}
}

func TestConfigurationErrorsAreReportedTogether(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cfg  token.Config
		want []string
	}{
		{token.Config{}, []string{"set HMACFile or JWKS"}},
		{token.Config{HMACFile: "f", JWKS: "http://example.com/keys", Wait: -1}, []string{"exclude each other", "use https", "Wait is -1ns"}},
		{token.Config{JWKS: "ftp://example.com/keys"}, []string{"fetched by ftp"}},
		{token.Config{JWKS: "https:///keys"}, []string{"URL of the key set is invalid"}},
		{token.Config{HMACFile: file(t, "too short")}, []string{"line 1", "9 bytes", "openssl"}},
		{token.Config{HMACFile: file(t, " \n\n")}, []string{"no secret"}},
		{token.Config{HMACFile: file(t, secret+"\n"+strings.Repeat("\x01", 40))}, []string{"line 2", "not plain text"}},
		{token.Config{HMACFile: filepath.Join(t.TempDir(), "none")}, []string{"no such file"}},
		{token.Config{HMACFile: file(t, strings.Repeat("x", 2<<20))}, []string{"larger than"}},
		{token.Config{JWKS: file(t, secret)}, []string{"not a JSON Web Key Set"}},
		{token.Config{JWKS: file(t, `{"keys":[]}`)}, []string{"no key that verifies tokens: its list is empty"}},
		{token.Config{JWKS: file(t, `{"keys":[{"kty":"new"},7]}`)}, []string{"key 1", "key 2"}},
		{token.Config{JWKS: file(t, jwks(map[string]any{"private": p256}))}, []string{"not a public"}},
		{token.Config{JWKS: file(t, jwks(map[string]any{"weak": public(weakRSA)}))}, []string{"1024 bits"}},
		{token.Config{JWKS: file(t, jwks(map[string]any{"oct": []byte(secret)}))}, []string{"it is a secret"}},
		{token.Config{JWKS: file(t, `{"keys":[`+strings.Repeat("1,", 100)+`1]}`)}, []string{"101 keys"}},
	} {
		_, err := token.New(t.Context(), c.cfg)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v does not contain %q", c.cfg, err, want)
			}
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%v repeats a secret", err)
		}
	}
}

func TestSignedTokenIsAccepted(t *testing.T) {
	t.Parallel()
	name := file(t, secret+"\n"+strings.Repeat("y", 40))
	text, err := token.Sign(name, token.Grant{
		Client: "ada", Issuer: "https://issuer", Audience: "ganglion", ExpiresIn: time.Minute, Claims: claims{"role": "judge"},
	})
	if err != nil {
		t.Fatal(err)
	}
	a := authenticator(t, token.Config{HMACFile: name, Issuer: "https://issuer", Audience: "ganglion"})
	id, err := a.Token(context.Background(), text)
	if err != nil || id.Client != "ada" || id.Claims["role"] != "judge" {
		t.Errorf("%+v, %v", id, err)
	}
	for want, g := range map[string]token.Grant{
		"client id":  {Client: "a/b", ExpiresIn: time.Minute},
		"one second": {Client: "ada"},
		"claim exp":  {Client: "ada", ExpiresIn: time.Minute, Claims: claims{"exp": 1}},
		"bytes":      {Client: "ada", ExpiresIn: time.Minute, Claims: claims{"long": strings.Repeat("x", 9000)}},
	} {
		if _, err := token.Sign(name, g); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v does not contain %q", g, err, want)
		}
	}
}

func TestKeyForAnotherUseVerifiesNothing(t *testing.T) {
	t.Parallel()
	set := func(keys ...jose.JSONWebKey) token.Config {
		return token.Config{JWKS: file(t, string(must(json.Marshal(jose.JSONWebKeySet{Keys: keys})))), Audience: "ganglion"}
	}
	sig := jose.JSONWebKey{Key: public(p256), KeyID: "sig", Use: "sig"}
	enc := jose.JSONWebKey{Key: public(p384), KeyID: "enc", Use: "enc"}
	a := authenticator(t, set(enc, sig))
	if _, err := a.Token(t.Context(), sign(jose.ES256, p256, header{"kid": "sig"}, good(nil))); err != nil {
		t.Errorf("the key for signatures: %v", err)
	}
	for _, kid := range []any{"enc", "sig", ""} {
		if id, err := a.Token(t.Context(), sign(jose.ES384, p384, header{"kid": kid}, good(nil))); err == nil {
			t.Errorf("a token signed with the key for encryption, with the kid %q, was accepted: %+v", kid, id)
		}
	}
	if _, err := token.New(t.Context(), set(enc)); err == nil || !strings.Contains(err.Error(), "not for signatures") {
		t.Errorf("a set without a key for signatures: %v", err)
	}
}

// FuzzToken checks that every text that was not signed with the keys is refused,
// without a panic.
func FuzzToken(f *testing.F) {
	shared := authenticator(f, token.Config{HMACFile: file(f, secret), Audience: "ganglion"})
	keys := authenticator(f, token.Config{JWKS: file(f, jwks(map[string]any{"r": public(rsaKey), "2": public(p256), "e": public(edKey)}))})
	f.Add("")
	f.Add("a.b.c")
	f.Add(sign(jose.HS256, []byte(strings.ToUpper(secret)), nil, good(nil)))
	f.Add(sign(jose.ES256, ec(elliptic.P256()), header{"kid": "2", "typ": "JWT"}, good(nil)))
	f.Add(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + ".e30.")
	f.Fuzz(func(t *testing.T, text string) {
		for _, a := range []*token.Authenticator{shared, keys} {
			if id, err := a.Token(t.Context(), text); err == nil || id.Client != "" {
				t.Errorf("accepted as %q", id.Client)
			}
		}
	})
}

// FuzzKeySet checks that every response of an issuer is refused or is a usable key
// set.
func FuzzKeySet(f *testing.F) {
	f.Add(jwks(map[string]any{"r": public(rsaKey), "5": public(p521), "oct": []byte(secret)}))
	f.Add(`{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}]}`)
	f.Add(`{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB","x5c":["AA"]}]}`)
	text := sign(jose.ES256, ec(elliptic.P256()), header{"kid": "2"}, good(nil))
	f.Fuzz(func(t *testing.T, set string) {
		a, err := token.New(t.Context(), token.Config{JWKS: file(t, set)})
		if err != nil {
			return
		}
		if _, err := a.Token(t.Context(), text); err == nil {
			t.Error("a token signed with an unknown key was accepted")
		}
	})
}

func TestNonUnicodeClaimsAreRefused(t *testing.T) {
	t.Parallel()
	a := authenticator(t, token.Config{HMACFile: file(t, secret)})
	for name, sub := range map[string]string{
		"half of a surrogate pair": `ada\ud800`,
		"the other half":           `\ude00`,
		"a byte that is not UTF-8": "ada\xff",
	} {
		payload := fmt.Sprintf(`{"sub":"%s","exp":%d}`, sub, time.Now().Add(time.Hour).Unix())
		id, err := a.Token(t.Context(), signBytes(jose.HS256, []byte(secret), nil, []byte(payload)))
		if err == nil || !strings.Contains(err.Error(), "not Unicode") {
			t.Errorf("%s: client %q, error %v", name, id.Client, err)
		}
	}
	payload := fmt.Sprintf(`{"sub":"\ud83d\ude00","exp":%d}`, time.Now().Add(time.Hour).Unix())
	if id, err := a.Token(t.Context(), signBytes(jose.HS256, []byte(secret), nil, []byte(payload))); err != nil || id.Client != "\U0001F600" {
		t.Errorf("a pair: client %q, error %v", id.Client, err)
	}
}
