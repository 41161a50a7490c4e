// Package token authenticates a gateway's clients by JSON Web Tokens (RFC
// 7519). Tokens are signed with a shared secret (HS256, HS384, HS512), or by an
// issuer (RS, PS, ES and EdDSA) whose public keys are a JSON Web Key Set (RFC
// 7517) in a file or at a URL.
//
// The package follows RFC 8725, the best current practice. The algorithm that a
// token names only selects among the keys that fit it: a public key never serves
// as a secret, a secret never as a public key, a P-256 key verifies ES256 only,
// and `none` is refused. Keys and addresses in a token's header are ignored. A
// token must expire.
//
// Keys can change at any time. An [Authenticator] reads them again at intervals,
// and immediately when a token names an unknown key. Two reads never overlap, and
// at least [Config.Floor] lies between them. If the source is down, slow or
// invalid, the last valid keys stay in use and the failure is logged. A client
// waits for new keys for [Config.Wait] at most.
//
// The library go-jose parses and checks tokens and key sets. It requires the
// accepted algorithms before it parses a token, refuses JSON with duplicate
// members, and has no dependencies. No library fetches the key sets, since the
// existing ones run goroutines and caches with other bounds than those above.
package token

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/gateway"
	"github.com/ganglion-es/ganglion/gateway/watched"
)

// Config states which tokens are valid.
type Config struct {
	// HMACFile is a file of shared secrets, one per line, each at least 32
	// bytes of text. A token may be signed with any of them; [Sign] uses the
	// first. Exactly one of HMACFile and JWKS is required.
	HMACFile string

	// JWKS is the source of the issuer's public keys: an https:// URL or a file.
	JWKS string

	// AllowHTTP allows an http:// URL on hosts other than loopback. An attacker
	// on the network can then answer with keys of its own and make tokens.
	AllowHTTP bool

	// Issuer is the value that a token's iss must have. If it is empty, iss is
	// not checked.
	Issuer string

	// Audience is a value that a token's aud must contain. If it is empty,
	// tokens that name an audience are refused, since they are meant for another
	// service (RFC 7519, section 4.1.3).
	Audience string

	// Revocations is a file that revokes tokens before they expire: see
	// [Revocation]. It is checked every second and read again when it has
	// changed. While it is missing or invalid, the earlier revocations stay in
	// force. If Revocations is empty, no token is revoked.
	Revocations string

	// Leeway is the tolerated difference between the issuer's clock and this
	// node's. A token is valid from Leeway before nbf and iat until Leeway after
	// exp. A negative value means no leeway.
	//
	// Defaults to 30 seconds.
	Leeway time.Duration

	// Refresh is the interval between reads of the keys.
	//
	// Defaults to 10 minutes for a URL, and 5 seconds for a file.
	Refresh time.Duration

	// Floor is the minimum time between two reads, however many tokens name
	// unknown keys. A failed read is retried after Floor; the pause doubles with
	// each further failure, up to Refresh.
	//
	// Defaults to 10 seconds for a URL, and 1 second for a file.
	Floor time.Duration

	// FetchTimeout bounds one read, from the connection to the last byte.
	//
	// Defaults to 5 seconds.
	FetchTimeout time.Duration

	// Wait bounds the time that a client waits for a read of the keys when its
	// token names an unknown key.
	//
	// Defaults to 2 seconds.
	Wait time.Duration

	// Logger defaults to a logger that discards everything.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	switch {
	case c.HMACFile == "" && c.JWKS == "":
		errs = append(errs, errors.New("token: no source of keys: set HMACFile or JWKS"))
	case c.HMACFile != "" && c.JWKS != "":
		errs = append(errs, errors.New("token: HMACFile and JWKS exclude each other: set one of them"))
	}
	if err := c.checkURL(); err != nil {
		errs = append(errs, err)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"Refresh", c.Refresh}, {"Floor", c.Floor}, {"FetchTimeout", c.FetchTimeout}, {"Wait", c.Wait}} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("token: %s is %v: it must not be negative", d.name, d.value))
		}
	}
	refresh, floor := 5*time.Second, time.Second
	if isURL(c.JWKS) {
		refresh, floor = 10*time.Minute, 10*time.Second
	}
	c.Refresh = orDefault(c.Refresh, refresh)
	c.Floor = min(orDefault(c.Floor, floor), c.Refresh)
	c.FetchTimeout = orDefault(c.FetchTimeout, 5*time.Second)
	c.Wait = orDefault(c.Wait, 2*time.Second)
	c.Leeway = max(0, orDefault(c.Leeway, 30*time.Second))
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}

func orDefault(d, or time.Duration) time.Duration {
	if d == 0 {
		return or
	}
	return d
}

// isURL reports whether a source of keys is a URL rather than a file.
func isURL(source string) bool { return strings.Contains(source, "://") }

