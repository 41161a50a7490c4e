// Package endpoint checks the settings with which a broker is reached.
package endpoint

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/ganglion-es/ganglion/relay"
)

// Check checks a URL with one of two schemes, without and with TLS, and the files for TLS,
// and returns the password. The error lists everything that is wrong.
func Check(u *url.URL, password string, files relay.TLSFiles, plain, secure string) (string, error) {
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
	case u.Scheme == plain && files != relay.TLSFiles{}:
		problem("ca-file, cert-file and key-file are for TLS: write %s:// in the URL", secure)
	}
	if _, err := files.Read(); err != nil {
		errs = append(errs, err)
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
