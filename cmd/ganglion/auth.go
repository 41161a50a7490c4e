package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/ganglion-es/ganglion/gateway/token"
)

// grantFlags are what a token says beside the client id: a node wants it, and
// the token command writes it.
type grantFlags struct {
	JWTHMACFile string `name:"jwt-hmac-file" help:"File with shared secrets, one on each line, for HS256, HS384 and HS512." env:"GANGLION_JWT_HMAC_FILE" placeholder:"FILE"`
	JWTIssuer   string `name:"jwt-issuer" help:"The iss of tokens." env:"GANGLION_JWT_ISSUER" placeholder:"ISS"`
	JWTAudience string `name:"jwt-audience" help:"The aud of tokens." env:"GANGLION_JWT_AUDIENCE" placeholder:"AUD"`
}

// authFlags say how clients prove who they are.
type authFlags struct {
	Auth string `help:"How clients prove who they are: dev trusts any client id, jwt wants a token." enum:"dev,jwt" default:"dev" env:"GANGLION_AUTH"`

	grantFlags

	JWTJWKS         string        `name:"jwt-jwks" help:"The issuer's public keys as a JSON Web Key Set, for RS, PS, ES and EdDSA." env:"GANGLION_JWT_JWKS" placeholder:"URL|FILE"`
	JWTJWKSInsecure bool          `name:"jwt-jwks-insecure" help:"Allow a URL without TLS on other than loopback hosts." env:"GANGLION_JWT_JWKS_INSECURE"`
	JWTRevocations  string        `name:"jwt-revocations" help:"File of revoked tokens, as «ganglion revoke» writes it. Read again when it changes." env:"GANGLION_JWT_REVOCATIONS" placeholder:"FILE"`
	JWTLeeway       time.Duration `name:"jwt-leeway" help:"How far the issuer's clock and this one may differ." default:"30s" env:"GANGLION_JWT_LEEWAY"`
}

// authenticator is what --auth jwt asks for, nil for --auth dev.
func (f authFlags) authenticator(ctx context.Context, log *slog.Logger) (*token.Authenticator, error) {
	given := f.JWTHMACFile + f.JWTJWKS + f.JWTIssuer + f.JWTAudience + f.JWTRevocations
	switch {
	case f.Auth == "dev" && given != "":
		return nil, usagef("the --jwt-… flags want --auth jwt: with --auth dev any client id is taken on trust, and no token is looked at")
	case f.Auth == "dev":
		return nil, nil
	case f.JWTHMACFile == "" && f.JWTJWKS == "":
		return nil, usagef("--auth jwt needs keys: give --jwt-hmac-file or --jwt-jwks")
	case f.JWTHMACFile != "" && f.JWTJWKS != "":
		return nil, usagef("--jwt-hmac-file and --jwt-jwks exclude each other: tokens are signed by a shared secret or by an issuer's key")
	case f.JWTLeeway < 0:
		return nil, usagef("--jwt-leeway is %v: it can't be negative", f.JWTLeeway)
	case f.JWTLeeway == 0:
		f.JWTLeeway = -1 // 0 is the default of token.Config
	}
	a, err := token.New(ctx, token.Config{
		HMACFile: f.JWTHMACFile, JWKS: f.JWTJWKS, AllowHTTP: f.JWTJWKSInsecure,
		Issuer: f.JWTIssuer, Audience: f.JWTAudience, Revocations: f.JWTRevocations, Leeway: f.JWTLeeway, Logger: log,
	})
	if err != nil {
		return nil, usageError{err}
	}
	return a, nil
}

// runWith runs a node and what serves it, which ends after the node.
func runWith(ctx context.Context, node, helper func(context.Context) error) error {
	beside, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- helper(beside) }()
	err := node(ctx)
	stop()
	if failed := <-done; err == nil {
		err = failed
	}
	return err
}

type tokenCmd struct {
	grantFlags
	Client    string        `help:"The client id." required:"" placeholder:"ID"`
	Claim     []string      `help:"A further claim; the value is JSON, or else text. Again for more." sep:"none" placeholder:"NAME=VALUE"`
	ExpiresIn time.Duration `help:"How long the token is good." default:"1h"`
}

// Help is what --help says beside the flags.
func (tokenCmd) Help() string {
	return `  ganglion token --jwt-hmac-file secret --client ada
  ganglion token --jwt-hmac-file secret --client ada --claim 'roles=["seller"]' --expires-in 10m`
}

func (c tokenCmd) Run() error {
	if c.JWTHMACFile == "" {
		return usagef("--jwt-hmac-file is missing: the file with the secret that the nodes were given")
	}
	claims := map[string]any{}
	for _, claim := range c.Claim {
		name, text, ok := strings.Cut(claim, "=")
		if _, twice := claims[name]; !ok || name == "" || twice {
			return usagef("--claim %q is not understood: write NAME=VALUE, each name once", claim)
		}
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			value = text
		}
		claims[name] = value
	}
	signed, err := token.Sign(c.JWTHMACFile, token.Grant{
		Client: c.Client, Issuer: c.JWTIssuer, Audience: c.JWTAudience, ExpiresIn: c.ExpiresIn, Claims: claims,
	})
	if err != nil {
		return usageError{err}
	}
	fmt.Println(signed)
	return nil
}

type revokeCmd struct {
	Revocations string        `name:"jwt-revocations" help:"The file that the gateways were given; it is made if it is not there." required:"" env:"GANGLION_JWT_REVOCATIONS" placeholder:"FILE"`
	Client      string        `help:"Revoke the tokens of this client id." xor:"what" required:"" placeholder:"ID"`
	TokenID     string        `name:"token-id" help:"Revoke the token with this jti." xor:"what" required:"" placeholder:"JTI"`
	Everybody   bool          `help:"Revoke all tokens." xor:"what" required:""`
	Before      time.Time     `help:"Revoke those issued before this time, in RFC 3339; now if not given." placeholder:"TIME"`
	For         time.Duration `help:"How long it is in force: at least as long as tokens live." default:"720h"`
}

// Help is what --help says beside the flags.
func (revokeCmd) Help() string {
	return `Gateways read the file again by themselves, and close sessions with such tokens.

  ganglion revoke --jwt-revocations revoked.jsonl --client bob
  ganglion revoke --jwt-revocations revoked.jsonl --token-id 5f0c --for 24h`
}

func (c revokeCmd) Run() error {
	now := time.Now().UTC().Truncate(time.Millisecond)
	r := token.Revocation{TokenID: c.TokenID, Client: c.Client, Before: c.Before, Until: now.Add(c.For)}
	switch {
	case c.For <= 0:
		return usagef("--for is %v: it must be as long as tokens live", c.For)
	case c.TokenID != "" && !c.Before.IsZero():
		return usagef("--before has no meaning for one token")
	case c.TokenID == "" && c.Before.IsZero():
		r.Before = now
	}
	if err := token.Revoke(c.Revocations, r); err != nil {
		return usageError{err}
	}
	fmt.Printf("revoked, in force until %s\n", r.Until.Format(time.RFC3339))
	return nil
}
