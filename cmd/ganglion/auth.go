package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ganglion-es/ganglion/gateway/token"
)

// grantFlags set what a token says beside the client id: a node wants it, and
// the token command writes it.
func grantFlags(f *pflag.FlagSet, secrets, issuer, audience *string) {
	f.StringVar(secrets, "jwt-hmac-file", "", "`FILE` with shared secrets, one on each line, for HS256, HS384 and HS512.")
	f.StringVar(issuer, "jwt-issuer", "", "The `iss` of tokens.")
	f.StringVar(audience, "jwt-audience", "", "The `aud` of tokens.")
}

// authFlags say how clients prove who they are.
type authFlags struct {
	Auth string
	JWT  token.Config
}

func (f *authFlags) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.Auth, "auth", "dev", "How clients prove who they are: dev trusts any client id, jwt wants a token.")
	oneOf(cmd, "auth", "dev", "jwt")
	grantFlags(flags, &f.JWT.HMACFile, &f.JWT.Issuer, &f.JWT.Audience)
	flags.StringVar(&f.JWT.JWKS, "jwt-jwks", "", "`URL|FILE` of the issuer's public keys as a JSON Web Key Set, for RS, PS, ES and EdDSA.")
	flags.BoolVar(&f.JWT.AllowHTTP, "jwt-jwks-insecure", false, "Allow a URL without TLS on other than loopback hosts.")
	flags.StringVar(&f.JWT.Revocations, "jwt-revocations", "", "`FILE` of revoked tokens, as 'ganglion revoke' writes it. Read again when it changes.")
	flags.DurationVar(&f.JWT.Leeway, "jwt-leeway", 30*time.Second, "How far the issuer's clock and this one may differ.")
}

// authenticator is what --auth jwt asks for, nil for --auth dev.
func (f authFlags) authenticator(ctx context.Context, log *slog.Logger) (*token.Authenticator, error) {
	config := f.JWT
	given := config.HMACFile + config.JWKS + config.Issuer + config.Audience + config.Revocations
	switch {
	case f.Auth == "dev" && given != "":
		return nil, usagef("the --jwt-… flags want --auth jwt: with --auth dev any client id is taken on trust, and no token is looked at")
	case f.Auth == "dev":
		return nil, nil
	case config.HMACFile == "" && config.JWKS == "":
		return nil, usagef("--auth jwt needs keys: give --jwt-hmac-file or --jwt-jwks")
	case config.HMACFile != "" && config.JWKS != "":
		return nil, usagef("--jwt-hmac-file and --jwt-jwks exclude each other: tokens are signed by a shared secret or by an issuer's key")
	case config.Leeway < 0:
		return nil, usagef("--jwt-leeway is %v: it can't be negative", config.Leeway)
	case config.Leeway == 0:
		config.Leeway = -1 // 0 is its default
	}
	config.Logger = log
	a, err := token.New(ctx, config)
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
	token.Grant
	Secrets string
	Claim   []string
}

func tokenCommand() *cobra.Command {
	var c tokenCmd
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make a token for a client, with the secret that --jwt-hmac-file names.",
		Example: `  ganglion token --jwt-hmac-file secret --client ada
  ganglion token --jwt-hmac-file secret --client ada --claim 'roles=["seller"]' --expires-in 10m`,
		RunE: func(*cobra.Command, []string) error { return c.run() },
	}
	f := cmd.Flags()
	grantFlags(f, &c.Secrets, &c.Issuer, &c.Audience)
	fromEnvironment(f)
	f.StringVar(&c.Client, "client", "", "The client `ID`.")
	f.StringArrayVar(&c.Claim, "claim", nil, "A further claim, `NAME=VALUE`; the value is JSON, or else text. Again for more.")
	f.DurationVar(&c.ExpiresIn, "expires-in", time.Hour, "How long the token is good.")
	f.Lookup("expires-in").DefValue = "1h" // not 1h0m0s
	require(f, "client")
	return cmd
}

func (c tokenCmd) run() error {
	if c.Secrets == "" {
		return usagef("--jwt-hmac-file is missing: the file with the secret that the nodes were given")
	}
	c.Claims = map[string]any{}
	for _, claim := range c.Claim {
		name, text, ok := strings.Cut(claim, "=")
		if _, twice := c.Claims[name]; !ok || name == "" || twice {
			return usagef("--claim %q is not understood: write NAME=VALUE, each name once", claim)
		}
		var value any
		if err := json.Unmarshal([]byte(text), &value); err != nil {
			value = text
		}
		c.Claims[name] = value
	}
	signed, err := token.Sign(c.Secrets, c.Grant)
	if err != nil {
		return usageError{err}
	}
	fmt.Println(signed)
	return nil
}

type revokeCmd struct {
	token.Revocation
	File      string
	Everybody bool
	For       time.Duration
}

func revokeCommand() *cobra.Command {
	var c revokeCmd
	cmd := &cobra.Command{
		Use:   "revoke",
		Short: "Revoke tokens before they expire, in the file that --jwt-revocations names.",
		Long:  "Revoke the tokens of one client, one token, or all. Gateways read the file again by themselves, and close sessions with such tokens.",
		Example: `  ganglion revoke --jwt-revocations revoked.jsonl --client bob
  ganglion revoke --jwt-revocations revoked.jsonl --token-id 5f0c --for 24h`,
		RunE: func(*cobra.Command, []string) error { return c.run() },
	}
	f := cmd.Flags()
	f.StringVar(&c.File, "jwt-revocations", "", "The `FILE` that the gateways were given; it is made if it is not there.")
	fromEnvironment(f)
	f.StringVar(&c.Client, "client", "", "Revoke the tokens of this client `ID`.")
	f.StringVar(&c.TokenID, "token-id", "", "Revoke the token with this `JTI`.")
	f.BoolVar(&c.Everybody, "everybody", false, "Revoke all tokens.")
	f.TimeVar(&c.Before, "before", time.Time{}, []string{time.RFC3339}, "Revoke those issued before this `TIME`, in RFC 3339; now if not given.")
	f.DurationVar(&c.For, "for", 30*24*time.Hour, "How long it is in force: at least as long as tokens live.")
	f.Lookup("for").DefValue = "720h" // not 720h0m0s
	require(f, "jwt-revocations")
	cmd.MarkFlagsMutuallyExclusive("client", "token-id", "everybody")
	return cmd
}

func (c revokeCmd) run() error {
	now := time.Now().UTC().Truncate(time.Millisecond)
	r := c.Revocation
	r.Until = now.Add(c.For)
	switch {
	case r.Client == "" && r.TokenID == "" && !c.Everybody: // an empty --client is not everybody either
		return usagef("give --client, --token-id or --everybody")
	case c.For <= 0:
		return usagef("--for is %v: it must be as long as tokens live", c.For)
	case r.TokenID != "" && !r.Before.IsZero():
		return usagef("--before has no meaning for one token")
	case r.TokenID == "" && r.Before.IsZero():
		r.Before = now
	}
	if err := token.Revoke(c.File, r); err != nil {
		return usageError{err}
	}
	fmt.Printf("revoked, in force until %s\n", r.Until.Format(time.RFC3339))
	return nil
}
