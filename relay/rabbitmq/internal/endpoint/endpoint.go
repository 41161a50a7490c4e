// Package endpoint checks the settings with which a broker is reached.
package endpoint

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
)

// Check checks a URL with one of two schemes, without and with TLS, and returns the
// password. The error lists everything that is wrong.
func Check(u *url.URL, password, plain, secure string) (string, error) {
	var errs []error
	problem := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch {
	case u == nil || u.Hostname() == "" || u.Scheme != plain && u.Scheme != secure:
		problem("the URL of RabbitMQ is %s://USER@HOST:PORT/VHOST, or %s:// for TLS", plain, secure)
		return "", errors.Join(errs...)
	case u.RawQuery != "":
		problem("the URL has parameters, and RabbitMQ's has none: remove what follows ?")
	case strings.Contains(strings.TrimPrefix(u.EscapedPath(), "/"), "/"):
		problem("the virtual host of the URL has a /: write it as %%2F")
	}
	p, has := u.User.Password()
	switch {
	case has && password != "":
		problem("the password is in the URL and outside of it: use one place")
	case has:
		password = p
	case password == "" && User(u) == "guest":
		password = "guest"
	}
	return password, errors.Join(errs...)
}

// User returns the user of a URL.
func User(u *url.URL) string { return cmp.Or(u.User.Username(), "guest") }

// ReadRoots reads the authorities of the setting ca-file, nil if it is not set.
func ReadRoots(file string) (*tls.Config, error) {
	if file == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("ca-file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("ca-file: %s has no certificate in PEM", file)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

// ClientTLS returns the settings for a connection to the host of a URL, given settings or
// nil.
func ClientTLS(c *tls.Config, u *url.URL) *tls.Config {
	if c == nil {
		c = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	own := c.Clone()
	own.ServerName = u.Hostname()
	return own
}
