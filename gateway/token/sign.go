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

// Grant is what a token says.
type Grant struct {
	// Client is the client id. Required.
	Client string
	// Issuer and Audience are left out when empty.
	Issuer, Audience string
	// ExpiresIn is how long the token is good, in whole seconds. Required.
	ExpiresIn time.Duration
	// Claims are further ones. Those with a registered meaning (RFC 7519,
	// section 4.1) can't be set here.
	Claims map[string]any
}

// registered are the claims that the rest of a Grant is for.
var registered = []string{"aud", "exp", "iat", "iss", "jti", "nbf", "sub"}

// Sign makes a token with the first secret of a file, by HS256: for
// development and tests, and for servers that make their own clients' tokens.
func Sign(hmacFile string, g Grant) (string, error) {
	var errs []error
	if err := eventstore.ValidateID(g.Client); err != nil {
		errs = append(errs, fmt.Errorf("token: the client id: %w", err))
	}
	if g.ExpiresIn < time.Second {
		errs = append(errs, errors.New("token: a token must be good for a second at least"))
	}
	for _, name := range registered {
		if _, ok := g.Claims[name]; ok {
			errs = append(errs, fmt.Errorf("token: the claim %s has a meaning of its own and can't be set like others", name))
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
		err = fmt.Errorf("token: it has %d bytes, more than %d: give it fewer claims", len(token), maxToken)
	}
	return token, err
}
