package trust

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/ganglion-es/ganglion/gateway/watched"
)

// PeerTLS names the PEM files with which nodes authenticate to each other. A node
// accepts each certificate of the authority as that of a node of the cluster. It does
// not compare the names in certificates, since a node can join with any address.
//
// The files may be replaced while a node runs: each handshake uses their current
// content. Files that do not match, such as half-written ones, cause a warning,
// and the earlier content stays in use. New files do not end connections.
type PeerTLS struct {
	Cert, Key, CA string
}

// IsSet reports whether any file is named.
func (p PeerTLS) IsSet() bool { return p != PeerTLS{} }

// Load reads the files. It returns nil if none is named.
func (p PeerTLS) Load(log *slog.Logger) (*PeerCredentials, error) {
	if !p.IsSet() {
		return nil, nil
	}
	if p.Cert == "" || p.Key == "" || p.CA == "" {
		return nil, errors.New("the Cert, Key and CA of PeerTLS (--peer-tls-cert, --peer-tls-key and --peer-tls-ca) go together")
	}
	c := &PeerCredentials{files: p, log: log, refused: make(map[string]time.Time)}
	infos, err := p.stat()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	c.read = watched.NewStamp(now, infos...)
	if c.current, err = p.read(); err != nil {
		return nil, err
	}
	c.warnOfExpiry(now)
	return c, nil
}

func (p PeerTLS) stat() ([]fs.FileInfo, error) {
	infos, errs := make([]fs.FileInfo, 3), make([]error, 3)
	for i, name := range []string{p.Cert, p.Key, p.CA} {
		infos[i], errs[i] = os.Stat(name)
	}
	return infos, errors.Join(errs...)
}

// credentials are a node's certificate and the authorities that it trusts.
type credentials struct {
	pair  tls.Certificate
	roots *x509.CertPool
	first *x509.Certificate // the first to expire in the node's chain
}

func (p PeerTLS) read() (*credentials, error) {
	pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
	if err != nil {
		return nil, fmt.Errorf("the node's certificate: %w", err)
	}
	pem, err := os.ReadFile(p.CA)
	if err != nil {
		return nil, fmt.Errorf("the certificate authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("the certificate authority: %s has no certificate", p.CA)
	}
	c := &credentials{pair: pair, roots: roots}
	// If the node's authority does not verify the node's own certificate, either the
	// other nodes would reject this one, or it would reject them.
	chains, err := c.verify([]*x509.Certificate{pair.Leaf}, pair.Certificate[1:], x509.ExtKeyUsageAny)
	if err != nil {
		return nil, fmt.Errorf("the authority %s does not verify the node's certificate %s: %w", p.CA, p.Cert, err)
	}
	byEnd := func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }
	for _, chain := range chains { // the chain that stays valid longest counts
		if first := slices.MinFunc(chain, byEnd); c.first == nil || byEnd(first, c.first) > 0 {
			c.first = first
		}
	}
	return c, nil
}

func (c *credentials) verify(chain []*x509.Certificate, more [][]byte, usage x509.ExtKeyUsage) ([][]*x509.Certificate, error) {
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	for _, der := range more {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		between.AddCert(cert)
	}
	return chain[0].Verify(x509.VerifyOptions{
		Roots: c.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage},
	})
}

// PeerCredentials are the newest valid content of a [PeerTLS]. Its methods are
// safe for concurrent use.
type PeerCredentials struct {
	files PeerTLS
	log   *slog.Logger

	mu      sync.Mutex
	current *credentials
	read    watched.Stamp        // of the files when they were last read
	failure error                // of that read
	watched watched.Files        // state for the log and the metrics
	warned  time.Time            // when the certificate's expiry was last logged
	refused map[string]time.Time // when a peer's refused certificate was last logged, by subject and serial number
}

const (
	// expirySoon is how long before a certificate's expiry the node begins to warn of
	// it, at most daily.
	expirySoon = 30 * 24 * time.Hour
	// refusedEvery is the interval between log lines about one refused certificate:
	// this node's expired one, or a peer's. Watch reads the files at the same interval.
	refusedEvery = time.Minute
	// maxRefused bounds the certificates that are logged per interval, since any client
	// can present many.
	maxRefused = 100
)

// Server returns the TLS configuration of the accepting end of links, or nil for a
// nil receiver. Both ends require a certificate and verify its chain with the current
// authorities. TLS sessions are not resumed, since that would reuse an earlier
// verification.
func (c *PeerCredentials) Server() *tls.Config {
	if c == nil {
		return nil
	}
	server := func(peer string) *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
			GetCertificate:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &c.now().pair, nil },
			ClientAuth:       tls.RequireAnyClientCert,
			VerifyConnection: c.verify(x509.ExtKeyUsageClientAuth, peer),
		}
	}
	config := server("")
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		return server(hello.Conn.RemoteAddr().String()), nil
	}
	return config
}

