package ganglion

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
)

// PeerTLS has the PEM files with which nodes prove themselves to each other.
// Whoever has a certificate of the authority is a node of the cluster; names
// in certificates are not compared, since nodes come and go by address.
type PeerTLS struct {
	Cert, Key, CA string
}

func (p PeerTLS) set() bool { return p != PeerTLS{} }

// load makes the TLS configurations of the two ends of a link, nil without
// files.
func (p PeerTLS) load() (server, client *tls.Config, err error) {
	if !p.set() {
		return nil, nil, nil
	}
	if p.Cert == "" || p.Key == "" || p.CA == "" {
		return nil, nil, errors.New("--peer-tls-cert, --peer-tls-key and --peer-tls-ca go together")
	}
	pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
	if err != nil {
		return nil, nil, fmt.Errorf("the node's certificate: %w", err)
	}
	pem, err := os.ReadFile(p.CA)
	if err != nil {
		return nil, nil, fmt.Errorf("the certificate authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, nil, fmt.Errorf("the certificate authority: %s has no certificate", p.CA)
	}
	server = &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots,
	}
	client = &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{pair},
		// The name is not compared; the chain is, below.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			between := x509.NewCertPool()
			for _, c := range state.PeerCertificates[1:] {
				between.AddCert(c)
			}
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
				Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})
			return err
		},
	}
	return server, client, nil
}
