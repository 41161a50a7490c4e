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

// hostWarnEvery bounds how often a refused Host is logged.
const hostWarnEvery = time.Minute

// isDevelopment reports whether clients need no proof of who they are.
func (c Config) isDevelopment() bool { return c.Gateway && c.Auth == gateway.Development() }

// guardHost refuses requests for hosts that a development node does not have.
//
// A page of any site can make its own name resolve to 127.0.0.1 (DNS
// rebinding). The browser then takes this node for that site, and a node
// without authentication does what the page asks. The Host header still has the
// site's name. With real authentication the page has no token, and any Host is
// served.
func (c Config) guardHost(next http.Handler, log *slog.Logger) http.Handler {
	if !c.isDevelopment() {
		return next
	}
	warning := rate.Sometimes{Interval: hostWarnEvery}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hostAllowed(r.Host, c.Origins) {
			next.ServeHTTP(w, r)
			return
		}
		host := r.Host[:min(len(r.Host), 200)]
		warning.Do(func() {
			log.Warn("a request was refused: in development mode the Host is localhost, an IP address or one of --origins",
				"host", host, "origins", c.Origins)
		})
		writeText(w, http.StatusForbidden, fmt.Sprintf("this node runs in development mode and does not serve the host %q: "+
			"use localhost or an IP address, or list the host in --origins", host))
	})
}

// hostAllowed reports whether a Host header names this machine: a loopback
// name, a literal address, or a host of origins, with any port. HTTP/1.0 needs
// no Host; browsers always send one.
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
