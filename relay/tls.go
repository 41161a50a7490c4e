package relay

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
)

// TLSKeys are the settings of a Broker that [TLSOf] reads.
var TLSKeys = []string{"ca-file", "cert-file", "key-file"}

// TLSFiles are the files with which a broker is reached by TLS, in PEM. Each may be "".
type TLSFiles struct {
	CA   string // authorities of the broker's certificate; "" is for those of the system
	Cert string // certificate of the client, with its intermediate ones; it needs Key
	Key  string // private key of Cert
}

// TLSOf returns the files that the settings of a broker name.
func TLSOf(s Settings) TLSFiles {
	return TLSFiles{CA: s.Own["ca-file"], Cert: s.Own["cert-file"], Key: s.Own["key-file"]}
}

// Read reads the files. A broker reads them for each connection, so that replaced files
// are used from the next one on. The error says which file is wrong.
func (f TLSFiles) Read() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.CA != "" {
		raw, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("ca-file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(raw) {
			return nil, fmt.Errorf("ca-file: %s has no certificate in PEM", f.CA)
		}
	}
	if (f.Cert == "") != (f.Key == "") {
		return nil, errors.New("cert-file and key-file belong together: set both, or none")
	}
	if f.Cert != "" {
		own, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("cert-file and key-file: %w", err)
		}
		c.Certificates = []tls.Certificate{own}
	}
	return c, nil
}

// ExplainTLS adds to the error of a connection that uses TLS what to do.
func ExplainTLS(err error) error {
	var (
		authority x509.UnknownAuthorityError
		name      x509.HostnameError
		invalid   x509.CertificateInvalidError
		plain     tls.RecordHeaderError
	)
	do := ""
	switch {
	case errors.As(err, &authority):
		do = "set ca-file to the authority that has signed the broker's certificate"
	case errors.As(err, &name):
		do = "use a host name in url that the broker's certificate has"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		do = "replace the broker's certificate, or set this machine's clock"
	case errors.As(err, &plain):
		do = "the broker does not speak TLS at this port: use its port for TLS"
	case err != nil && endedByPeer(err.Error()):
		do = "the broker may refuse this client: set cert-file and key-file to a certificate that is valid, and whose authority the broker trusts"
	default:
		return err
	}
	return fmt.Errorf("%w: %s", err, do)
}

// endedByPeer reports whether an error says that the broker has ended a connection. With
// TLS 1.3 it refuses a certificate after the client's handshake, and its alert can be lost.
// Libraries keep the text of such errors alone.
func endedByPeer(text string) bool {
	for _, part := range []string{"remote error: tls:", "connection reset by peer", "broken pipe", "EOF"} {
		if strings.Contains(text, part) {
			return true
		}
	}
	return false
}
