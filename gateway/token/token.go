// Package token authenticates a gateway's clients by JSON Web Tokens (RFC
// 7519): signed by a shared secret (HS256, HS384, HS512), or by an issuer
// whose public keys come as a JSON Web Key Set (RFC 7517) from a URL or a
// file (RS, PS, ES and EdDSA).
//
// It promises to follow RFC 8725, the best current practice. The algorithm
// that a token names only picks among the keys that fit it: a public key is
// never used as a secret, a secret never as a public key, a P-256 key verifies
// ES256 and nothing else, and `none` is no algorithm. Keys and addresses that
// a token carries in its own header are not looked at. A token must expire.
//
// Keys may change at any time. An Authenticator reads them again at intervals,
// and at once when a token names a key that it does not know, but never more
// often than a floor, and never twice at a time. A source that is down, slow
// or talks nonsense costs a log line: the last good keys stay. A client waits
// for new keys no longer than a bound.
//
// JOSE is done by go-jose, alone: it parses and checks both tokens and key
// sets, wants the acceptable algorithms named before it looks at a token,
// refuses JSON with duplicate members, and depends on nothing else. The
// key-set clients that exist keep goroutines and caches with bounds of their
// own, which are the part that has to be ours.
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

// Config says which tokens are good.
type Config struct {
	// HMACFile has the shared secrets, one on each line, each at least 32
	// bytes of text. A token signed with any of them is good; Sign uses the
	// first. Required, unless JWKS is given; never both.
	HMACFile string

	// JWKS is where the issuer's public keys are: an https:// URL, or a file.
	JWKS string

	// AllowHTTP allows an http:// URL on other than loopback hosts. Whoever
	// can answer in its place can make tokens.
	AllowHTTP bool

	// Issuer is what a token's iss must be. Empty takes any that has the key.
	Issuer string

	// Audience is what a token's aud must have. Without it, tokens that name
	// an audience are refused, since they are meant for somebody else (RFC
	// 7519, section 4.1.3).
	Audience string

	// Revocations is a file of tokens that are good no more before they
	// expire: see Revocation. Read again every second when it has changed; one
	// that is not good changes nothing. Empty means that none is revoked.
	Revocations string

	// Leeway is how far clocks may differ: a token is good until so long after
	// it expired, and from so long before it was made. Less than nothing means
	// none.
	//
	// Defaults to 30 seconds.
	Leeway time.Duration

	// Refresh is how often the keys are read again.
	//
	// Defaults to 10 minutes for a URL, and 5 seconds for a file.
	Refresh time.Duration

	// Floor is the least time between two readings, however many tokens name
	// unknown keys. Readings that fail are repeated after it, then after twice
	// as long, up to Refresh.
	//
	// Defaults to 10 seconds for a URL, and one second for a file.
	Floor time.Duration

	// FetchTimeout bounds one reading, from the connection to the last byte.
	//
	// Defaults to 5 seconds.
	FetchTimeout time.Duration

	// Wait bounds how long a client waits for the keys to be read because its
	// token names an unknown one.
	//
	// Defaults to 2 seconds.
	Wait time.Duration

	// Logger defaults to one that discards everything.
	Logger *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	switch {
	case c.HMACFile == "" && c.JWKS == "":
		errs = append(errs, errors.New("token: nothing verifies tokens: HMACFile or JWKS is required"))
	case c.HMACFile != "" && c.JWKS != "":
		errs = append(errs, errors.New("token: HMACFile and JWKS exclude each other: a secret and public keys must not meet"))
	}
	if err := c.checkURL(); err != nil {
		errs = append(errs, err)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"Refresh", c.Refresh}, {"Floor", c.Floor}, {"FetchTimeout", c.FetchTimeout}, {"Wait", c.Wait}} {
		if d.value < 0 {
			errs = append(errs, fmt.Errorf("token: %s is negative", d.name))
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

// isURL tells a URL from a file's name.
func isURL(source string) bool { return strings.Contains(source, "://") }

func (c Config) checkURL() error {
	if !isURL(c.JWKS) {
		return nil
	}
	u, err := url.Parse(c.JWKS)
	if err != nil || u.Host == "" {
		return errors.New("token: the key set's URL can't be parsed: write https://HOST/PATH")
	}
	return c.checkHop(u)
}

// checkHop says whether keys may come from a URL: the one that was configured,
// or one that it redirects to.
func (c Config) checkHop(u *url.URL) error {
	switch {
	case u.Scheme == "https", u.Scheme == "http" && (c.AllowHTTP || isLoopback(u.Hostname())):
		return nil
	case u.Scheme == "http":
		return fmt.Errorf("token: keys from http://%s could be anybody's: use https, or AllowHTTP (--jwt-jwks-insecure) where the network is trusted", u.Host)
	default:
		return fmt.Errorf("token: keys can't come from a URL that begins with %s: use https, or a file", u.Scheme)
	}
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Authenticator is a gateway.Authenticator for tokens. It is safe for
// concurrent use.
type Authenticator struct {
	cfg         Config
	keys        *keeper
	revocations *revocations
}

var _ gateway.Revoker = (*Authenticator)(nil)

// New reads the keys and the revocations. A file that is not good is an error. A URL that fails
// is a warning, so that an issuer's outage keeps no gateway from starting:
// tokens are refused until Run has fetched the keys.
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
		cfg.Logger.Error("the keys that verify tokens can't be fetched: every token is refused until they can", "error", err)
	}
	return a, nil
}

// Run keeps the keys and the revocations fresh until ctx ends. Without it the
// Authenticator uses those that New read.
func (a *Authenticator) Run(ctx context.Context) error {
	var revoking sync.WaitGroup
	revoking.Go(func() { a.revocations.run(ctx) })
	a.keys.run(ctx)
	revoking.Wait()
	return nil
}

// Watched returns what became of the newest keys (tokens), from a file or a URL,
// and of the newest revocations, if there is a file of them.
func (a *Authenticator) Watched() map[string]*watched.Files {
	all := map[string]*watched.Files{"tokens": &a.keys.watched}
	if a.cfg.Revocations != "" {
		all["revocations"] = &a.revocations.watched
	}
	return all
}

// Revoked implements gateway.Revoker.
func (a *Authenticator) Revoked(id gateway.Identity) error {
	set, _ := a.revocations.now()
	return set.check(id, time.Now())
}

// Revocations implements gateway.Revoker.
func (a *Authenticator) Revocations() <-chan struct{} {
	_, more := a.revocations.now()
	return more
}

// Trust refuses: a client id alone proves nothing.
func (a *Authenticator) Trust(context.Context, string) (gateway.Identity, error) {
	return gateway.Identity{}, errors.New("this gateway wants a token, and takes its client id from there: say hello with token instead of client")
}

// Token returns who a token speaks for: its sub, its claims, and when it
// expires, leeway included.
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
