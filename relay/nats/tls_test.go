package nats

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/ganglion-es/ganglion/node/trust"
	"github.com/ganglion-es/ganglion/relay"
)

// certs makes an authority with certificates for localhost and for a client, and returns
// their folder.
func certs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if _, err := trust.MakeCerts(dir, []string{"localhost", "client"}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// files returns the files of a client, whose authority is in one folder and whose
// certificate in another.
func files(authority, client string) relay.TLSFiles {
	return relay.TLSFiles{CA: filepath.Join(authority, "ca.pem"), Cert: filepath.Join(client, "client.pem"), Key: filepath.Join(client, "client.key")}
}

// TestTLSWithClientCertificates has a server that wants a certificate of its clients, and
// a client whose files are replaced.
func TestTLSWithClientCertificates(t *testing.T) {
	t.Parallel()
	own, other := certs(t), certs(t)
	w := newWorld(t, func(o *server.Options) {
		secure, err := server.GenTLSConfig(&server.TLSConfigOpts{
			CertFile: filepath.Join(own, "localhost.pem"), KeyFile: filepath.Join(own, "localhost.key"), CaFile: filepath.Join(own, "ca.pem"), Verify: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		secure.MinVersion = tls.VersionTLS12
		o.TLS, o.TLSVerify, o.TLSConfig, o.TLSTimeout = true, true, secure, 60
	})
	host := fmt.Sprint("localhost:", w.options.Port)
	open := func(host string, files relay.TLSFiles) error {
		_, target, err := New(Config{URL: &url.URL{Scheme: "tls", Host: host}, Stream: "log", TLS: files})
		if err != nil {
			t.Fatal(err)
		}
		one := target()
		defer one.Close()
		ctx, cancel := context.WithTimeout(t.Context(), relay.DialTimeout)
		defer cancel()
		_, _, err = one.Open(ctx, "log")
		return err
	}
	for name, c := range map[string]struct {
		host  string
		files relay.TLSFiles
		want  string
	}{
		"another authority":           {host, files(other, own), "set ca-file to the authority that has signed the broker's certificate"},
		"authorities of the system":   {host, relay.TLSFiles{}, "set ca-file to the authority"},
		"another name":                {fmt.Sprint("127.0.0.1:", w.options.Port), files(own, own), "use a host name in url that the broker's certificate has"},
		"no certificate":              {host, relay.TLSFiles{CA: filepath.Join(own, "ca.pem")}, "the broker may refuse this client: set cert-file and key-file"},
		"a certificate of a stranger": {host, files(own, other), "the broker may refuse this client: set cert-file and key-file"},
	} {
		if err := open(c.host, c.files); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
	for _, name := range []string{"client.pem", "client.key"} {
		w.must(os.Rename(filepath.Join(own, name), filepath.Join(other, name)))
	}
	w.must(open(host, files(own, other)))
}