func (c Config) checkURL() error {
	if !isURL(c.JWKS) {
		return nil
	}
	u, err := url.Parse(c.JWKS)
	if err != nil || u.Host == "" {
		return errors.New("token: the URL of the key set is invalid: write https://HOST/PATH")
	}
	return c.checkHop(u)
}

// checkHop returns an error if keys must not be fetched from u, which is the
// configured URL or the target of a redirect.
func (c Config) checkHop(u *url.URL) error {
	switch {
	case u.Scheme == "https", u.Scheme == "http" && (c.AllowHTTP || isLoopback(u.Hostname())):
		return nil
	case u.Scheme == "http":
		return fmt.Errorf("token: keys from http://%s can be forged on the network: use https, or set AllowHTTP (--jwt-jwks-insecure) if the network is trusted", u.Host)
	default:
		return fmt.Errorf("token: keys can't be fetched by %s: use an https URL or a file", u.Scheme)
	}
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Authenticator is a [gateway.Authenticator] that verifies tokens. It is safe for
// concurrent use.
type Authenticator struct {
	cfg         Config
	keys        *keeper
	revocations *revocations
}

var _ gateway.Revoker = (*Authenticator)(nil)

// New reads the keys and the revocations. It returns an error if a file is missing
// or invalid. If a URL fails, New only logs the error, so that a gateway can start
// during an issuer's outage. All tokens are then refused with
// [gateway.ErrAuthUnavailable] until [Authenticator.Run] has fetched the keys.
func New(ctx context.Context, cfg Config) (*Authenticator, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	a := &Authenticator{cfg: cfg, keys: newKeeper(cfg), revocations: newRevocations(cfg)}
	var errs []error
	if cfg.Revocations != "" {
		if err := a.revocations.read(); err != nil {
			errs = append(errs, fmt.Errorf("token: the revocations: %w", err))
		}
	}
	err = a.keys.read(ctx)
	if err != nil && !isURL(cfg.JWKS) {
		errs = append(errs, fmt.Errorf("token: %w", err))
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	if err != nil {
		cfg.Logger.Error("the keys that verify tokens can't be fetched: every token is refused until a fetch succeeds", "err", err)
	}
	return a, nil
}

// Run keeps the keys and the revocations current until ctx ends. It returns nil.
// Without Run, the Authenticator uses the keys and revocations that [New] read.
func (a *Authenticator) Run(ctx context.Context) error {
	var revoking sync.WaitGroup
	revoking.Go(func() { a.revocations.run(ctx) })
	a.keys.run(ctx)
	revoking.Wait()
	return nil
}

// Watched returns the state of each source by its use: "tokens" for the keys, and
// "revocations" if Config.Revocations is set.
func (a *Authenticator) Watched() map[string]*watched.Files {
	all := map[string]*watched.Files{"tokens": &a.keys.watched}
	if a.cfg.Revocations != "" {
		all["revocations"] = &a.revocations.watched
	}
	return all
}

// Revoked implements [gateway.Revoker].
func (a *Authenticator) Revoked(id gateway.Identity) error {
	set, _ := a.revocations.now()
	return set.check(id, time.Now())
}

// RevokesClients reports whether RevokeClient is possible: Config.Revocations is set.
func (a *Authenticator) RevokesClients() bool { return a.cfg.Revocations != "" }

// revokedFor is how long RevokeClient revokes tokens, as ganglion revoke does.
const revokedFor = 30 * 24 * time.Hour

// RevokeClient revokes the tokens of a client that were issued before now, for 30 days,
// in the file Config.Revocations. See [Revoke].
func (a *Authenticator) RevokeClient(client string) error {
	if client == "" { // an empty client in the file means all clients
		return errors.New("token: the client is missing")
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	return Revoke(a.cfg.Revocations, Revocation{Client: client, Before: now, Until: now.Add(revokedFor)})
}

// Revocations implements [gateway.Revoker].
func (a *Authenticator) Revocations() <-chan struct{} {
	_, changed := a.revocations.now()
	return changed
}

// Trust refuses every client: a client id alone proves nothing.
func (a *Authenticator) Trust(context.Context, string) (gateway.Identity, error) {
	return gateway.Identity{}, errors.New("this gateway requires a token, which contains the client id: send hello with token instead of client")
}

// Token verifies a token and returns its identity: the client id (sub), the
// claims, and the time of expiry, leeway included. It can block for Config.Wait.
func (a *Authenticator) Token(ctx context.Context, token string) (gateway.Identity, error) {
	signed, err := parse(token)
	if err != nil {
		return gateway.Identity{}, err
	}
	keys := a.keys.current.Load()
	payload, err := keys.verify(signed)
	if err != nil && !keys.knows(signed) {
		if newer := a.keys.newer(ctx, keys); newer != keys {
			payload, err = newer.verify(signed)
		}
	}
	if err != nil {
		return gateway.Identity{}, err
	}
	id, err := a.cfg.identity(payload, time.Now())
	if err == nil {
		err = a.Revoked(id)
	}
	if err != nil {
		return gateway.Identity{}, err
	}
	return id, nil
}
