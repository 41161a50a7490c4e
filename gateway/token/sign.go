package token

import (
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"github.com/ganglion-es/ganglion/eventstore"
)

// Grant is the content of a token.
type Grant struct {
	// Client is the client id. Required.
	Client string
	// Issuer and Audience are the claims iss and aud. Empty ones are left out.
	Issuer, Audience string
	// ExpiresIn is the lifetime of the token, in whole seconds. Required.
	ExpiresIn time.Duration
	// Claims are further claims. They must not include claims that RFC 7519,
	// section 4.1, registers.
	Claims map[string]any
}

// registered are the claims that the other fields of a Grant set.
var registered = []string{"aud", "exp", "iat", "iss", "jti", "nbf", "sub"}

// Sign makes a token and signs it with the first secret of a file, by HS256. It
// serves development, tests, and servers that make tokens for their own clients.
func Sign(hmacFile string, g Grant) (string, error) {
	var errs []error
	if err := eventstore.ValidateClient(g.Client); err != nil {
		errs = append(errs, fmt.Errorf("token: the client id is not valid: %w", err))
	}
	if g.ExpiresIn < time.Second {
		errs = append(errs, fmt.Errorf("token: the lifetime is %v: it must be at least one second", g.ExpiresIn))
	}
	for _, name := range registered {
		if _, ok := g.Claims[name]; ok {
			errs = append(errs, fmt.Errorf("token: the claim %s is reserved (RFC 7519): it can't be a further claim", name))
		}
	}
	if len(errs) > 0 {
		return "", errors.Join(errs...)
	}
	secrets, err := readFile(hmacFile, parseSecrets)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}

	now := time.Now()
	claims := map[string]any{"sub": g.Client, "iat": now.Unix(), "exp": now.Add(g.ExpiresIn).Unix(), "jti": rand.Text()}
	if g.Issuer != "" {
		claims["iss"] = g.Issuer
	}
	if g.Audience != "" {
		claims["aud"] = g.Audience
	}
	maps.Copy(claims, g.Claims)
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("token: the claims: %w", err)
	}
	key := jose.SigningKey{Algorithm: jose.HS256, Key: secrets.keys[0].material}
	signer, err := jose.NewSigner(key, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("token: %w", err)
	}
	token, err := jws.CompactSerialize()
	if err == nil && len(token) > maxToken {
		err = fmt.Errorf("token: the token has %d bytes; at most %d are allowed: give it fewer claims", len(token), maxToken)
	}
	return token, err
}
