package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/gateway/token"
)

// grantFlags defines the flags that the node command, which verifies tokens,
// shares with the token command, which signs them.
func grantFlags(f *pflag.FlagSet, secrets, issuer, audience *string) {
	f.StringVar(secrets, "jwt-hmac-file", "", "`FILE` with shared secrets for HS256, HS384 and HS512, one per line")
	f.StringVar(issuer, "jwt-issuer", "", "expected token issuer (`iss` claim)")
	f.StringVar(audience, "jwt-audience", "", "expected token audience (`aud` claim)")
}

// authFlags configure the authentication of clients.
type authFlags struct {
	Auth string
	JWT  token.Config
}

// ownAuth is the choice of --auth for the Auth of [Options].
const ownAuth = "program"

// addTo defines the flags. own is the program's own authenticator, or nil.
func (f *authFlags) addTo(cmd *cobra.Command, own gateway.Authenticator) {
	flags := cmd.Flags()
	const usage = "authentication of clients: dev trusts any client id, jwt requires a token"
	if own == nil {
		flags.StringVar(&f.Auth, "auth", "dev", usage)
		oneOf(cmd, "auth", "dev", "jwt")
	} else {
		flags.StringVar(&f.Auth, "auth", ownAuth, usage+", program is the program's own")
		oneOf(cmd, "auth", ownAuth, "dev", "jwt")
	}
	grantFlags(flags, &f.JWT.HMACFile, &f.JWT.Issuer, &f.JWT.Audience)
	flags.StringVar(&f.JWT.JWKS, "jwt-jwks", "", "`URL|FILE` of the issuer's public keys (JSON Web Key Set) for RS, PS, ES and EdDSA")
	flags.BoolVar(&f.JWT.AllowHTTP, "jwt-jwks-insecure", false, "allow a key set URL without TLS on hosts other than loopback")
	flags.StringVar(&f.JWT.Revocations, "jwt-revocations", "", "`FILE` of revoked tokens, written by 'ganglion revoke'; read again when it changes")
	flags.DurationVar(&f.JWT.Leeway, "jwt-leeway", 30*time.Second, "tolerated difference between the issuer's clock and this one")
}

// authenticator returns nil without --auth jwt.
func (f authFlags) authenticator(ctx context.Context, log *slog.Logger) (*token.Authenticator, error) {
	config := f.JWT
	given := config.HMACFile + config.JWKS + config.Issuer + config.Audience + config.Revocations
	switch {
	case f.Auth == "dev" && given != "":
		return nil, usagef("the --jwt-… flags require --auth jwt: --auth dev trusts any client id and verifies no token")
	case f.Auth == ownAuth && given != "":
		return nil, usagef("the --jwt-… flags require --auth jwt: this program identifies clients in its own way")
	case f.Auth != "jwt":
		return nil, nil
	case config.HMACFile == "" && config.JWKS == "":
		return nil, usagef("--auth jwt needs keys: set --jwt-hmac-file or --jwt-jwks")
	case config.HMACFile != "" && config.JWKS != "":
		return nil, usagef("--jwt-hmac-file and --jwt-jwks exclude each other: set the first for a shared secret, or the second for an issuer's public keys")
	case config.Leeway < 0:
		return nil, usagef("--jwt-leeway is %v: it must not be negative", config.Leeway)
	case config.Leeway == 0:
		config.Leeway = -1 // 0 selects the default
	}
	config.Logger = log
	a, err := token.New(ctx, config)
	if err != nil {
		return nil, usageError{err}
	}
	return a, nil
}

// runWith runs a node and its helper. It stops the helper after the node has
// ended, and returns the first error.
func runWith(ctx context.Context, node, helper func(context.Context) error) error {
	helping, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- helper(helping) }()
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
		Short: "Sign a token for a client with a shared secret",
		Example: `  ganglion token --jwt-hmac-file secret --client ada
  ganglion token --jwt-hmac-file secret --client ada --claim 'roles=["seller"]' --expires-in 10m`,
		RunE: func(*cobra.Command, []string) error { return c.run() },
	}
	f := cmd.Flags()
	grantFlags(f, &c.Secrets, &c.Issuer, &c.Audience)
	fromEnvironment(f)
	f.StringVar(&c.Client, "client", "", "client `ID`")
	f.StringArrayVar(&c.Claim, "claim", nil, "further claim, `NAME=VALUE`; a value that is not JSON is a string (repeatable)")
	f.DurationVar(&c.ExpiresIn, "expires-in", time.Hour, "lifetime of the token")
	f.Lookup("expires-in").DefValue = "1h" // not 1h0m0s
	require(f, "client")
	return cmd
}

func (c tokenCmd) run() error {
	if c.Secrets == "" {
		return usagef("--jwt-hmac-file is missing: name the file with the nodes' shared secret")
	}
	c.Claims = map[string]any{}
	for _, claim := range c.Claim {
		name, text, ok := strings.Cut(claim, "=")
		if _, twice := c.Claims[name]; !ok || name == "" || twice {
			return usagef("--claim %q is not NAME=VALUE, or its name is set twice", claim)
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
		Short: "Revoke tokens before they expire",
		Long:  "Revoke the tokens of one client, one token, or all, in the file of --jwt-revocations.\nGateways read the changed file and close sessions with revoked tokens.",
		Example: `  ganglion revoke --jwt-revocations revoked.jsonl --client bob
  ganglion revoke --jwt-revocations revoked.jsonl --token-id 5f0c --for 24h`,
		RunE: func(*cobra.Command, []string) error { return c.run() },
	}
	f := cmd.Flags()
	f.StringVar(&c.File, "jwt-revocations", "", "`FILE` that the gateways read; created if it does not exist")
	fromEnvironment(f)
	f.StringVar(&c.Client, "client", "", "revoke the tokens of this client `ID`")
	f.StringVar(&c.TokenID, "token-id", "", "revoke the token with this `JTI`")
	f.BoolVar(&c.Everybody, "everybody", false, "revoke all tokens")
	f.TimeVar(&c.Before, "before", time.Time{}, []string{time.RFC3339}, "revoke tokens issued before this `TIME` in RFC 3339 (default now)")
	f.DurationVar(&c.For, "for", 30*24*time.Hour, "how long the revocation is in force: at least the lifetime of tokens")
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
	case r.Client == "" && r.TokenID == "" && !c.Everybody: // an empty --client does not mean everybody
		return usagef("set --client, --token-id or --everybody")
	case c.For <= 0:
		return usagef("--for is %v: it must be at least the lifetime of tokens", c.For)
	case r.TokenID != "" && !r.Before.IsZero():
		return usagef("--before does not apply to --token-id")
	case r.TokenID == "" && r.Before.IsZero():
		r.Before = now
	}
	if err := token.Revoke(c.File, r); err != nil {
		return usageError{err}
	}
	fmt.Printf("revoked, in force until %s\n", r.Until.Format(time.RFC3339))
	return nil
}
