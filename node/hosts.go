package node

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/ganglion-es/ganglion/gateway"
)

// hostLogInterval is how often a rejected Host is logged.
const hostLogInterval = time.Minute

// isDevelopment reports whether clients need no authentication.
func (c Config) isDevelopment() bool { return c.Gateway && c.Auth == gateway.Development() }

// guardHost rejects requests for foreign hosts in development mode.
//
// Any site can make its own name resolve to 127.0.0.1 (DNS rebinding). The browser
// then treats this node as that site, and a node without authentication does what
// the site's page asks. The Host header still has the site's name. With
// authentication the page has no token, so any Host is served.
func (c Config) guardHost(next http.Handler, log *slog.Logger) http.Handler {
	if !c.isDevelopment() {
		return next
	}
	return c.onlyKnownHosts(next, log)
}

// onlyKnownHosts rejects requests for foreign hosts.
func (c Config) onlyKnownHosts(next http.Handler, log *slog.Logger) http.Handler {
	warning := rate.Sometimes{Interval: hostLogInterval}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hostAllowed(r.Host, c.Origins) {
			next.ServeHTTP(w, r)
			return
		}
		host := r.Host[:min(len(r.Host), 200)]
		warning.Do(func() {
			log.Warn("a request was rejected: in development mode the Host must be localhost, an IP address or one of Origins (--origins)",
				"host", host, "origins", c.Origins)
		})
		writeText(w, http.StatusForbidden, fmt.Sprintf("this node runs in development mode and does not serve the host %q: "+
			"use localhost or an IP address, or list the host in Origins (--origins)", host))
	})
}

// hostAllowed reports whether a Host header has a loopback name, an IP address or a
// host of origins, with any port. An empty one is allowed: only HTTP/1.0 clients omit
// it, and no browser does.
func hostAllowed(header string, origins []string) bool {
	header = strings.ToLower(header)
	host := header
	if h, _, err := net.SplitHostPort(header); err == nil {
		host = h
	}
	host = strings.TrimSuffix(host, ".")
	if host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return true
	}
	for _, pattern := range origins {
		pattern = strings.ToLower(pattern)
		if _, rest, ok := strings.Cut(pattern, "://"); ok {
			pattern = rest
		}
		for _, name := range []string{header, host} {
			if match, _ := path.Match(pattern, name); match {
				return true
			}
		}
	}
	return false
}
