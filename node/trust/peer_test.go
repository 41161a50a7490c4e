package trust

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/gateway/watched"
	"github.com/ganglion-es/ganglion/proto/peer"
	"github.com/ganglion-es/ganglion/router/transport"
)

// lines keeps log lines.
type lines struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	news chan struct{} // closed at the next line; nil if nothing waits
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.news != nil {
		close(l.news)
		l.news = nil
	}
	return l.buf.Write(p)
}

// waitFor waits until a line has some text.
func (l *lines) waitFor(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		l.mu.Lock()
		if l.news == nil {
			l.news = make(chan struct{})
		}
		found, news := strings.Contains(l.buf.String(), text), l.news
		l.mu.Unlock()
		if found {
			return
		}
		select {
		case <-news:
		case <-deadline:
			t.Fatalf("no line has %q:\n%s", text, l)
		}
	}
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// certs makes the files of a cluster and returns those of node n1.
func certs(t *testing.T) PeerTLS {
	t.Helper()
	dir := t.TempDir()
	if _, err := MakeCerts(dir, []string{"n1"}); err != nil {
		t.Fatal(err)
	}
	return PeerTLS{Cert: filepath.Join(dir, "n1.pem"), Key: filepath.Join(dir, "n1.key"), CA: filepath.Join(dir, "ca.pem")}
}

// copyTo replaces the files of another PeerTLS, each atomically, as a careful operator
// would.
func (p PeerTLS) copyTo(t *testing.T, to PeerTLS) {
	t.Helper()
	for from, to := range map[string]string{p.Cert: to.Cert, p.Key: to.Key, p.CA: to.CA} {
		raw, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to+".new", raw, 0o600)
		}
		if err == nil {
			err = os.Rename(to+".new", to)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// domainNode serves an empty feed.
type domainNode struct{ transport.UnimplementedPeer }

func (domainNode) Feed(_ string, stream transport.Sender[peer.FeedBatch]) error {
	return stream.Send(&peer.FeedBatch{})
}

// serveLinks accepts links as a node with these files would.
func serveLinks(t *testing.T, files PeerTLS, log *slog.Logger) (addr string) {
	t.Helper()
	f, err := files.Load(log)
	if err != nil {
		t.Fatal(err)
	}
	return serveLinksWith(t, f)
}

func serveLinksWith(t *testing.T, f *PeerCredentials) (addr string) {
	t.Helper()
	g := transport.NewServer(transport.ServerConfig{TLS: f.Server()})
	transport.Register(g, domainNode{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = g.Serve(l) })
	t.Cleanup(func() { g.Stop(); serving.Wait() })
	return l.Addr().String()
}

// call connects and returns nil if the node answers.
func call(t *testing.T, addr string, client *tls.Config) error {
	t.Helper()
	pool := transport.NewPool(transport.PoolConfig{TLS: client})
	defer pool.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		stream, err := pool.Feed(ctx, addr, "n1")
		if err == nil {
			_, err = stream.Recv()
		}
		if ctx.Err() != nil {
			t.Fatalf("neither an answer nor a refusal: %v", err)
		}
		ranOut := err != nil && (strings.Contains(err.Error(), context.DeadlineExceeded.Error()) || strings.Contains(err.Error(), net.ErrClosed.Error()))
		if !ranOut { // a handshake may run out of time on a busy machine
			return err
		}
	}
}

