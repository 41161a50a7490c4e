package token

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"github.com/ganglion-es/ganglion/gateway"
)

const (
	// maxToken bounds a token, in bytes. Its claims are forwarded with every
	// command.
	maxToken = 8 << 10
	// maxKeys bounds a key set: a token that names no key may be tried with each
	// of them.
	maxKeys = 100
	// minRSA is the smallest size of an RSA key, in bits (RFC 7518, section 3.3).
	minRSA = 2048
	// minSecret is the smallest size of a secret, in bytes: the size of the
	// shortest hash (RFC 7518, section 3.2).
	minSecret = 32
)

// algorithms are the accepted signature algorithms. [key.fits] decides which of
// them a key may verify.
var algorithms = []jose.SignatureAlgorithm{
	jose.HS256, jose.HS384, jose.HS512,
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// signed is a parsed token whose signature has not been checked yet.
type signed struct {
	*jose.JSONWebSignature
	alg jose.SignatureAlgorithm
	kid string
}

// parse decodes a token and checks its header, but not its signature.
func parse(token string) (signed, error) {
	if len(token) > maxToken {
		return signed{}, fmt.Errorf("the token has %d bytes; at most %d are allowed", len(token), maxToken)
	}
	jws, err := jose.ParseSignedCompact(token, algorithms)
	var alg *jose.ErrUnexpectedSignatureAlgorithm
	switch {
	case errors.As(err, &alg):
		return signed{}, errors.New("the token's alg is not accepted: use HS, RS, PS or ES with 256, 384 or 512, or EdDSA")
	case err != nil:
		return signed{}, errors.New("the token is not a signed JWT in compact form (header.claims.signature)")
	}
	header := jws.Signatures[0].Protected
	if _, ok := header.ExtraHeaders["crit"]; ok {
		return signed{}, errors.New("the token's header has crit, but no extension is supported: get a token without crit")
	}
	// The type marks an issuer's tokens for other purposes, such as a logout
	// (RFC 8725, section 3.11).
	if typ, ok := header.ExtraHeaders["typ"]; ok {
		name, _ := typ.(string)
		switch strings.TrimPrefix(strings.ToLower(name), "application/") {
		case "jwt", "at+jwt":
		default:
			return signed{}, errors.New("the token's typ is neither JWT nor at+jwt: the token is meant for another purpose")
		}
	}
	return signed{JSONWebSignature: jws, alg: jose.SignatureAlgorithm(header.Algorithm), kid: header.KeyID}, nil
}

// keySet holds the keys that verify tokens. It is immutable.
type keySet struct {
	raw  []byte // content of the file or response
	keys []key
}

// key is a secret ([]byte) or a public key.
type key struct {
	kid      string // "" if the source names none
	declared string // the only algorithm that the source allows for it, "" for any that fits
	material any
}

// fits reports whether the key may verify an algorithm. The kind of the key
// decides, not the token, so a token can't pass a public key off as a secret.
func (k key) fits(alg jose.SignatureAlgorithm) bool {
	var fitting []jose.SignatureAlgorithm
	switch material := k.material.(type) {
	case []byte: // at least as long as the hash (RFC 7518, section 3.2)
		for i, hs := range []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512} {
			if len(material) >= minSecret+16*i {
				fitting = append(fitting, hs)
			}
		}
	case *rsa.PublicKey:
		fitting = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}
	case *ecdsa.PublicKey:
		switch material.Curve {
		case elliptic.P256():
			fitting = append(fitting, jose.ES256)
		case elliptic.P384():
			fitting = append(fitting, jose.ES384)
		case elliptic.P521():
			fitting = append(fitting, jose.ES512)
		}
	case ed25519.PublicKey:
		fitting = append(fitting, jose.EdDSA)
	}
	switch k.declared {
	case "", string(alg):
	case "Ed25519": // the name of EdDSA with this curve in RFC 9864
		if alg != jose.EdDSA {
			return false
		}
	default:
		return false
	}
	return slices.Contains(fitting, alg)
}

// knows reports whether the set contains the key that a token names. If not, a
// newer set may contain it.
func (s *keySet) knows(t signed) bool {
	return t.kid != "" && slices.ContainsFunc(s.keys, func(k key) bool { return k.kid == t.kid })
}