// Users returns the TLS configuration of a port for people and programs, or nil for a
// nil receiver. They may present a certificate of the authority, which is verified; the
// connection's first peer certificate then is theirs.
func (c *PeerCredentials) Users() *tls.Config {
	if c == nil {
		return nil
	}
	return &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		now, verify := c.now(), c.verify(x509.ExtKeyUsageClientAuth, hello.Conn.RemoteAddr().String())
		return &tls.Config{
			MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, NextProtos: []string{"h2", "http/1.1"},
			Certificates: []tls.Certificate{now.pair},
			ClientAuth:   tls.RequestClientCert,
			ClientCAs:    now.roots, // browsers offer only certificates of these
			VerifyConnection: func(state tls.ConnectionState) error {
				if len(state.PeerCertificates) == 0 {
					return nil
				}
				return verify(state)
			},
		}, nil
	}}
}

// Client returns the TLS configuration of the calling end, or nil for a nil receiver.
func (c *PeerCredentials) Client() *tls.Config {
	if c == nil {
		return nil
	}
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &c.now().pair, nil },
		InsecureSkipVerify:   true, // names are not compared; VerifyConnection verifies the chain
		VerifyConnection:     c.verify(x509.ExtKeyUsageServerAuth, ""),
	}
}

// verify returns a function that verifies the other end's certificate. peer is the
// other end's address; "" at the calling end, where the connection's state has it.
func (c *PeerCredentials) verify(usage x509.ExtKeyUsage, peer string) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		_, err := c.now().verify(state.PeerCertificates, nil, usage)
		if err != nil {
			c.logRefused(cmp.Or(peer, state.ServerName), state.PeerCertificates[0], err)
		}
		return err
	}
}

// Watch reads the files once a minute until ctx ends, so that new files and the
// certificate's expiry are noticed even if handshakes are rare.
func (c *PeerCredentials) Watch(ctx context.Context) error {
	return watched.Watch(ctx, refusedEvery, func() { c.now() })
}

// Bad reads the files and reports whether their newest content is invalid, so that
// earlier content is in use.
func (c *PeerCredentials) Bad() bool {
	c.now()
	return c.watched.Bad()
}

// Expires returns when the first certificate of the node's chain expires.
func (c *PeerCredentials) Expires() time.Time { return c.now().first.NotAfter }

// now reads the files and returns their content, or their last valid content while
// it is invalid.
func (c *PeerCredentials) now() *credentials {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := time.Now()
	c.warnOfExpiry(at)
	infos, err := c.files.stat()
	var fresh *credentials
	switch {
	case err != nil:
	case !c.read.IsSame(infos...) || !c.read.IsSettled():
		fresh, err = c.files.read()
	case c.failure == nil:
		return c.current
	default:
		err = c.failure
	}
	warn, mended := c.watched.Record(err, at)
	c.read, c.failure = watched.NewStamp(at, infos...), err
	if err != nil {
		if warn {
			c.log.Warn("the changed peer certificates are invalid: the earlier ones stay in use, and a restart would fail", "err", err)
		}
		return c.current
	}
	if mended {
		c.log.Info("the peer certificates are valid again and in use", "expires", fresh.first.NotAfter)
	}
	if !fresh.pair.Leaf.Equal(c.current.pair.Leaf) || !fresh.roots.Equal(c.current.roots) {
		c.log.Info("read new peer certificates", "expires", fresh.first.NotAfter)
	}
	c.current = fresh
	return fresh
}

// warnOfExpiry requires c.mu, or that no other goroutine has c.
func (c *PeerCredentials) warnOfExpiry(now time.Time) {
	first, since := c.current.first, now.Sub(c.warned)
	switch left := first.NotAfter.Sub(now); {
	case left <= 0 && (since >= refusedEvery || c.warned.Before(first.NotAfter)):
		c.log.Error("this node's peer certificate has expired, and peers refuse it: replace the file, no restart is needed",
			"file", c.files.Cert, "certificate", certificateName(first), "expired", first.NotAfter)
	case left > 0 && left < expirySoon && since > 24*time.Hour:
		c.log.Warn("this node's peer certificate expires soon: replace the file, no restart is needed",
			"file", c.files.Cert, "certificate", certificateName(first), "expires", first.NotAfter)
	default:
		return
	}
	c.warned = now
}

// logRefused logs that a peer's certificate was refused, and why.
func (c *PeerCredentials) logRefused(peer string, cert *x509.Certificate, reason error) {
	facts := []any{"peer", peer}
	if invalid := (x509.CertificateInvalidError{}); errors.As(reason, &invalid) && invalid.Reason == x509.Expired {
		cert = invalid.Cert // perhaps an intermediate one
		facts = append(facts, "expired", cert.NotAfter)
	}
	name, now := certificateName(cert), time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.refused, func(_ string, logged time.Time) bool { return now.Sub(logged) >= refusedEvery })
	if _, logged := c.refused[name]; logged || len(c.refused) >= maxRefused {
		return
	}
	c.refused[name] = now
	c.log.Warn("a peer's certificate is refused", append(facts, "certificate", name, "err", reason)...)
}

// certificateName names a certificate in log lines.
func certificateName(c *x509.Certificate) string {
	return fmt.Sprintf("%s, serial %x", c.Subject, c.SerialNumber)
}
