package token

import (
	"errors"
	"fmt"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4/json"

	"github.com/ganglion-es/ganglion/eventstore"
	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/proto/frame"
)

// lastDate is the latest date that RFC 3339 can represent: 9999-12-31T23:59:59Z.
const lastDate = 253402300799

// identity checks the claims of a token whose signature is valid, and returns
// the identity that they state.
func (c Config) identity(payload []byte, now time.Time) (gateway.Identity, error) {
	var none gateway.Identity
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil || claims == nil {
		return none, errors.New("the token's claims are not a JSON object")
	}
	// The decoder replaces invalid Unicode, so two subjects could become one client.
	if !utf8.Valid(payload) || frame.HasHalfPair(payload) {
		return none, errors.New("the token's claims are not Unicode: they contain invalid UTF-8 or half of a surrogate pair")
	}

	exp, has, err := date(claims, "exp")
	switch {
	case err != nil:
		return none, err
	case !has:
		return none, errors.New("the token has no exp: only tokens that expire are accepted")
	case !now.Before(exp.Add(c.Leeway)):
		return none, fmt.Errorf("the token expired at %s, and it is %s now: get a new one", stamp(exp), stamp(now))
	}
	for _, name := range []string{"nbf", "iat"} {
		from, _, err := date(claims, name)
		switch {
		case err != nil:
			return none, err
		case from.After(now.Add(c.Leeway)):
			return none, fmt.Errorf("the token's %s is in the future: it is %s, and this node's clock shows %s; compare the clocks", name, stamp(from), stamp(now))
		}
	}

	if c.Issuer != "" && claims["iss"] != c.Issuer {
		return none, fmt.Errorf("the token's iss must be %q", c.Issuer)
	}
	switch audience, has, err := audience(claims); {
	case err != nil:
		return none, err
	case c.Audience == "" && has:
		return none, errors.New("the token names an audience (aud), but this gateway is configured without one: get a token without aud")
	case c.Audience != "" && !slices.Contains(audience, c.Audience):
		return none, fmt.Errorf("the token's aud must contain %q", c.Audience)
	}

	client, ok := claims["sub"].(string)
	if !ok {
		return none, errors.New("the token has no sub that is a string: sub is the client id")
	}
	if err := eventstore.ValidateClient(client); err != nil {
		return none, fmt.Errorf("the token's sub is not a valid client id: %w", err)
	}
	return gateway.Identity{Client: client, Claims: claims, Expires: exp.Add(c.Leeway)}, nil
}

// date reads a claim of type NumericDate: seconds since 1970, with or without a
// fraction. It returns the zero time if the claim is missing.
func date(claims map[string]any, name string) (at time.Time, has bool, err error) {
	value, has := claims[name]
	if !has {
		return time.Time{}, false, nil
	}
	seconds, ok := value.(float64)
	if !ok || seconds < 0 || seconds > lastDate {
		return time.Time{}, true, fmt.Errorf("the token's %s is not a date in seconds since 1970", name)
	}
	return time.UnixMilli(int64(seconds * 1000)), true, nil
}

// audience reads aud, a string or a list of strings.
func audience(claims map[string]any) (audience []string, has bool, err error) {
	value, has := claims["aud"]
	if !has {
		return nil, false, nil
	}
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	for _, one := range list {
		s, ok := one.(string)
		if !ok {
			return nil, true, errors.New("the token's aud is neither a string nor a list of strings")
		}
		audience = append(audience, s)
	}
	return audience, true, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