// errNoKeys is the error for any token before the first keys were read. It wraps
// ErrAuthUnavailable, since the token may be valid.
var errNoKeys = fmt.Errorf("%w: the keys that verify them could not be fetched yet", gateway.ErrAuthUnavailable)

// verify returns a token's claims if one of the keys signed it. If the token
// names its key, verify tries only the keys of that name and those without one.
func (s *keySet) verify(t signed) ([]byte, error) {
	if len(s.keys) == 0 {
		return nil, errNoKeys
	}
	tried := false
	for _, k := range s.keys {
		if t.kid != "" && k.kid != "" && t.kid != k.kid || !k.fits(t.alg) {
			continue
		}
		tried = true
		if payload, err := t.Verify(k.material); err == nil {
			return payload, nil
		}
	}
	if !tried {
		return nil, fmt.Errorf("the token is signed with %s by a key that this gateway does not know", t.alg)
	}
	return nil, errors.New("the token's signature is invalid: the token was signed with another key, or changed later")
}

// parseSecrets reads secrets, one per line. The text of a line is the secret: it
// is not decoded, so that a program that signs tokens can use the same text.
func parseSecrets(raw []byte) (*keySet, error) {
	set := &keySet{raw: raw}
	for n, line := range slices.Collect(bytes.Lines(raw)) {
		line = bytes.TrimSpace(line)
		switch {
		case len(line) == 0:
		case bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }):
			return nil, fmt.Errorf("line %d is not plain text: make a secret with 'openssl rand -hex 64'", n+1)
		case len(line) < minSecret:
			return nil, fmt.Errorf("the secret on line %d has %d bytes, but needs at least %d: make one with 'openssl rand -hex 64'", n+1, len(line), minSecret)
		default:
			set.keys = append(set.keys, key{material: bytes.Clone(line)})
		}
	}
	return set, set.check(errors.New("it has no secret: make one with 'openssl rand -hex 64'"))
}

// parseJWKS reads a key set. It leaves out keys that can't verify tokens, as RFC
// 7517, section 5, recommends.
func parseJWKS(raw []byte) (*keySet, error) {
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil || doc.Keys == nil {
		return nil, errors.New("it is not a JSON Web Key Set, a JSON object with a list named keys")
	}
	if len(doc.Keys) > maxKeys {
		return nil, fmt.Errorf("it has %d keys; at most %d are allowed", len(doc.Keys), maxKeys)
	}
	set := &keySet{raw: raw}
	var unusable []error
	for i, raw := range doc.Keys {
		var jwk jose.JSONWebKey
		err := json.Unmarshal(raw, &jwk)
		if err == nil {
			err = checkPurpose(jwk)
		}
		if err != nil {
			unusable = append(unusable, fmt.Errorf("key %d: %w", i+1, err))
			continue
		}
		set.keys = append(set.keys, key{kid: jwk.KeyID, declared: jwk.Algorithm, material: jwk.Key})
	}
	if len(doc.Keys) == 0 {
		unusable = append(unusable, errors.New("its list is empty"))
	}
	return set, set.check(fmt.Errorf("it has no key that verifies tokens: %w", errors.Join(unusable...)))
}

// check returns the error empty if the set has no keys.
func (s *keySet) check(empty error) error {
	if len(s.keys) == 0 {
		return empty
	}
	if len(s.keys) > maxKeys {
		return fmt.Errorf("it has %d keys; at most %d are allowed", len(s.keys), maxKeys)
	}
	return nil
}

// checkPurpose returns an error if a key of a key set can't verify tokens.
func checkPurpose(jwk jose.JSONWebKey) error {
	if jwk.Use != "" && jwk.Use != "sig" {
		return errors.New("it is not for signatures")
	}
	switch k := jwk.Key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSA {
			return fmt.Errorf("the RSA key has %d bits, but needs at least %d", k.N.BitLen(), minRSA)
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	case []byte:
		return errors.New("it is a secret: move it to the file of secrets")
	default:
		return errors.New("it is not a public RSA, EC or Ed25519 key")
	}
	return nil
}
