package transport

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/ganglion-es/ganglion/proto/peer"
)

// certificate returns a self-signed certificate for 127.0.0.1.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	authorities := x509.NewCertPool()
	authorities.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, authorities
}

func TestMutualTLSServesOnlyClusterMembers(t *testing.T) {
	t.Parallel()
	own, authorities := certificate(t)
	strange, _ := certificate(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &commandsServer{streams: make(chan CommandsServer, 1)}
	g := NewServer(ServerConfig{TLS: &tls.Config{
		Certificates: []tls.Certificate{own}, ClientCAs: authorities, ClientAuth: tls.RequireAndVerifyClientCert,
	}})
	Register(g, s)
	var running sync.WaitGroup
	running.Go(func() { _ = g.Serve(l) })
	t.Cleanup(func() { g.Stop(); running.Wait() })

	for name, c := range map[string]struct {
		tls    *tls.Config
		served bool
	}{
		"a node":                  {&tls.Config{Certificates: []tls.Certificate{own}, RootCAs: authorities}, true},
		"one without certificate": {&tls.Config{RootCAs: authorities}, false},
		"a stranger":              {&tls.Config{Certificates: []tls.Certificate{strange}, RootCAs: authorities}, false},
		"one without TLS":         {nil, false},
	} {
		pool := NewPool(PoolConfig{TLS: c.tls})
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := pool.Commands(ctx, l.Addr().String(), "")
		if c.served {
			if err == nil {
				err = stream.Send(&peer.Requests{})
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
			} else {
				<-s.streams
			}
		} else {
			if err == nil {
				_, err = stream.Recv()
			}
			if CodeOf(err) != Unavailable {
				t.Errorf("%s was served: %v", name, err)
			}
		}
		cancel()
		pool.Close()
	}
	if len(s.streams) != 0 {
		t.Error("a stream of a stranger was accepted")
	}
}
