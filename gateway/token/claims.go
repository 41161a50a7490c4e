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

// lastDate is the latest date that RFC 3339 can write: 9999-12-31T23:59:59Z.
const lastDate = 253402300799

// identity reads the claims of a token whose signature was good.
func (c Config) identity(payload []byte, now time.Time) (gateway.Identity, error) {
	var none gateway.Identity
	var claims map[string]any
	if err := json.Unmarshal(payload, &claims); err != nil || claims == nil {
		return none, errors.New("the token's claims are no JSON object")
	}
	// The decoder replaces what is not Unicode: two subjects would be one client.
	if !utf8.Valid(payload) || frame.HasHalfPair(payload) {
		return none, errors.New("the token's claims are not Unicode: they have bytes that are not UTF-8, or half of a surrogate pair")
	}

	exp, has, err := date(claims, "exp")
	switch {
	case err != nil:
		return none, err
	case !has:
		return none, errors.New("the token has no exp: only tokens that expire are taken")
	case !now.Before(exp.Add(c.Leeway)):
		return none, fmt.Errorf("the token expired at %s, it is %s: get a new one", stamp(exp), stamp(now))
	}
	for _, name := range []string{"nbf", "iat"} {
		from, _, err := date(claims, name)
		switch {
		case err != nil:
			return none, err
		case from.After(now.Add(c.Leeway)):
			return none, fmt.Errorf("the token's %s lies in the future, at %s, and it is %s here: compare the clocks", name, stamp(from), stamp(now))
		}
	}

	if c.Issuer != "" && claims["iss"] != c.Issuer {
		return none, fmt.Errorf("the token's iss must be %q", c.Issuer)
	}
	switch audience, has, err := audience(claims); {
	case err != nil:
		return none, err
	case c.Audience == "" && has:
		return none, errors.New("the token is for an audience, and this gateway is configured to be none")
	case c.Audience != "" && !slices.Contains(audience, c.Audience):
		return none, fmt.Errorf("the token's aud must have %q", c.Audience)
	}

	client, ok := claims["sub"].(string)
	if !ok {
		return none, errors.New("the token has no sub, which is the client id")
	}
	if err := eventstore.ValidateID(client); err != nil {
		return none, fmt.Errorf("the token's sub, which is the client id: %w", err)
	}
	return gateway.Identity{Client: client, Claims: claims, Expires: exp.Add(c.Leeway)}, nil
}

// date reads a NumericDate: seconds since 1970, perhaps with a fraction. The
// zero time stands for one that is missing.
func date(claims map[string]any, name string) (at time.Time, has bool, err error) {
	value, has := claims[name]
	if !has {
		return time.Time{}, false, nil
	}
	seconds, ok := value.(float64)
	if !ok || seconds < 0 || seconds > lastDate {
		return time.Time{}, true, fmt.Errorf("the token's %s is no date in seconds since 1970", name)
	}
	return time.UnixMilli(int64(seconds * 1000)), true, nil
}

// audience reads aud, one string or a list of them.
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
			return nil, true, errors.New("the token's aud is no string and no list of strings")
		}
		audience = append(audience, s)
	}
	return audience, true, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
