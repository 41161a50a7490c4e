package node

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

// PeerTLS has the PEM files with which nodes prove themselves to each other.
// Whoever has a certificate of the authority is a node of the cluster; names
// in certificates are not compared, since nodes come and go by address.
//
// The files may be replaced while the node runs: each handshake uses what is
// there then. Files that don't fit together, such as half-written ones, are
// left alone with a warning, and the ones from before stay in use. Connections
// that exist are not ended by new files.
type PeerTLS struct {
	Cert, Key, CA string
}

func (p PeerTLS) set() bool { return p != PeerTLS{} }

// load reads the files. It returns nil without files.
func (p PeerTLS) load(log *slog.Logger) (*peerFiles, error) {
	if !p.set() {
		return nil, nil
	}
	if p.Cert == "" || p.Key == "" || p.CA == "" {
		return nil, errors.New("--peer-tls-cert, --peer-tls-key and --peer-tls-ca go together")
	}
	f := &peerFiles{files: p, log: log, refused: make(map[string]time.Time)}
	var err error
	if f.seen, err = p.stat(); err != nil {
		return nil, err
	}
	f.seenAt = time.Now()
	if f.current, err = p.read(); err != nil {
		return nil, err
	}
	f.warnOfExpiry(f.seenAt)
	return f, nil
}

// server makes the TLS configuration of the end of a link that is called, nil
// without files. Both ends ask for a certificate and check the chain themselves,
// with the authorities of the moment. Sessions are not resumed: that would carry
// an older check on.
func (f *peerFiles) server() *tls.Config {
	if f == nil {
		return nil
	}
	server := func(peer string) *tls.Config {
		return &tls.Config{
			MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true,
			GetCertificate:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &f.now().pair, nil },
			ClientAuth:       tls.RequireAnyClientCert,
			VerifyConnection: f.verify(x509.ExtKeyUsageClientAuth, peer),
		}
	}
	c := server("")
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		return server(hello.Conn.RemoteAddr().String()), nil
	}
	return c
}

// client makes the TLS configuration of the end that calls, nil without files.
func (f *peerFiles) client() *tls.Config {
	if f == nil {
		return nil
	}
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &f.now().pair, nil },
		InsecureSkipVerify:   true, // the name is not compared; VerifyConnection checks the chain
		VerifyConnection:     f.verify(x509.ExtKeyUsageServerAuth, ""),
	}
}