// clientOf returns the TLS configuration of a calling node.
func clientOf(t *testing.T, files PeerTLS) *tls.Config {
	t.Helper()
	f, err := files.Load(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return f.Client()
}

func TestLinksAcceptOnlyNodesOfCluster(t *testing.T) {
	t.Parallel()
	ours, theirs := certs(t), certs(t)
	addr := serveLinks(t, ours, slog.New(slog.DiscardHandler))
	if err := call(t, addr, clientOf(t, ours)); err != nil {
		t.Errorf("a node of the cluster: %v", err)
	}

	// These clients accept any server, so only the node can refuse.
	trusting := func(pairs ...tls.Certificate) *tls.Config {
		return &tls.Config{InsecureSkipVerify: true, Certificates: pairs}
	}
	stranger, err := tls.LoadX509KeyPair(theirs.Cert, theirs.Key)
	if err != nil {
		t.Fatal(err)
	}
	for name, client := range map[string]*tls.Config{
		"without a certificate":          trusting(),
		"with another authority's":       trusting(stranger),
		"a node that trusts another one": clientOf(t, theirs),
		"without TLS":                    nil,
		"a node's certificate, TLS 1.2":  {InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, MinVersion: tls.VersionTLS12, Certificates: clientPair(t, ours)},
		"as another authority itself":    trusting(authorityPair(t, theirs)),
	} {
		if err := call(t, addr, client); err == nil {
			t.Errorf("%s: served", name)
		}
	}

	// A node must not call a server of another cluster either.
	elsewhere := serveLinks(t, theirs, slog.New(slog.DiscardHandler))
	if err := call(t, elsewhere, clientOf(t, ours)); err == nil {
		t.Error("a node called a server of another authority")
	}
}

// TestPeerPortRejectsMalformedInput sends malformed input to the port for links, and
// an oversized message with a node's certificate.
func TestPeerPortRejectsMalformedInput(t *testing.T) {
	t.Parallel()
	files := certs(t)
	addr := serveLinks(t, files, slog.New(slog.DiscardHandler))
	for name, c := range map[string]struct {
		text   string
		zeroes int64 // after the text
	}{
		"nothing":             {},
		"noise":               {text: strings.Repeat("\xf3\x07noise", 1000)},
		"HTTP/2 in the clear": {text: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
		"half a TLS record":   {text: "\x16\x03\x01\x40\x00"},
		"a message of 100 MB": {text: "\x16\x03\x01\xff\xff", zeroes: 100 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, err = io.WriteString(conn, c.text)
			if err == nil {
				_, err = io.CopyN(conn, zeroes{}, c.zeroes)
			}
			if err == nil && c.zeroes > 0 {
				t.Errorf("the node read all %d bytes", c.zeroes)
			}
			_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the node does not close the connection")
			}
		})
	}
	t.Run("a node's message of 16 MB", func(t *testing.T) {
		t.Parallel()
		pool := transport.NewPool(transport.PoolConfig{TLS: clientOf(t, files)})
		defer pool.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		req := &peer.SessionsRequest{KickClient: strings.Repeat("x", 16<<20)}
		if _, err := pool.Peer(addr).Sessions(ctx, req); transport.CodeOf(err) != transport.ResourceExhausted {
			t.Errorf("answered %v", err)
		}
		if _, err := pool.Feed(ctx, addr, "n1"); err != nil {
			t.Errorf("a valid message: %v", err)
		}
	})
}

// zeroes is an endless reader.
type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func clientPair(t *testing.T, files PeerTLS) []tls.Certificate {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	return []tls.Certificate{pair}
}

func authorityPair(t *testing.T, files PeerTLS) tls.Certificate {
	t.Helper()
	return clientPair(t, PeerTLS{Cert: files.CA, Key: strings.TrimSuffix(files.CA, ".pem") + ".key"})[0]
}

// TestCertificatesAreReplacedWhileNodesRun moves a running node to another authority
// and back, with invalid files in between.
func TestCertificatesAreReplacedWhileNodesRun(t *testing.T) {
	t.Parallel()
	first, second, files := certs(t), certs(t), certs(t)
	first.copyTo(t, files)
	logged := &lines{}
	addr := serveLinks(t, files, logged.logger())
	old, next := clientOf(t, first), clientOf(t, second)
	want := func(when string, client *tls.Config, served bool) {
		t.Helper()
		if err := call(t, addr, client); (err == nil) != served {
			t.Errorf("%s: %v", when, err)
		}
	}
	want("at first", old, true)
	want("at first, another cluster's node", next, false)

	second.copyTo(t, files)
	want("after the change", next, true)
	want("after the change, a node with old files", old, false)
	if strings.Contains(logged.String(), "WARN") {
		t.Errorf("a valid change caused a warning:\n%s", logged)
	}

	// Half-written and missing files, and those of another certificate.
	key, err := os.ReadFile(files.Key)
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func() error{
		"half a key": func() error { return os.WriteFile(files.Key, key[:len(key)/2], 0o600) },
		"no key":     func() error { return os.Remove(files.Key) },
		"another's key": func() error {
			return errors.Join(os.Remove(files.Key), os.Link(first.Key, files.Key))
		},
		"an empty authority": func() error {
			return os.WriteFile(files.CA, nil, 0o600)
		},
		"another's authority": func() error {
			raw, err := os.ReadFile(first.CA)
			if err != nil {
				return err
			}
			return os.WriteFile(files.CA, raw, 0o600)
		},
	} {
		before := strings.Count(logged.String(), "level=WARN")
		if err := damage(); err != nil {
			t.Fatal(name, err)
		}
		want(name, next, true)
		want(name+", a node with old files", old, false)
		if n := strings.Count(logged.String(), "level=WARN"); n != before+1 {
			t.Errorf("%s: %d warnings:\n%s", name, n-before, logged)
		}
		second.copyTo(t, files)
		want("repaired after "+name, next, true)
	}
	first.copyTo(t, files)
	want("back again", old, true)
}

