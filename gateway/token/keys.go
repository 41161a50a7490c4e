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
	// maxToken bounds a token, in bytes. Claims travel with every command.
	maxToken = 8 << 10
	// maxKeys bounds a key set: each may be tried for a token that names none.
	maxKeys = 100
	// minRSA is the least size of an RSA key, in bits (RFC 7518, section 3.3).
	minRSA = 2048
	// minSecret is the least size of a secret, in bytes: that of the shortest
	// hash (RFC 7518, section 3.2).
	minSecret = 32
)

// algorithms are all that any key may verify. Which one fits which key, fits
// decides.
var algorithms = []jose.SignatureAlgorithm{
	jose.HS256, jose.HS384, jose.HS512,
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// signed is a token whose signature has yet to be checked.
type signed struct {
	*jose.JSONWebSignature
	alg jose.SignatureAlgorithm
	kid string
}

// parse takes a token apart.
func parse(token string) (signed, error) {
	if len(token) > maxToken {
		return signed{}, fmt.Errorf("the token has %d bytes, more than %d", len(token), maxToken)
	}
	jws, err := jose.ParseSignedCompact(token, algorithms)
	var alg *jose.ErrUnexpectedSignatureAlgorithm
	switch {
	case errors.As(err, &alg):
		return signed{}, errors.New("the token's alg is none that verifies clients: HS, RS, PS or ES with 256, 384 or 512, or EdDSA")
	case err != nil:
		return signed{}, errors.New("this is no signed JWT in compact form (header.claims.signature)")
	}
	header := jws.Signatures[0].Protected
	if _, ok := header.ExtraHeaders["crit"]; ok {
		return signed{}, errors.New("the token's header has crit, and nothing that could be critical is understood here")
	}
	// A token of the same issuer for another purpose, such as a logout, says
	// so by its type (RFC 8725, section 3.11).
	if typ, ok := header.ExtraHeaders["typ"]; ok {
		name, _ := typ.(string)
		switch strings.TrimPrefix(strings.ToLower(name), "application/") {
		case "jwt", "at+jwt":
		default:
			return signed{}, errors.New("the token's typ is neither JWT nor at+jwt: it is meant for something else")
		}
	}
	return signed{JSONWebSignature: jws, alg: jose.SignatureAlgorithm(header.Algorithm), kid: header.KeyID}, nil
}

// keySet has the keys that verify tokens. It is immutable.
type keySet struct {
	raw  []byte // what it was read from
	keys []key
}

// key is a secret ([]byte) or a public key.
type key struct {
	kid      string // "" if the source names none
	declared string // the only algorithm that its owner wants it for, "" for any that fits
	material any
}

// fits tells whether the key may verify an algorithm. Its kind decides, not
// the token: this is what makes confusion of algorithms impossible.
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
	case "Ed25519": // what RFC 9864 calls EdDSA with this curve
		if alg != jose.EdDSA {
			return false
		}
	default:
		return false
	}
	return slices.Contains(fitting, alg)
}

// knows tells whether the set has the very key that a token names. If not, a
// newer set may.
func (s *keySet) knows(t signed) bool {
	return t.kid != "" && slices.ContainsFunc(s.keys, func(k key) bool { return k.kid == t.kid })
}

// errNoKeys says that it is not the token's fault.
var errNoKeys = fmt.Errorf("%w: the keys that verify them could not be fetched yet", gateway.ErrAuthUnavailable)

// verify returns a token's claims if one of the keys signed it. A token that
// names its key is tried with that one, and with those that have no name.
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
		return nil, fmt.Errorf("the token is signed by %s with a key that is unknown here", t.alg)
	}
	return nil, errors.New("the token's signature is not good: it was made with another key, or changed on its way")
}

// parseSecrets reads secrets, one on each line. They are used as they are
// written, so that any other program that signs takes the same text.
func parseSecrets(raw []byte) (*keySet, error) {
	set := &keySet{raw: raw}
	for n, line := range slices.Collect(bytes.Lines(raw)) {
		line = bytes.TrimSpace(line)
		switch {
		case len(line) == 0:
		case bytes.ContainsFunc(line, func(r rune) bool { return r < ' ' || r > '~' }):
			return nil, fmt.Errorf("line %d is not plain text: make a secret with 'openssl rand -hex 64'", n+1)
		case len(line) < minSecret:
			return nil, fmt.Errorf("the secret on line %d has %d bytes, it needs %d: make one with 'openssl rand -hex 64'", n+1, len(line), minSecret)
		default:
			set.keys = append(set.keys, key{material: bytes.Clone(line)})
		}
	}
	return set, set.check(errors.New("it has no secret: make one with 'openssl rand -hex 64'"))
}

// parseJWKS reads a key set. Keys that can't verify tokens are left out, as
// RFC 7517, section 5, asks for.
func parseJWKS(raw []byte) (*keySet, error) {
	var doc struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil || doc.Keys == nil {
		return nil, errors.New("it is no JSON Web Key Set: a JSON object with a list of keys")
	}
	if len(doc.Keys) > maxKeys {
		return nil, fmt.Errorf("it has %d keys, more than %d", len(doc.Keys), maxKeys)
	}
	set := &keySet{raw: raw}
	var left []error
	for i, raw := range doc.Keys {
		var jwk jose.JSONWebKey
		err := json.Unmarshal(raw, &jwk)
		if err == nil {
			err = usable(jwk)
		}
		if err != nil {
			left = append(left, fmt.Errorf("key %d: %w", i+1, err))
			continue
		}
		set.keys = append(set.keys, key{kid: jwk.KeyID, declared: jwk.Algorithm, material: jwk.Key})
	}
	if len(doc.Keys) == 0 {
		left = append(left, errors.New("its list is empty"))
	}
	return set, set.check(fmt.Errorf("it has no key that verifies tokens: %w", errors.Join(left...)))
}

func (s *keySet) check(empty error) error {
	if len(s.keys) == 0 {
		return empty
	}
	if len(s.keys) > maxKeys {
		return fmt.Errorf("it has %d keys, more than %d", len(s.keys), maxKeys)
	}
	return nil
}

// usable says why a key of a key set verifies no tokens.
func usable(jwk jose.JSONWebKey) error {
	if jwk.Use != "" && jwk.Use != "sig" {
		return errors.New("it is not for signatures")
	}
	switch k := jwk.Key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSA {
			return fmt.Errorf("RSA with %d bits, fewer than %d", k.N.BitLen(), minRSA)
		}
	case *ecdsa.PublicKey, ed25519.PublicKey:
	case []byte:
		return errors.New("a secret has no place in a key set: put it in the file of secrets")
	default:
		return errors.New("it is no public RSA, EC or Ed25519 key")
	}
	return nil
}