// credentials are a node's certificate and the authorities that it trusts.
type credentials struct {
	pair  tls.Certificate
	roots *x509.CertPool
	ends  *x509.Certificate // of the node's chain the one that ends first
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
	// A node that its own authority does not vouch for would be shunned by
	// the others, or shun them.
	chains, err := c.verify([]*x509.Certificate{pair.Leaf}, pair.Certificate[1:], x509.ExtKeyUsageAny)
	if err != nil {
		return nil, fmt.Errorf("the node's certificate %s is not good under the authority %s: %w", p.Cert, p.CA, err)
	}
	byEnd := func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }
	for _, chain := range chains { // of several the one that holds longest
		if first := slices.MinFunc(chain, byEnd); c.ends == nil || byEnd(first, c.ends) > 0 {
			c.ends = first
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

// peerFiles are the files of a PeerTLS and what was good in them last. It is
// safe for concurrent use.
type peerFiles struct {
	files PeerTLS
	log   *slog.Logger

	mu      sync.Mutex
	current *credentials
	seen    [3]fs.FileInfo // of the files when they were last read, well or not
	seenAt  time.Time
	failing error                // why they are not good
	watched watched.Files        // what the log and metrics say of that
	warned  time.Time            // of the certificate's end
	refused map[string]time.Time // when a peer's certificate was last logged as refused, by its serial number and subject
}

const (
	// expirySoon is how long before its end a certificate is warned about, at
	// most daily.
	expirySoon = 30 * 24 * time.Hour
	// refusedEvery bounds how often the log names a certificate that is refused:
	// one of this node that has expired, or a peer's.
	refusedEvery = time.Minute
	// refusedMost bounds how many of peers' are told apart. Anybody may show one.
	refusedMost = 100
)

// warnOfExpiry is called with f.mu held, or before anybody else has f.
func (f *peerFiles) warnOfExpiry(now time.Time) {
	ends, since := f.current.ends, now.Sub(f.warned)
	switch left := ends.NotAfter.Sub(now); {
	case left <= 0 && (since >= refusedEvery || f.warned.Before(ends.NotAfter)):
		f.log.Error("this node's peer certificate has expired, and peers refuse it: put a new one in its place, no restart is needed",
			"file", f.files.Cert, "certificate", certificateName(ends), "expired", ends.NotAfter)
	case left > 0 && left < expirySoon && since > 24*time.Hour:
		f.log.Warn("this node's peer certificate expires soon: put a new one in its place, no restart is needed",
			"file", f.files.Cert, "certificate", certificateName(ends), "expires", ends.NotAfter)
	default:
		return
	}
	f.warned = now
}

// certificateName is how a log line names a certificate.
func certificateName(c *x509.Certificate) string {
	return fmt.Sprintf("%s, serial %x", c.Subject, c.SerialNumber)
}

// watch looks at the files now and then, since handshakes may be rare: new files
// and the certificate's end are noticed in time. It returns when ctx ends.
func (f *peerFiles) watch(ctx context.Context) error {
	tick := time.NewTicker(refusedEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			f.now()
		}
	}
}

// settledAfter is how old a file must be when it is read for its time and size
// to tell that it is still the same: a write in the same tick of the file
// system's clock changes neither.
const settledAfter = 2 * time.Second

// now returns what is in the files, or what was when they were last good.
func (f *peerFiles) now() *credentials {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := time.Now()
	f.warnOfExpiry(at)
	infos, err := f.files.stat()
	var fresh *credentials
	switch {
	case err != nil:
	case !f.same(infos):
		fresh, err = f.files.read()
	case f.failing == nil:
		return f.current
	default:
		err = f.failing
	}
	warn, mended := f.watched.Read(err, at)
	if err != nil {
		if warn {
			f.log.Warn("the changed peer certificates are not good: the ones from before stay in use, and a restart would fail", "error", err)
		}
		f.seen, f.seenAt, f.failing = infos, at, err
		return f.current
	}
	if mended {
		f.log.Info("the peer certificates are good again and in use", "expires", fresh.ends.NotAfter)
	}
	if !fresh.pair.Leaf.Equal(f.current.pair.Leaf) || !fresh.roots.Equal(f.current.roots) {
		f.log.Info("read new peer certificates", "expires", fresh.ends.NotAfter)
	}
	f.current, f.seen, f.seenAt, f.failing = fresh, infos, at, nil
	return f.current
}

// same tells whether the files are those that were read last.
func (f *peerFiles) same(infos [3]fs.FileInfo) bool {
	for i, info := range infos {
		old := f.seen[i]
		if old == nil || !os.SameFile(old, info) || !old.ModTime().Equal(info.ModTime()) || old.Size() != info.Size() {
			return false
		}
		if f.seenAt.Sub(info.ModTime()) < settledAfter {
			return false
		}
	}
	return true
}

func (p PeerTLS) stat() (infos [3]fs.FileInfo, err error) {
	var errs [3]error
	for i, name := range []string{p.Cert, p.Key, p.CA} {
		infos[i], errs[i] = os.Stat(name)
	}
	return infos, errors.Join(errs[:]...)
}

// verify checks the other end's certificate against the authorities of now. peer
// is its address; the caller's end of a link gets it with the connection's state.
func (f *peerFiles) verify(usage x509.ExtKeyUsage, peer string) func(tls.ConnectionState) error {
	return func(state tls.ConnectionState) error {
		_, err := f.now().verify(state.PeerCertificates, nil, usage)
		if err != nil {
			f.tellRefused(cmp.Or(peer, state.ServerName), state.PeerCertificates[0], err)
		}
		return err
	}
}

// tellRefused logs that a peer's certificate was refused, and why.
func (f *peerFiles) tellRefused(peer string, cert *x509.Certificate, why error) {
	facts := []any{"peer", peer}
	if invalid := (x509.CertificateInvalidError{}); errors.As(why, &invalid) && invalid.Reason == x509.Expired {
		cert = invalid.Cert // perhaps one between the peer's and the authority's
		facts = append(facts, "expired", cert.NotAfter)
	}
	name, now := certificateName(cert), time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.refused, func(_ string, told time.Time) bool { return now.Sub(told) >= refusedEvery })
	if _, told := f.refused[name]; told || len(f.refused) >= refusedMost {
		return
	}
	f.refused[name] = now
	f.log.Warn("a peer's certificate is refused", append(facts, "certificate", name, "error", why)...)
}