// TestExpiredCertificateIsNamedAtBothEnds lets a certificate expire while its node
// runs, at the calling end and at the accepting end.
func TestExpiredCertificateIsNamedAtBothEnds(t *testing.T) {
	t.Parallel()
	good := certs(t)
	dir := filepath.Dir(good.CA)
	if _, err := MakeCerts(dir, []string{"n2"}); err != nil {
		t.Fatal(err)
	}
	authority, err := readAuthority(dir)
	if err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(-5 * time.Second)
	late, _, err := makeCert(t.TempDir(), "n2", &x509.Certificate{
		Subject: pkix.Name{CommonName: "n2"}, NotAfter: end, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, authority)
	if err != nil {
		t.Fatal(err)
	}
	// This is the state of a node that started while the certificate was valid.
	expired := func(log *slog.Logger) *PeerCredentials {
		f, err := PeerTLS{Cert: filepath.Join(dir, "n2.pem"), Key: filepath.Join(dir, "n2.key"), CA: good.CA}.Load(log)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"n2.pem", "n2.key", "ca.pem"} { // long ago, so they count as unchanged
			if err := os.Chtimes(filepath.Join(dir, name), time.Time{}, end.Add(-time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		infos, err := f.files.stat()
		if err != nil {
			t.Fatal(err)
		}
		f.read = watched.NewStamp(time.Now(), infos...)
		f.current, f.warned = &credentials{pair: *late, roots: f.current.roots, first: late.Leaf}, end.Add(-time.Second)
		return f
	}
	valid := func(log *slog.Logger) *PeerCredentials {
		f, err := good.Load(log)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	for name, c := range map[string]struct {
		caller, called func(*slog.Logger) *PeerCredentials
	}{"the node that calls": {expired, valid}, "the node that is called": {valid, expired}} {
		caller, called := &lines{}, &lines{}
		addr := serveLinksWith(t, c.called(called.logger()))
		client := c.caller(caller.logger()).Client()
		for range 2 {
			if err := call(t, addr, client); err == nil {
				t.Errorf("%s has an expired certificate and is accepted", name)
			}
		}
		expiredLog, otherLog := caller, called
		if name == "the node that is called" {
			expiredLog, otherLog = called, caller
		}
		at := "expired=" + late.Leaf.NotAfter.Format("2006-01-02T15:04:05")
		for _, want := range []struct {
			log  *lines
			text []string
		}{
			{expiredLog, []string{"this node's peer certificate has expired", "level=ERROR", "n2.pem", "CN=n2, serial", at}},
			{otherLog, []string{"a peer's certificate is refused", "level=WARN", "peer=127.0.0.1", "CN=n2, serial", at, "has expired or is not yet valid"}},
		} {
			want.log.waitFor(t, want.text[0]) // one end of a handshake fails before the other
			for _, text := range want.text {
				if n := strings.Count(want.log.String(), text); n != 1 {
					t.Errorf("%s: %q is logged %d times, want 1:\n%s", name, text, n, want.log)
				}
			}
		}
	}
}

func TestCertificateExpiresWithItsAuthority(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	end := time.Now().Add(48 * time.Hour).Truncate(time.Second)
	authority, _, err := makeCert(dir, "ca", &x509.Certificate{
		Subject: pkix.Name{CommonName: "short"}, NotAfter: end, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil)
	if err == nil {
		_, _, err = makeCert(dir, "n1", &x509.Certificate{Subject: pkix.Name{CommonName: "n1"}, NotAfter: end.Add(time.Hour)}, authority)
	}
	if err != nil {
		t.Fatal(err)
	}
	logged := &lines{}
	f, err := PeerTLS{Cert: filepath.Join(dir, "n1.pem"), Key: filepath.Join(dir, "n1.key"), CA: filepath.Join(dir, "ca.pem")}.Load(logged.logger())
	if err != nil {
		t.Fatal(err)
	}
	if got := f.now().first; !got.NotAfter.Equal(end) || !strings.Contains(logged.String(), `certificate="CN=short`) {
		t.Errorf("expires at %v, want %v:\n%s", got.NotAfter, end, logged)
	}
}

func TestBothAuthoritiesAreTrustedDuringAChange(t *testing.T) {
	t.Parallel()
	first, second := certs(t), certs(t)
	var both []byte
	for _, ca := range []string{first.CA, second.CA} {
		raw, err := os.ReadFile(ca)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, raw...)
	}
	if err := os.WriteFile(first.CA, both, 0o600); err != nil {
		t.Fatal(err)
	}
	addr := serveLinks(t, first, slog.New(slog.DiscardHandler))
	pair := clientPair(t, second)
	if err := call(t, addr, &tls.Config{InsecureSkipVerify: true, Certificates: pair}); err != nil {
		t.Errorf("a node with a certificate of the new authority: %v", err)
	}
}
