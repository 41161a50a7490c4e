package rabbitmq

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/ganglion-es/ganglion/eventstore/postgres/postgrestest/ports"
	"github.com/ganglion-es/ganglion/node/trust"
	"github.com/ganglion-es/ganglion/relay"
	"github.com/ganglion-es/ganglion/test/rabbitmqtest"
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

// secured starts a broker that wants certificates of the authority in a folder, and returns
// the port of TLS.
func secured(t *testing.T, dir string) (*rabbitmqtest.Server, int) {
	t.Helper()
	port, err := ports.Reserve(1)
	if err != nil {
		t.Fatal(err)
	}
	s, err := rabbitmqtest.Start(t.Context(), rabbitmqtest.Options{Settings: []string{
		fmt.Sprint("listeners.ssl.1 = 127.0.0.1:", port),
		"ssl_options.cacertfile = " + filepath.Join(dir, "ca.pem"), "ssl_options.certfile = " + filepath.Join(dir, "localhost.pem"),
		"ssl_options.keyfile = " + filepath.Join(dir, "localhost.key"), "ssl_options.verify = verify_peer", "ssl_options.fail_if_no_peer_cert = true",
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, port
}

// TestTLSWithClientCertificates has a broker that wants a certificate of its clients. A
// relay and an intake use one, and say what to do if TLS fails.
func TestTLSWithClientCertificates(t *testing.T) {
	t.Parallel()
	own, other := certs(t), certs(t)
	server, port := secured(t, own)
	w := newWorld(t, server)
	w.declare(nil, "#")
	secure := &url.URL{Scheme: "amqps", Host: fmt.Sprint("localhost:", port), Path: "/"}
	where, target, err := New(Config{URL: secure, Exchange: w.exchange, TLS: files(own, own)})
	w.must(err)
	w.commit("auction/1", "opened", "bid")
	w.run(relay.Relay{Name: "orders", Where: where, New: target})
	w.caughtUp()
	w.wantEach(w.take(), 2)

	w.admin(func(c *amqp.Channel) error {
		_, err := c.QueueDeclare("commands", true, false, false, false, nil)
		if err == nil {
			err = c.PublishWithContext(t.Context(), "", "commands", false, false, amqp.Publishing{MessageId: "k1"})
		}
		return err
	})
	_, source, err := NewIntake(IntakeConfig{URL: secure, Queue: "commands", TLS: files(own, own)})
	w.must(err)
	intake := source()
	defer intake.Close()
	w.must(intake.Open(t.Context(), 1))
	r := <-intake.Requests()
	w.must(intake.Refuse(t.Context(), r, nil))
	if r.Command.Key != "k1" && r.Wrong.Key != "k1" {
		t.Errorf("the message is %+v", r)
	}

	for name, c := range map[string]struct {
		host string
		tls  relay.TLSFiles
		want string
	}{
		"another authority":             {secure.Host, files(other, own), "set ca-file to the authority that has signed the broker's certificate"},
		"authorities of the system":     {secure.Host, relay.TLSFiles{}, "set ca-file to the authority"},
		"another name":                  {fmt.Sprint("127.0.0.1:", port), files(own, own), "use a host name in url that the broker's certificate has"},
		"no certificate":                {secure.Host, relay.TLSFiles{CA: filepath.Join(own, "ca.pem")}, "the broker may refuse this client: set cert-file and key-file to a certificate"},
		"a certificate of a stranger":   {secure.Host, files(own, other), "the broker may refuse this client: set cert-file and key-file to a certificate"},
		"a port that speaks no TLS":     {server.Address(), files(own, own), "use its port for TLS"},
		"a broker that cannot be found": {"localhost:1", files(own, own), "connection refused"},
	} {
		u := &url.URL{Scheme: "amqps", Host: c.host, Path: "/"}
		for what, err := range map[string]error{"relay": openRelay(t, u, c.tls), "intake": openIntake(t, u, c.tls)} {
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s of %s: got %v, want %s", name, what, err, c.want)
			}
		}
	}
}

func openRelay(t *testing.T, u *url.URL, files relay.TLSFiles) error {
	t.Helper()
	_, target, err := New(Config{URL: u, Exchange: "events", TLS: files})
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

func openIntake(t *testing.T, u *url.URL, files relay.TLSFiles) error {
	t.Helper()
	_, source, err := NewIntake(IntakeConfig{URL: u, Queue: "commands", TLS: files})
	if err != nil {
		t.Fatal(err)
	}
	one := source()
	defer one.Close()
	ctx, cancel := context.WithTimeout(t.Context(), relay.DialTimeout)
	defer cancel()
	return one.Open(ctx, 1)
}

// TestReplacedCertificatesAreUsed has a relay whose certificate the broker refuses until
// its files are replaced. The relay runs in the meantime.
func TestReplacedCertificatesAreUsed(t *testing.T) {
	t.Parallel()
	own, other := certs(t), certs(t)
	server, port := secured(t, own)
	w := newWorld(t, server)
	w.declare(nil, "#")
	w.commit("auction/1", "opened")
	where, target, err := New(Config{URL: &url.URL{Scheme: "amqps", Host: fmt.Sprint("localhost:", port), Path: "/"}, Exchange: w.exchange, TLS: files(own, other)})
	w.must(err)
	p, _ := w.run(relay.Relay{Name: "orders", Where: where, New: target})
	w.eventually("the broker refuses the relay", func() bool { return strings.Contains(p.Relays()[0].Broker.Waits, "the broker may refuse this client") })
	for _, name := range []string{"client.pem", "client.key"} {
		w.must(os.Rename(filepath.Join(own, name), filepath.Join(other, name)))
	}
	w.caughtUp()
	w.wantEach(w.take(), 1)
}

func TestFilesOfTLSAreChecked(t *testing.T) {
	t.Parallel()
	own := certs(t)
	for name, c := range map[string]struct {
		scheme string
		tls    relay.TLSFiles
		want   string
	}{
		"no TLS":       {"amqp", files(own, own), "ca-file, cert-file and key-file are for TLS: write amqps:// in the URL"},
		"no authority": {"amqps", relay.TLSFiles{CA: filepath.Join(own, "none.pem")}, "ca-file: open "},
		"a key as CA":  {"amqps", relay.TLSFiles{CA: filepath.Join(own, "ca.key")}, "ca.key has no certificate in PEM"},
		"no key":       {"amqps", relay.TLSFiles{Cert: filepath.Join(own, "client.pem")}, "cert-file and key-file belong together: set both, or none"},
		"another key":  {"amqps", relay.TLSFiles{Cert: filepath.Join(own, "client.pem"), Key: filepath.Join(own, "ca.key")}, "cert-file and key-file: tls: private key does not match public key"},
	} {
		_, _, err := New(Config{URL: &url.URL{Scheme: c.scheme, Host: "localhost"}, Exchange: "events", TLS: c.tls})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}
